"""The command line with something broken on purpose: ``python -m tests.integration.faulty FAULTS ARGUMENTS``.

``FAULTS`` are names of the functions below, joined by commas; ``-`` is none. They change what the run's processes
inherit, before anything is forked. Waits that only make sense for real experiments are shortened, so that a test
takes seconds.
"""

import os
import signal
import sys
import time
from collections.abc import Callable
from types import ModuleType
from typing import Any

import node.build
import node.runtime.process
import node.transport.control_client
import node.transport.peer_client
import orchestrator.runs.rules as rules
from node.config import NodeConfig
from node.runtime.message_records import Records
from node.transport.peer_server import PeerServer
from orchestrator import cli

VICTIM = 1
"""The node that a fault strikes."""


def _before_run(act: Callable[[], None]) -> None:
    """Let the victim do something in its own process, when it would begin."""
    real = node.runtime.process.run_node

    def run_node(config: NodeConfig, *arguments: Any) -> int:
        if config.node == VICTIM:
            act()
        return real(config, *arguments)

    vars(node.build)["run_node"] = run_node


def killed_before_start() -> None:
    _before_run(lambda: os.kill(os.getpid(), signal.SIGKILL))


def stuck_before_start() -> None:
    _before_run(lambda: os.kill(os.getpid(), signal.SIGSTOP))


def slow_to_start() -> None:
    _before_run(lambda: time.sleep(2.0))


def bug_in_node() -> None:
    def act() -> None:
        raise LookupError("something that nobody thought of")

    _before_run(act)


def other_version() -> None:
    _before_run(lambda: setattr(node.transport.control_client, "CONTROL_VERSION", 77))


def other_wire_version() -> None:
    """Only of what the victim says to its peers, as if the orchestrator had not looked."""
    _before_run(lambda: setattr(node.transport.peer_client, "WIRE_VERSION", 77))


def unreachable() -> None:
    """The victim tells an address at which nobody answers."""

    class Elsewhere(PeerServer):
        async def start(self, host: str, port: int) -> str:
            await super().start(host, port)
            return f"{host}:9"

    _before_run(lambda: setattr(node.runtime.process, "PeerServer", Elsewhere))


def killed_late() -> None:
    """The victim ends by force when it is to hand over its records."""

    async def end(self: Any, *, final: bool) -> None:
        os.kill(os.getpid(), signal.SIGKILL)

    _before_run(lambda: setattr(node.runtime.process._Node, "_hand_over", end))


def damaged_records() -> None:
    _before_run(lambda: setattr(Records, "to_bytes", lambda self, now_ns: b"PK\x03\x04 no archive"))


def short_grace() -> None:
    rules.HAND_OVER_S = 1.0


def short_stall() -> None:
    rules.STALL_S = 2.0


def _quick() -> None:
    rules.MEASURE_TESTBED_S = (0.2, 0.2)
    # Figures take a second, and have tests of their own.
    page = ModuleType("orchestrator.report.page")
    vars(page)["write_report"] = lambda run: (run.path / "report.html").write_text("</html>\n")
    sys.modules[page.__name__] = page


if __name__ == "__main__":
    names = sys.argv.pop(1)
    _quick()
    for name in names.split(","):
        if name != "-":
            globals()[name]()
    cli.main()
