"""Named random streams: one independent generator per (seed, node, purpose).

A stream never depends on how often another one was used, so adding a draw in one place does not change
results elsewhere.
"""

import zlib

import numpy as np

EVERYONE = 0xFFFF_FFFF
"""The ``node`` of streams that all nodes share, such as the fragment plan's."""


def stream(seed: int, purpose: str, node: int = EVERYONE, index: int = 0) -> np.random.Generator:
    """A generator for one purpose.

    Args:
        seed: The experiment's seed, >= 0.
        purpose: A short name such as ``"recipients"``; different purposes are independent.
        node: The node that owns the stream, or :data:`EVERYONE`.
        index: A further key, such as an epoch.

    Returns:
        A fresh generator; the same arguments always give the same stream.
    """
    key = (node, zlib.crc32(purpose.encode()), index)
    return np.random.Generator(np.random.PCG64(np.random.SeedSequence(seed, spawn_key=key)))
