"""The wire: how messages become bytes and how bytes reach a peer. The room of gRPC and protobuf.

``codec``, ``window``, ``delay`` and ``control_values`` need neither of them and can be imported without their being
loaded. Of the orchestrator, ``orchestrator.runs.control_server`` alone uses them: it is the other end of ``control``.
"""

import os

# gRPC writes what it finds remarkable to standard error by itself: a peer that leaves, a port that is taken. Nodes log
# such things, in words. It reads this when it is loaded.
os.environ.setdefault("GRPC_VERBOSITY", "NONE")

# The thread that waits for gRPC's events also does its reading, as before gRPC had an event engine, instead of being
# woken by a pool of threads that does: half of the context switches and a seventh of the CPU time of a message go
# (tests/benchmarks/bench_stream.py). A release that does not know these names ignores them.
os.environ.setdefault("GRPC_EXPERIMENTS", "-event_engine_client,-event_engine_listener")

# Whoever forks here forks processes that make gRPC their own, or do without it. What gRPC does by itself at a fork,
# starting its threads anew in the child, is in the way of both.
os.environ.setdefault("GRPC_ENABLE_FORK_SUPPORT", "0")
