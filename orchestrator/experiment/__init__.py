"""The experiment file: its declarations, how it is read, and the plan that it becomes. Pure but for reading files."""
