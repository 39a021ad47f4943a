"""From a plan to the description of every node: pure, without data, torch or a network."""

from collections.abc import Sequence
from dataclasses import dataclass, replace

from node.config import Beginning, NodeAlgorithm, NodeConfig
from node.core.link_bounds import RateBounds, rate_bounds
from node.core.types import IndexVector, NodeId
from node.core.units import s_to_ns
from node.host.clock import Clock
from node.host.credentials import Credentials
from orchestrator.experiment.plan import Plan
from orchestrator.experiment.schedule.fates import fates_of, first_down_ns, longest_pause_ns, pauses_of


@dataclass(frozen=True)
class RunPart:
    """One part of a run: what its nodes must know of it besides the plan.

    Attributes:
        run_id: The run's name.
        clock: The link emulator's time, and the time dilation.
        begin_ns: Testbed time at which the part begins, 0 or where an earlier part ended.
        start_timeout_s: Real time that the start may take.
        tensor_sizes: Scalars in each tensor of the model, in state-dict order.
        orchestrator: Where the orchestrator serves, host:port.
        host: Address on which the nodes listen for each other.
        data_root: Folder with data sets, as the nodes see it; None for data that need no files.
        credentials: Each node's certificate and key; None for traffic in plain text.
    """

    run_id: str
    clock: Clock
    begin_ns: int
    start_timeout_s: float
    tensor_sizes: tuple[int, ...]
    orchestrator: str
    host: str
    data_root: str | None
    credentials: Sequence[Credentials] | None


def node_configs(
    plan: Plan, part: RunPart, train_indices: Sequence[IndexVector], beginnings: Sequence[Beginning]
) -> list[NodeConfig]:
    """Describe every node of one part of a run.

    Args:
        plan: The experiment.
        part: The part.
        train_indices: Each node's samples: positions in the training set.
        beginnings: Where each node begins.

    Returns:
        The nodes, in order. They share the values that are the same for all. Where their links are emulated is for
        whoever starts the emulator to add; by which host each is reached, for whoever makes that host.
    """
    # Step 1: what all nodes share, made once, so that a thousand descriptions do not hold a thousand networks.
    config = plan.config
    base = config.processes.base_port
    network = plan.network.at_time(part.begin_ns)
    fates = fates_of(plan.schedule, part.begin_ns, plan.end_ns)
    pause_ns = longest_pause_ns(fates.values(), plan.end_ns)
    pauses = pauses_of(fates)
    algorithm = NodeAlgorithm(
        kind=config.algorithm.kind, local_steps=config.algorithm.local_steps, parameters=plan.algorithm
    )
    # Step 2: a description for each node; its own are its number, its port, its samples and where it begins.
    return [
        NodeConfig(
            run_id=part.run_id,
            node=NodeId(node),
            seed=config.seed,
            algorithm=algorithm,
            tensor_sizes=part.tensor_sizes,
            learning=config.learning,
            emulator_clock=part.clock,
            orchestrator=part.orchestrator,
            emulator=None,
            data_root=part.data_root,
            host=part.host,
            port=0 if base is None else base + node,
            advertised=None,
            delays_arrivals=False,
            evaluation_interval_ns=s_to_ns(config.evaluation.interval_s),
            evaluate_after_training=config.evaluation.model == "after_training",
            end_ns=plan.end_ns,
            max_rounds=config.stop.rounds,
            keep_messages=config.output.messages,
            start_timeout_s=part.start_timeout_s,
            metrics_host=part.host if config.observe.metrics else None,
            peer_labels=config.observe.labels_peers(config.nodes),
            begin_ns=part.begin_ns,
            down_ns=first_down_ns(fates.get(NodeId(node), ())),
            pauses=pauses,
            rates=_with_pause(rate_bounds(network, node, plan.end_ns), pause_ns),
            topology=plan.topology,
            network=network,
            compute=plan.compute,
            train_indices=train_indices[node],
            beginning=beginnings[node],
            credentials=None if part.credentials is None else part.credentials[node],
        )
        for node in range(config.nodes)
    ]


def _with_pause(rates: RateBounds, pause_ns: int) -> RateBounds:
    """Add the time for which a receiver may stand still to that for which a path may."""
    return rates if rates.standstill_ns is None else replace(rates, standstill_ns=rates.standstill_ns + pause_ns)
