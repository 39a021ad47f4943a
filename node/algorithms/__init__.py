"""Algorithms as pure state machines, one file each. ``registry`` is the written-out table of them."""
