"""The bounds and policies by which nodes are supervised: derived from the plan, before anything runs. Pure.

Every wait of :mod:`orchestrator.runs.supervision` takes its limit from here.
"""

from dataclasses import dataclass

import numpy as np

from node.core.compute import ComputePlan
from node.core.link_bounds import loss_max, rate_bounds, round_trip_ns_max
from node.core.links import NetworkPlan
from node.core.units import NS_PER_S, mbps_to_bytes_per_ns, ns_to_s, s_to_ns
from node.metrics import LAST_SCRAPE_S
from orchestrator.experiment.plan import Plan
from orchestrator.experiment.schedule.fates import fates_of, longest_pause_ns

START_A_NODE_S = {False: 1.0, True: 15.0}
"""Time that each node adds to the limit until all are ready, real time, by whether it starts fresh. Forked nodes load
nothing, but share the cores; fresh ones load torch and the data, which takes seconds of a core."""

START_LEAD_S = (0.3, 0.01)
"""Real time from telling the common start to the start: at least, and for each node."""

MEASURE_REAL_S = 8.0
"""Real time that the measurement of the links may take, where that is enough for :data:`MEASURE_TESTBED_S`."""

MEASURE_TESTBED_S = (0.4, 2.0)
"""The least and the most testbed time of the measurement."""

HAND_OVER_S = 20.0
"""Real time that nodes have for their last snapshot and records, beyond what the bytes take."""

HAND_OVER_BYTES_PER_S = 20e6
RECORD_BYTES = 250
"""Size of the record of one message, at most."""

CERTIFIED_S = (86_400.0, 30 * 86_400.0)
"""Real time for which certificates are valid beyond the planned end, and where only rounds end the run."""

STALL_S = 60.0
"""Real time without any progress after which a run has come to rest, beyond what its slowest step takes."""


@dataclass(frozen=True, slots=True)
class Rules:
    """Everything that the supervisor has to know of an experiment. Pure; see :func:`rules_of`.

    Attributes:
        num_nodes: Nodes of the run.
        dilation: Real seconds a testbed second.
        begin_ns: Testbed time at which this part begins.
        end_ns: When the experiment ends, testbed time; None if only rounds end it.
        start_timeout_s: Real time until all nodes must be ready.
        block_s: Longest block of local steps of any node, testbed seconds.
        round_trip_s: Longest round trip between two nodes, testbed seconds.
        transfer_s: Longest transfer of a whole model to every node, testbed seconds, where the slowest moves at all.
        model_bytes: Bytes of the models of all nodes.
        death_fails: The run fails when a node dies.
        death_reason: Why, in words that end the message; empty if the experiment says so.
        rounds: How many rounds a node may do; None for no limit.
        last_change_ns: When a capacity or a partition changes for the last time, testbed time: a transfer that is
            parked until then may still move. -1 where none changes.
        last_pause_ns: When the speed of a node that stands still for a while changes for the last time: it goes on at
            the latest then. -1 where none stands still.
        links: The links after their last change, which tell what will never move; None: all will.
        nodes_go_down: Whether nodes go down as planned, so that what they counted is in several lives.
        pause_s: For how long any node stands still on purpose at a stretch, at most, testbed seconds.
        last_scrape_s: Real time for which a node that has handed over all may wait for whoever scrapes its metrics.
    """

    num_nodes: int
    dilation: float
    begin_ns: int
    end_ns: int | None
    start_timeout_s: float
    block_s: float
    round_trip_s: float
    transfer_s: float
    model_bytes: int
    death_fails: bool
    death_reason: str = ""
    rounds: int | None = None
    last_change_ns: int = -1
    last_pause_ns: int = -1
    links: NetworkPlan | None = None
    nodes_go_down: bool = False
    pause_s: float = 0.0
    last_scrape_s: float = 0.0

    @property
    def measure_s(self) -> float:
        """Duration of the measurement of the links, testbed seconds."""
        least, most = MEASURE_TESTBED_S
        return min(most, max(least, MEASURE_REAL_S / self.dilation))

    @property
    def measured_within_s(self) -> float:
        """Real time until all nodes must have told their measurement: probes come back and a block ends first."""
        # On the kernel's links a message and a burst are waited for besides, each for twice its time.
        probes_s = 1.5 * self.measure_s + 0.3
        return self.dilation * (probes_s + 7 * self.round_trip_s + 2 * self.block_s) + 30.0

    @property
    def start_lead_ns(self) -> int:
        """Real time from the command to the common start."""
        least, each = START_LEAD_S
        return s_to_ns(least + each * self.num_nodes)

    @property
    def certified_s(self) -> float:
        """Real time for which certificates must be valid from now on: streams are opened until the end."""
        beyond, without_end = CERTIFIED_S
        if self.end_ns is None:
            return without_end
        return beyond + self.start_timeout_s + self.dilation * ns_to_s(self.end_ns - self.begin_ns)

    @property
    def stalled_after_s(self) -> float:
        """Real time without progress, after the last change, after which every node must be waiting for another one."""
        return STALL_S + self.dilation * (2 * (self.block_s + self.transfer_s) + self.round_trip_s)

    def hand_over_s(self, messages: int) -> float:
        """Real time that nodes have to hand over their models and the records of so many messages."""
        return HAND_OVER_S + (2 * self.model_bytes + RECORD_BYTES * messages) / HAND_OVER_BYTES_PER_S


def rules_of(plan: Plan, *, num_params: int, dilation: float, begin_ns: int) -> Rules:
    """Derive the supervisor's rules from a plan."""
    config = plan.config
    kind, policy = config.algorithm.kind, config.real_nodes.on_node_death
    waits = plan.algorithm.needs_every_message and not plan.algorithm.goes_on_without_peers
    last_change_ns = max((time_ns for time_ns, _ in plan.network.changes), default=-1)
    speeds = (steps for steps in plan.compute.speeds.values() if 0.0 in (steps.first, *steps.values))
    return Rules(
        num_nodes=config.nodes,
        dilation=dilation,
        begin_ns=begin_ns,
        end_ns=plan.end_ns,
        start_timeout_s=config.real_nodes.start_timeout_s
        + START_A_NODE_S[config.real_nodes.start_fresh] * config.nodes,
        block_s=_longest_step_s(plan.compute) * config.algorithm.local_steps,
        round_trip_s=ns_to_s(int(np.max(round_trip_ns_max(plan.network)))),
        transfer_s=config.nodes * _slowest_transfer_s(plan.network, 4 * num_params),
        model_bytes=4 * num_params * config.nodes,
        death_fails=policy == "fail" or (policy == "auto" and waits),
        death_reason=f"{kind} waits for every message" if waits else "",
        rounds=config.stop.rounds,
        last_change_ns=last_change_ns,
        last_pause_ns=max((steps.times_ns[-1] for steps in speeds if steps.times_ns), default=-1),
        links=plan.network.at_time(last_change_ns),
        nodes_go_down=any(span.kind == "down" for span in plan.schedule.nodes),
        pause_s=ns_to_s(longest_pause_ns(fates_of(plan.schedule, begin_ns, plan.end_ns).values(), plan.end_ns)),
        last_scrape_s=LAST_SCRAPE_S if config.observe.metrics else 0.0,
    )


def _longest_step_s(compute: ComputePlan) -> float:
    """Compute how long a local step takes at the slowest speed of any node at which it moves at all."""
    longest_ns = 0.0
    for node, step_ns in enumerate(compute.step_ns):
        steps = compute.speeds.get(node)
        speeds = (1.0,) if steps is None else (steps.first, *steps.values)
        longest_ns = max(longest_ns, step_ns / min((speed for speed in speeds if speed > 0), default=1.0))
    return longest_ns / NS_PER_S


def _slowest_transfer_s(network: NetworkPlan, size: int) -> float:
    """Compute how long ``size`` bytes take on the slowest link that moves at all, at its slowest, testbed seconds."""
    slowest_mbps = rate_bounds(network, 0).slowest_mbps
    if slowest_mbps is None:
        return 0.0
    # What is lost is sent again: on average a packet goes out 1 / (1 - loss) times.
    return size / mbps_to_bytes_per_ns(slowest_mbps) / NS_PER_S / (1 - loss_max(network))
