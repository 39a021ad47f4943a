"""An orchestrator that makes containers and is killed: ``python -m tests.integration.orphan RUN IMAGE NODES LOGS``."""

import signal
import sys
from pathlib import Path

from orchestrator.containers.engine import connect
from orchestrator.containers.group import ContainerGroup
from orchestrator.containers.interface import ContainerSpec
from orchestrator.containers.networks import make_networks
from orchestrator.containers.ownership import Owner, RunScope


def main(run: str, image: str, nodes: int, logs: Path) -> None:
    """Start nodes that never end by themselves, say so, and wait."""
    engine, scope = connect(), RunScope(run, Owner.of_this_process())
    group = ContainerGroup(engine, scope, logs)
    group.open()
    networks = make_networks(engine, scope, nodes)
    print("networks", flush=True)
    group.launch(
        [
            ContainerSpec(
                scope.name_of("node", node),
                image,
                ("sleep", "infinity"),
                labels=scope.labels("node", node),
                networks={network.name: network.address_of(node) for network in networks.values()},
            )
            for node in range(nodes)
        ]
    )
    print("containers", flush=True)
    signal.pause()


if __name__ == "__main__":
    main(sys.argv[1], sys.argv[2], int(sys.argv[3]), Path(sys.argv[4]))
