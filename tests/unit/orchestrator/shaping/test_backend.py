"""Commands in a namespace, and what is said when one fails."""

from dataclasses import replace

import pytest

from node.core.errors import RunnerError
from orchestrator.shaping import backend
from orchestrator.shaping.backend import NetworkNamespace, read_shaping
from orchestrator.shaping.probe import PARTS, probe_shaping
from tests.unit.orchestrator.shaping.networks import network, tree

TREE = tree(network())


def answering(script: str) -> tuple[str, ...]:
    """Words before a command that run a script in its place."""
    return ("sh", "-c", script, "sh")


def test_the_words_that_enter_a_namespace() -> None:
    assert NetworkNamespace.of_process("node 3", 77).enter == ("nsenter", "-t", "77", "-n")
    via = ("docker", "exec", "-i", "helper")
    assert NetworkNamespace.of_process("node 3", 77, via).enter == (*via, "nsenter", "-t", "77", "-n")


def test_a_command_gets_its_input_and_gives_its_output() -> None:
    assert NetworkNamespace("node 3", answering('echo "$1"; cat')).run(["ip", "-batch"], "link\n") == "ip\nlink\n"


@pytest.mark.parametrize(
    ("script", "line"),
    [
        (
            "echo 'Error: No such class.' >&2; echo 'Command failed -:2' >&2; exit 1",
            "tc class b: Error: No such class.",
        ),
        (
            "echo 'RTNETLINK answers: Busy' >&2; echo 'Command failed -:1' >&2; exit 2",
            "tc qdisc a: RTNETLINK answers: Busy",
        ),
        ("echo 'nsenter: no such process' >&2; exit 1", "tc: nsenter: no such process"),
        ("exit 7", "tc: exit code 7"),
        ("echo 'Command failed -:9' >&2; exit 1", "tc: exit code 1"),
    ],
)
def test_a_failure_is_one_line_with_the_command_that_failed(script: str, line: str) -> None:
    with pytest.raises(RunnerError) as caught:
        NetworkNamespace("node 3", answering(script)).run(["tc", "-batch", "-"], "qdisc a\nclass b\n")
    assert str(caught.value) == f"node 3: {line}"


def test_programs_that_are_not_there(monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(RunnerError, match=r"^node 3: no-such-program: not found; shaping needs it$"):
        NetworkNamespace("node 3", ("no-such-program",)).run(["tc"])
    with pytest.raises(RunnerError, match=r"^node 3: /: Permission denied$"):
        NetworkNamespace("node 3", ("/",)).run(["tc"])
    monkeypatch.setattr(backend, "TIMEOUT_S", 0.01)
    with pytest.raises(RunnerError, match=r"^node 3: tc: no answer within 0.01 s$"):
        NetworkNamespace("node 3", answering("read forever < /dev/zero")).run(["tc"])


def test_a_namespace_without_the_device() -> None:
    with pytest.raises(RunnerError, match=r"^node 3: there is no device eth1$"):
        read_shaping(NetworkNamespace("node 3", answering('echo "[]"')), TREE)


def test_names_of_devices_are_checked_before_a_shell_sees_them() -> None:
    odd = replace(TREE, egress=replace(TREE.egress, device="eth1; reboot"))
    with pytest.raises(RunnerError, match="is no name of a device"):
        read_shaping(NetworkNamespace("node 3", answering("exit 0")), odd)


# --- the probe --------------------------------------------------------------------------------------------------


def test_a_kernel_with_everything() -> None:
    found = probe_shaping(answering("echo '@@version@@tc utility, iproute2-6.1.0'; " + said("")))
    assert (found.tc_version, found.problems) == ("tc utility, iproute2-6.1.0", {})
    assert found.shapes_rates
    assert found.has_netem


def test_a_kernel_without_netem() -> None:
    script = "echo '@@version@@tc utility'; " + said("").replace("@@netem@@", "@@netem@@Error: unknown.")
    found = probe_shaping(answering(script))
    assert found.problems == {"netem": "Error: unknown."}
    assert found.shapes_rates
    assert not found.has_netem


def test_a_kernel_without_a_part_that_is_needed() -> None:
    script = "echo '@@version@@tc utility'; " + said("").replace("@@ifb@@", "@@ifb@@Error: Unknown device type.")
    found = probe_shaping(answering(script))
    assert found.problems == {"ifb": "Error: Unknown device type."}
    assert not found.shapes_rates
    assert not found.has_netem


@pytest.mark.parametrize(
    ("script", "problems"),
    [
        (
            "echo 'unshare failed: Operation not permitted' >&2; exit 1",
            {"namespace": "probe of the kernel: ip and tc: unshare failed: Operation not permitted"},
        ),
        ("echo '@@version@@sh: tc: not found'", {"tc": "sh: tc: not found"}),
        ("exit 0", {"tc": "said nothing"}),
        ("echo '@@version@@tc utility'", dict.fromkeys(PARTS, "was not tried")),
    ],
)
def test_a_host_that_cannot_be_probed(script: str, problems: dict[str, str]) -> None:
    found = probe_shaping(answering(script))
    assert found.problems == problems
    assert not found.shapes_rates
    assert not found.has_netem


def said(reason: str) -> str:
    """A script that says the same of every part."""
    return "; ".join(f"echo '@@{name}@@{reason}'" for name in PARTS)
