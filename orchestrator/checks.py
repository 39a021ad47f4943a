"""Checks of a run and their tolerances. Pure."""

from dataclasses import dataclass
from typing import Any, Final, TypeAlias

JsonObject: TypeAlias = dict[str, Any]


@dataclass(frozen=True, slots=True)
class Tolerances:
    """Tolerances of the checks: a run within all of them is called faithful.

    Attributes:
        rate_percent: Deviation of a link's goodput. The papers that the testbed reproduces tell bandwidths to two
            digits; what follows from 3 % of bandwidth is below the spread between seeds.
        rtt_ms, rtt_percent: Deviation of the median round trip. 1 ms is the least latency that presets use and
            what a wake-up of a busy host costs; 2 % is for long paths, where it is below any jitter.
        rtt_p99_ms: How much longer than requested one round trip in a hundred may take, besides ``rtt_percent``: a
            slice of the kernel's scheduler.
        kernel_rtt_percent: Deviation of the median round trip where the kernel adds latency, if that is more than
            ``rtt_ms``.
        receiver_rtt_ms: The same where the kernel shapes rates and receivers add latency: their timers and the kernel's
            are both late.
        dropped_percent: Packets that a queue dropped though no loss was asked for, in percent of its packets; one is
            always allowed. Each costs a message a round trip.
        throttled_percent: Time for which a node had used up its share of processors, in percent of the run's; as
            ``overrun_percent``.
        overrun_percent: Time by which training exceeded its declared time, in percent of that. A node that is 1 %
            slower than declared falls a round behind in a hundred.
        late_ms: How late an arrival may be handed over, or a change of capacity be made (99th percentiles, the worst
            of fewer than 100 changes); as ``rtt_p99_ms``, and a few percent of what a fragment takes on the links of
            the presets.
        fault_late_ms: How late a node may go down, come back, stand still or go on as planned, the worst of all: a few
            local steps, and below what a crash or a pause lasts that anybody plans.
        late_starts_percent: Transfers whose start was told so late that the link emulator could not make up for it,
            in percent of all; one is always allowed.
        percentile_samples: Below so many arrivals, a node's 99th percentile is a single message, and counts only if
            no node has more.
    """

    rate_percent: float = 3.0
    rtt_ms: float = 1.0
    rtt_percent: float = 2.0
    rtt_p99_ms: float = 5.0
    kernel_rtt_percent: float = 3.0
    receiver_rtt_ms: float = 2.0
    dropped_percent: float = 0.1
    throttled_percent: float = 1.0
    overrun_percent: float = 1.0
    late_ms: float = 5.0
    fault_late_ms: float = 50.0
    late_starts_percent: float = 0.1
    percentile_samples: int = 100


TOLERANCES: Final = Tolerances()


@dataclass(frozen=True, slots=True)
class Check:
    """One thing that was requested, and what became of it.

    Attributes:
        name: What was compared.
        requested: What it should be; of an upper bound, the bound.
        achieved: What it was; None: it could not be measured, which is a failure.
        unit: Of both.
        tolerance: How far apart they may be, in words.
        ok: Whether they are not further apart.
        note: Which of many was the worst, and how many there are; may be empty.
    """

    name: str
    requested: float
    achieved: float | None
    unit: str
    tolerance: str
    ok: bool
    note: str = ""

    def to_json(self) -> JsonObject:
        """Return the content of ``fidelity.json``, in a fixed order."""
        return {name: getattr(self, name) for name in self.__slots__}


def format_figure(value: float) -> str:
    """A number as people read it: whole and large ones without decimals, others to four digits."""
    return f"{value:,.0f}" if value % 1 == 0 or abs(value) >= 10_000 else f"{value:.4g}"
