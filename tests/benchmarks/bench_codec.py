"""Print what one frame costs: ``python -m tests.benchmarks.bench_codec [values]``.

The fastest of many repetitions, so that a busy machine changes little. A fragment of 9,000 values is 36 kB, about
that of the small network for CIFAR-10 at a fragment fraction of a tenth. Aim: decode in less than 15 us with
checksum and the test for finite values. The checksum alone is most of it.
"""

import sys
import timeit
import zlib
from collections.abc import Callable

import numpy as np

from node.core.messages import frozen
from node.core.types import NodeId
from node.core.wire_values import WireDtype
from node.transport.frames import WireContext, decode, encode
from tests.messages import CARRIES, Kind, make_message

PLAN_ID = 7


def microseconds(step: Callable[[], object]) -> float:
    """The fastest of 40 repetitions of 200 calls."""
    return min(timeit.repeat(step, number=200, repeat=40)) / 200 * 1e6


def main() -> None:
    """Measure and print."""
    size = int(sys.argv[1]) if len(sys.argv) > 1 else 9_000
    values = frozen(np.random.default_rng(0).standard_normal(size, dtype=np.float32))
    message = make_message(Kind.FRAGMENT, 3, values, 2)
    senders = frozenset(NodeId(node) for node in range(60))
    for dtype in WireDtype:
        context = WireContext(PLAN_ID, 10 * size, (size,) * 10, senders, CARRIES, dtype=dtype)
        frame = encode(message, NodeId(5), PLAN_ID, dtype)
        encoding = microseconds(lambda dtype=dtype: encode(message, NodeId(5), PLAN_ID, dtype))  # type: ignore[misc]
        decoding = microseconds(lambda frame=frame, context=context: decode(frame, expected=context))  # type: ignore[misc]
        checksum = microseconds(lambda frame=frame: zlib.crc32(frame))  # type: ignore[misc]
        print(
            f"{dtype.value:9} {len(frame):8,d} bytes  encode {encoding:6.1f} us  decode {decoding:6.1f} us"
            f"  of each, the checksum {checksum:5.1f} us"
        )


if __name__ == "__main__":
    main()
