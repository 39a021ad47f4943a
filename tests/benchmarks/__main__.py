"""``make bench``: every benchmark but the science figures, each in a process of its own."""

import subprocess
import sys

BENCHMARKS = (
    "bench_events",
    "bench_network",
    "bench_schedule",
    "bench_codec",
    "bench_memory",
    "bench_training",
    "bench_stream",
    "bench_emulation",
    "bench_host",
    "bench_metrics",
    "bench_processes",
)


def main() -> int:
    """Run all; the exit code says whether one failed."""
    codes = [subprocess.call([sys.executable, "-m", f"tests.benchmarks.{name}"]) for name in BENCHMARKS]
    return max(codes)


if __name__ == "__main__":
    sys.exit(main())
