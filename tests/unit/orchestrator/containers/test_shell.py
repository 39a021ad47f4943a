"""A shell that stays open, with this machine's in the place of a container's."""

from collections.abc import Iterator, Sequence

import pytest

from orchestrator.containers.interface import EngineError
from orchestrator.containers.shell import ContainerShell
from tests.unit.orchestrator.containers.fake_engine import FakeEngine
from tests.unit.orchestrator.containers.local_shell import LocalCommand


class HereEngine(FakeEngine):
    """Runs commands here."""

    def begin(self, container: str, command: Sequence[str]) -> LocalCommand:
        self.command = LocalCommand(command)
        return self.command


@pytest.fixture
def engine() -> HereEngine:
    return HereEngine()


@pytest.fixture
def shell(engine: HereEngine) -> Iterator[ContainerShell]:
    made = ContainerShell(engine, "helper")
    yield made
    made.close()


def test_one_command_after_the_other(shell: ContainerShell) -> None:
    assert shell.run(["echo", "a  b", "$HOME", "it's"]) == (0, "a  b $HOME it's\n", "")
    assert shell.run(["sh", "-c", "echo out; echo err >&2; exit 3"]) == (3, "out\n", "err\n")
    assert shell.run(["true"]) == (0, "", "")
    assert shell.run(["printf", "no newline"]) == (0, "no newline", "")


def test_a_command_gets_its_input_whole_and_nothing_of_the_next_one(shell: ContainerShell) -> None:
    text = "".join(f"line {number} $x `y` \\ 'z'\n" for number in range(50_000))
    assert shell.run(["cat"], text) == (0, text, "")
    assert shell.run(["cat"]) == (0, "", "")
    assert shell.run(["true"], text)[0] == 0  # which reads nothing
    assert shell.run(["echo", "next"]) == (0, "next\n", "")


def test_a_command_that_is_not_there(shell: ContainerShell) -> None:
    code, output, errors = shell.run(["no-such-program"])
    assert (code, output) == (127, "")
    assert "no-such-program" in errors


def test_a_shell_that_has_ended_says_so(engine: HereEngine, shell: ContainerShell) -> None:
    engine.command.process.kill()
    engine.command.process.wait()
    with pytest.raises(EngineError):
        shell.run(["true"])
