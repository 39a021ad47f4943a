"""One real node: its process, the driver that executes its algorithm's effects, and what it measures and records."""
