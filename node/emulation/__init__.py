"""Links between real processes: the simulator's fluid network run in real time by a process of its own.

Only rates are emulated here: the emulator says when the last byte of a transfer has left. Latency, jitter and
loss are drawn by the sender. No gRPC and no torch in this package.
"""
