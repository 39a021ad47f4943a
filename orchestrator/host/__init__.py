"""This host: what it can do, how fast it is, and what a run depends on of it."""
