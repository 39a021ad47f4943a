"""The operating system's part of a node: its clock, its processes, waiting to the microsecond."""
