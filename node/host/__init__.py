"""What the operating system gives a node: its clock, its place among processes, waiting to the microsecond."""
