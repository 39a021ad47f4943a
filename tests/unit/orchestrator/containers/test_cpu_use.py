"""Counters of control groups as kernels print them."""

import os
import subprocess

from orchestrator.containers.cpu_use import CPU_SCRIPT, CpuCounters, parse_cpu_counters

FIRST_VERSION = "nr_periods 120\nnr_throttled 7\nthrottled_time 345678901\n"
SECOND_VERSION = """usage_usec 5000000
user_usec 4000000
system_usec 1000000
nr_periods 120
nr_throttled 7
throttled_usec 345678
nr_bursts 0
burst_usec 0
some avg10=1.25 avg60=0.40 avg300=0.10 total=9876543
full avg10=0.00 avg60=0.00 avg300=0.00 total=12
"""


def test_both_versions_are_read_and_what_is_not_told_is_left_out() -> None:
    without_quota = "usage_usec 5000000\nuser_usec 4000000\nsystem_usec 1000000\n"
    printed = f"@@ 7\n{FIRST_VERSION}@@ 8\n{SECOND_VERSION}@@ 9\n{without_quota}@@ 10\n"
    assert parse_cpu_counters(printed) == {
        7: CpuCounters(120, 7, 345_678_901, None),
        8: CpuCounters(120, 7, 345_678_000, 9_876_543_000),
    }
    assert parse_cpu_counters("") == {}


def test_the_script_prints_what_is_there_and_does_not_mind_what_is_not() -> None:
    """Of this process, in the place of a container's, and of one that does not exist."""
    done = subprocess.run(
        ["sh", "-c", CPU_SCRIPT, "cpu", str(os.getpid()), "4194305"], capture_output=True, text=True, check=True
    )
    assert done.stderr == ""
    assert done.stdout.splitlines()[0] == f"@@ {os.getpid()}"
    assert done.stdout.splitlines()[-1] == "@@ 4194305"
    assert parse_cpu_counters(done.stdout).keys() <= {os.getpid()}


def test_what_came_since() -> None:
    before, after = CpuCounters(10, 1, 1_000, 5_000), CpuCounters(30, 4, 8_000, 6_000)
    assert after.since(before) == CpuCounters(20, 3, 7_000, 1_000)
    assert before.since(after) == before  # started again in between
    assert CpuCounters(30, 4, 8_000, None).since(before).waited_ns is None
