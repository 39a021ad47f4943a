"""Traces as files: which rows they give, and that every mistake names its line."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from node.core.errors import ConfigError
from orchestrator.experiment.trace_files import OPPORTUNITY_BYTES, TraceRow, read_csv, read_mahimahi

FEW = st.lists(st.integers(0, 3_000), min_size=1, max_size=200).map(sorted).filter(lambda instants: instants[-1] > 0)


def test_a_csv_file_may_have_its_columns_in_any_order() -> None:
    text = 'time_s,"loss_percent", bandwidth_mbps\n0,1,2\n\n"0.5", 0 ,0\n'
    assert read_csv(text, place="t.csv") == [TraceRow(0, 2, None, 1), TraceRow(0.5, 0, None, 0)]
    assert read_csv("time_s,latency_ms\n3,40\n", place="t.csv") == [TraceRow(3, latency_ms=40)]


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "1: header=: must be time_s and one or more of bandwidth_mbps, latency_ms, loss_percent"),
        ("time_s\n0\n", "1: header=time_s: must be time_s and one or more of"),
        ("bandwidth_mbps,time_s\n0,1\n", "1: header=bandwidth_mbps,time_s: must be time_s and"),
        ("time_s,jitter_ms\n0,1\n", "1: header=time_s,jitter_ms: must be time_s and"),
        ("time_s,latency_ms,latency_ms\n0,1,1\n", "1: header=time_s,latency_ms,latency_ms: must name a column once"),
        ("time_s,latency_ms\n", " must have at least one row"),
        ("time_s,latency_ms\n0\n", "2: row=0: must be two numbers"),
        ("time_s,latency_ms,loss_percent\n0,1\n", "2: row=0,1: must be three numbers"),
        ("time_s,bandwidth_mbps,latency_ms,loss_percent\n0,1,2,x\n", "2: row=0,1,2,x: must be four numbers"),
        ("time_s,latency_ms\n0,-1\n", "2: latency_ms=-1.0: must be a number >= 0"),
        ("time_s,latency_ms\n0,1e10\n", "2: latency_ms=10000000000.0: must be a number >= 0, at most 1e+09"),
        ("time_s,loss_percent\n0,100\n", "2: loss_percent=100.0: must be a number >= 0 and below 100"),
        ("time_s,loss_percent\n0,nan\n", "2: loss_percent=nan: must be a number >= 0 and below 100"),
        ("time_s,latency_ms\n1,1\n0,1\n", "3: time_s=0.0: must be above the row before, 1.0"),
        ("time_s,latency_ms\n" + "0,1\n" * 200_001, " must have at most 200,000 rows"),
    ],
    ids=lambda part: part[:40],
)
def test_a_wrong_csv_file_names_file_and_line(text: str, message: str) -> None:
    with pytest.raises(ConfigError) as caught:
        read_csv(text, place="t.csv")
    assert str(caught.value).startswith(f"t.csv:{message}")
    assert len(str(caught.value)) < 200


def test_opportunities_become_the_bandwidth_of_intervals() -> None:
    """Three packets by 10 ms, none by 20 ms, and two in the 5 ms that are left."""
    rows = read_mahimahi("0\n1\n10\n25\n25\n", 10, place="t")
    packet_mbit = OPPORTUNITY_BYTES * 8 / 1e6
    assert [row.time_s for row in rows] == [0, 0.01, 0.02, 0.025]
    assert [row.bandwidth_mbps for row in rows[:-1]] == pytest.approx(
        [3 * packet_mbit / 0.01, 0, 2 * packet_mbit / 0.005]
    )
    assert all(row.latency_ms is None and row.loss_percent is None for row in rows)


def test_a_constant_trace_is_a_constant_rate() -> None:
    """One packet a millisecond is 12.032 Mbit/s, whatever the interval."""
    text = "".join(f"{instant}\n" for instant in range(1, 1_001))
    for interval_ms in (1, 7, 100, 5_000):
        rows = read_mahimahi(text, interval_ms, place="t")
        assert {round(row.bandwidth_mbps or 0, 9) for row in rows} == {12.032}
        assert rows[-1].time_s == 1


@given(instants=FEW, interval_ms=st.integers(1, 4_000))
def test_a_period_delivers_all_its_opportunities(instants: list[int], interval_ms: int) -> None:
    rows = read_mahimahi("".join(f"{instant}\n" for instant in instants), interval_ms, place="t")
    times = np.array([row.time_s for row in rows])
    mbps = np.array([row.bandwidth_mbps for row in rows])
    assert times[0] == 0
    assert times[-1] == instants[-1] / 1e3
    assert (np.diff(times) > 0).all()
    assert float(np.diff(times) @ mbps[:-1]) * 1e6 / 8 == pytest.approx(len(instants) * OPPORTUNITY_BYTES)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "1: line=: must be a whole number of milliseconds"),
        ("1\n\n2\n", "2: line=: must be a whole number of milliseconds"),
        ("1\n1.5\n", "2: line=1.5: must be a whole number"),
        ("1\n-2\n", "2: line=-2: must be a whole number"),
        ("1\n1_0\n", "2: line=1_0: must be a whole number"),
        ("5\n4\n", "2: line=4: must be at least the line before, 5"),
        ("0\n0\n", "2: line=0: must be above 0, as the last line is the period"),
        (f"1\n{'9' * 5000}\n", "2: line=9999"),
        ("1\n1000000000001\n", "2: line=1000000000001: must be at most 1000000000000 ms"),
        ("1000000000\n", " lasts 1,000,000,000 ms, which are 10,000,000 intervals of 100 ms: must be below 200,000"),
    ],
    ids=lambda part: part[:40],
)
def test_a_wrong_packet_delivery_trace_names_file_and_line(text: str, message: str) -> None:
    with pytest.raises(ConfigError) as caught:
        read_mahimahi(text, 100, place="t")
    assert str(caught.value).startswith(f"t:{message}")
    assert len(str(caught.value)) < 200
