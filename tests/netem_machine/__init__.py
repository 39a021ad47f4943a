"""A virtual machine whose kernel has netem, for hosts whose kernel has none: see README.md."""
