"""The ``fragmesh`` command: the table of all commands, and the program around them.

Every command ends with one of :data:`~orchestrator.cli.exit_codes.EXIT_CODES`. torch is imported only by commands that
train.
"""

import os
import signal
import sys
from collections.abc import Callable, Sequence
from contextlib import suppress
from typing import Annotated, Any, Final

import typer
import typer.core

from node.host.forked import ending_signals
from orchestrator.cli.check_commands import doctor, list_, validate
from orchestrator.cli.container_commands import down, image
from orchestrator.cli.export_command import export
from orchestrator.cli.guard import Interrupt, guard
from orchestrator.cli.printing import err
from orchestrator.cli.ps_command import ps
from orchestrator.cli.result_commands import compare, report
from orchestrator.cli.run_command import run
from orchestrator.cli.watch_command import watch
from orchestrator.host.streams import open_standard_streams

COMMANDS: Final[dict[str, Callable[..., None]]] = {
    "run": run,
    "validate": validate,
    "compare": compare,
    "report": report,
    "export": export,
    "list": list_,
    "doctor": doctor,
    "image": image,
    "watch": watch,
    "ps": ps,
    "down": down,
}
"""All commands, in the order in which the help lists them."""


class _Commands(typer.core.TyperGroup):
    """Says that it was interrupted: typer makes an exit code of it and tells nobody."""

    def invoke(self, ctx: Any) -> Any:
        """See click."""
        try:
            return super().invoke(ctx)
        except KeyboardInterrupt:
            with suppress(OSError):
                err.print("interrupted")
            raise


def _print_version(asked: bool) -> None:
    if asked:
        from orchestrator.host.environment import versions

        print(f"fragmesh {versions()['fragmesh'] or 'of a source tree that is not installed'}")
        raise typer.Exit


app = typer.Typer(
    cls=_Commands,
    add_completion=False,
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    help="A testbed for decentralized learning under bad networks.",
)


@app.callback()
def _all_commands(
    version: Annotated[
        bool, typer.Option("--version", callback=_print_version, is_eager=True, help="Print the version and exit.")
    ] = False,
) -> None:
    """A testbed for decentralized learning under bad networks."""


for _name, _command in COMMANDS.items():
    app.command(_name)(_command)


def run_command_line(arguments: Sequence[str] | None = None) -> int:
    """Run a command in this process, of ``sys.argv`` if none is given, and return its exit code."""
    return guard(lambda: app(None if arguments is None else [*arguments], standalone_mode=False))


def main() -> None:
    """Run the command line to its end; what ``fragmesh.py`` calls."""
    open_standard_streams()
    interrupt = Interrupt()
    # Also where a shell started this in the background with SIGINT ignored. Runners replace them while they run.
    numbers = ending_signals()
    for number in numbers:
        signal.signal(number, interrupt)
    code = run_command_line()
    for number in numbers:
        signal.signal(number, signal.SIG_IGN)  # nothing is left to interrupt but the interpreter's own end
    if interrupt.received or code == 130:
        # Python itself would end by SIGINT after an interrupt that passed through exec(), caught or not.
        with suppress(OSError):
            sys.stdout.flush()
        os._exit(130)
    sys.exit(code)
