"""Application of a plan in a network namespace: reads, changes, reads back and compares.

Made with ``ip -batch``, ``tc -batch`` and their JSON, not with pyroute2. The namespace of a node may be out of this
process's reach, behind ``docker exec HELPER`` or in the virtual machine of Docker Desktop; there a shell and iproute2
are all that is needed, where pyroute2 would need Python and itself. A batch is also text that a test can hold against a
golden one and a person can read, paste and repeat. pyroute2 would give exact values and events; the figures are chosen
so that tc prints them exactly (:mod:`orchestrator.shaping.kernel_units`). One call of ``tc`` costs 2 to 3 ms and a
batch hardly more, whatever its length.

Reading takes one command and a change at most three, for a command in a container costs 60 ms.
"""

import re
import subprocess
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Final, TypeAlias

from node.core.errors import RunnerError
from orchestrator.shaping.batch import Batch, change_to, removal
from orchestrator.shaping.differences import ShapingDifference, differences
from orchestrator.shaping.kernel_units import GSO_SEGMENTS_MAX
from orchestrator.shaping.reading import (
    COUNTERS_SCRIPT,
    READ_SCRIPT,
    NodeReading,
    QueuesCounters,
    parse_counters,
    parse_namespace,
)
from orchestrator.shaping.tree import NodeTree

TIMEOUT_S: Final = 60.0
"""Bound of one command, which takes milliseconds: a net, on a host that is busy with starting sixty containers."""

_DEVICE_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9_.-]{0,14}")
_FAILED_LINE = re.compile(r"^Command failed -:(\d+)\s*$", re.MULTILINE)


Carry: TypeAlias = Callable[[Sequence[str], str], tuple[int, str, str]]
"""Runs a command with a standard input; returns its exit code, its output and its error output."""


def carry_out_here(words: Sequence[str], text: str) -> tuple[int, str, str]:
    """Run a command as a child of this process.

    Raises:
        OSError, subprocess.TimeoutExpired: It cannot be run, or hangs.
    """
    done = subprocess.run(words, input=text, capture_output=True, text=True, timeout=TIMEOUT_S, check=False)
    return done.returncode, done.stdout, done.stderr


@dataclass(frozen=True, slots=True)
class NetworkNamespace:
    """A network namespace, as the words that run a command in it.

    Attributes:
        name: Whose it is, for messages: ``node 3``.
        enter: Words before the command; none for the namespace that this process is in.
        carry: Runs the whole: here, or through a shell that is open elsewhere.
    """

    name: str
    enter: tuple[str, ...] = ()
    carry: Carry = carry_out_here

    @classmethod
    def of_process(
        cls, name: str, pid: int, via: Sequence[str] = (), carry: Carry = carry_out_here
    ) -> "NetworkNamespace":
        """The namespace of a process.

        Args:
            name: Whose it is.
            pid: The process, as it is called where ``nsenter`` runs.
            via: Words before ``nsenter`` that lead to where the process is seen with the right to enter, such as
                ``docker exec -i HELPER``; the standard input must get through.
            carry: Runs the whole.
        """
        return cls(name, (*via, "nsenter", "-t", str(pid), "-n"), carry)

    def run(self, command: Sequence[str], text: str = "") -> str:
        """Run a command and return what it printed.

        Args:
            command: The command and its arguments.
            text: Its standard input.

        Raises:
            RunnerError: It failed, cannot be run, or hangs; one line with the command.
        """
        words = [*self.enter, *command]
        try:
            code, output, errors = self.carry(words, text)
        except FileNotFoundError:
            raise RunnerError(f"{self.name}: {words[0]}: not found; shaping needs it") from None
        except subprocess.TimeoutExpired:
            raise RunnerError(f"{self.name}: {command[0]}: no answer within {TIMEOUT_S:g} s") from None
        except OSError as error:
            raise RunnerError(f"{self.name}: {words[0]}: {error.strerror}") from None
        if code:
            raise RunnerError(f"{self.name}: {_failure(command, text, errors or output, code)}")
        return output

    def run_batch(self, program: str, lines: Sequence[str]) -> None:
        """Let ``ip`` or ``tc`` carry out lines, if there are any.

        Raises:
            RunnerError: A line failed, which ends it; those before it are done.
        """
        if lines:
            self.run([program, "-batch", "-"], "".join(f"{line}\n" for line in lines))


def apply_shaping(namespace: NetworkNamespace, tree: NodeTree) -> tuple[ShapingDifference, ...]:
    """Make a namespace hold what is wanted, changing only what differs, and read it back.

    Traffic may flow meanwhile: values change in place, and no queue is emptied.

    Returns:
        What is not as wanted all the same; nothing, as a rule.

    Raises:
        RunnerError: A command failed; what was done before it stays, and another attempt goes on from there.
    """
    batch = change_to(tree, read_shaping(namespace, tree))
    if batch:
        carry_out(namespace, batch)
    return differences(tree, read_shaping(namespace, tree))


def read_counters(namespace: NetworkNamespace, tree: NodeTree) -> QueuesCounters:
    """Read the counters of the queues of a tree, and nothing else.

    Raises:
        RunnerError: The namespace has no such device, or a command failed.
    """
    devices = [device.device for device in tree.devices]
    return parse_counters(namespace.run(["sh", "-c", COUNTERS_SCRIPT, "count", *devices]), tree)


def read_shaping(namespace: NetworkNamespace, tree: NodeTree) -> NodeReading:
    """Read what a namespace holds on the two devices of a tree.

    Raises:
        RunnerError: It has no such device, or a command failed.
    """
    device, ifb = tree.egress.device, tree.ingress.device
    for name in (device, ifb):
        if not _DEVICE_NAME.fullmatch(name):
            raise RunnerError(f"{namespace.name}: {name!r} is no name of a device")
    printed = namespace.run(["sh", "-c", READ_SCRIPT, "read", device, ifb])
    found = parse_namespace(printed, tree)
    if found is None:
        raise RunnerError(f"{namespace.name}: there is no device {device}")
    return found


def remove_shaping(namespace: NetworkNamespace, tree: NodeTree, *, gso_segments: int = GSO_SEGMENTS_MAX) -> None:
    """Remove from a namespace what is ours, and nothing else. May be called again.

    Args:
        namespace: Where.
        tree: What was applied there.
        gso_segments: What the device had before; the default is what the kernel gives a virtual device.

    Raises:
        RunnerError: A command failed.
    """
    batch = removal(tree, read_shaping(namespace, tree), gso_segments=gso_segments)
    if batch:
        carry_out(namespace, batch)


def carry_out(namespace: NetworkNamespace, batch: Batch) -> None:
    """Carry out a batch in a namespace.

    Raises:
        RunnerError: A command failed; what was done before it stays.
    """
    for program, lines in (("ip", batch.links), ("tc", batch.shaping), ("ip", batch.links_after)):
        namespace.run_batch(program, lines)


def _failure(command: Sequence[str], text: str, printed: str, status: int) -> str:
    """One line: the command, or the line of its batch, and what it said."""
    failed = _FAILED_LINE.search(printed)
    # The first line has the reason; tc may add that it has an error talking to the kernel.
    said = [line.strip() for line in _FAILED_LINE.sub("", printed).splitlines() if line.strip()]
    reason = said[0] if said else f"exit code {status}"
    what = command[0] if command[0] != "sh" else "ip and tc"
    lines = text.splitlines()
    if failed is not None and 0 < int(failed[1]) <= len(lines):
        what = f"{command[0]} {lines[int(failed[1]) - 1]}"
    return f"{what}: {reason}"
