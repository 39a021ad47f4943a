"""The pure core: values and functions. Standard library and numpy only; no clock, no I/O, no logging."""
