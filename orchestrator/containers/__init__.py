"""Containers: the Docker engine, the images of nodes, and all that a run has in the engine.

Only ``engine`` imports the Docker SDK. Everything else sees the engine through ``interface``, as plain values.
"""
