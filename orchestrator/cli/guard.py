"""The guard around all commands: whatever ends one becomes a line and an exit code."""

import os
import signal
import sys
from collections.abc import Callable
from types import FrameType
from typing import Any

import typer
from rich.markup import escape

from node.core.errors import ConfigError, DataError, TestbedError
from orchestrator.cli.printing import err
from orchestrator.host.streams import is_of_printing, let_lead_nowhere

WrongUsage: Any = typer.BadParameter.__mro__[2]
"""Click's base of all complaints about a command line; which click, typer's own or the package, varies."""


def guard(command: Callable[[], Any]) -> int:
    """Run a command and turn its errors into one line and an exit code."""
    try:
        code = _run_command(command)
        sys.stdout.flush()
    except KeyboardInterrupt:
        code = 130
    except BrokenPipeError:  # whoever read the output has seen enough
        let_lead_nowhere(sys.stdout)
        code = 1  # as rich does in the middle of a table
    except MemoryError:
        print_error("failed:", "not enough memory; take fewer nodes, a smaller model or less data")
        code = 3
    except Exception as error:
        if is_of_printing(error):
            let_lead_nowhere(sys.stdout)
            print_error("not printed:", str(getattr(error, "strerror", error)))
            return 1
        # A bug of ours: the last frame of the program.
        if os.environ.get("FRAGMESH_TRACEBACK"):
            raise
        print_error("failed:", f"{type(error).__name__}: {error}; a bug: FRAGMESH_TRACEBACK=1 shows where it happened")
        code = 3
    return code


def _run_command(command: Callable[[], Any]) -> int:
    try:
        code = command()
        return code if isinstance(code, int) else 0
    except typer.Exit as leave:
        return leave.exit_code
    except typer.Abort:
        return 130
    except WrongUsage as error:
        message = error.format_message()
        if message:  # else the help has been printed instead
            print_error("error:", message)
        return 2
    except (ConfigError, DataError) as error:
        print_error("error:", str(error))
        return 2
    except TestbedError as error:
        print_error("failed:", str(error))
        return 3


def print_error(what: str, message: str) -> None:
    """Always one line, whatever the message quotes."""
    try:
        if _is_interrupted():
            err.print("interrupted")  # the message is a consequence
        else:
            err.print(f"[red]{what}[/red] {escape(' '.join(message.split()))}")
    except OSError:  # nobody can be told
        let_lead_nowhere(sys.stderr)


class Interrupt:
    """The handler of the signals that end a run while no runner has its own.

    It remembers that it was called: a module that is interrupted while it is imported may raise something else.
    """

    def __init__(self) -> None:
        self.received = False

    def __call__(self, number: int, frame: FrameType | None) -> None:
        self.received = True
        raise KeyboardInterrupt


def _is_interrupted() -> bool:
    handler = signal.getsignal(signal.SIGTERM)
    return isinstance(handler, Interrupt) and handler.received
