"""``python -m tests.netem_machine build``, or ``run COMMAND...``: by default the tests of shaping."""

import argparse
import os
import sys
import time
from pathlib import Path

from orchestrator.containers.image_recipes import node_recipe, shaper_recipe
from tests.netem_machine.calls import MachineError
from tests.netem_machine.machine import ENGINE_MEMORY_MB, FOLDER_VARIABLE, MEMORY_MB, Machine

TESTS = ("tests/integration/test_shaping.py", "tests/integration/test_shaping_netem.py")


def main() -> int:
    """Build or run, and return the exit status."""
    parser = argparse.ArgumentParser(prog="python -m tests.netem_machine", description=__doc__)
    default = Path(os.environ.get("XDG_CACHE_HOME", "~/.cache")).expanduser() / "fragmesh" / "netem-machine"
    folder = Path(os.environ.get(FOLDER_VARIABLE, default))
    parser.add_argument("--folder", type=Path, default=folder, help="where the machine is kept (%(default)s)")
    parser.add_argument("--timeout-s", type=float, default=900.0, help="when a machine is ended (%(default)g)")
    parser.add_argument(
        "--engine", action="store_true", help="start a Docker engine with the host's images of fragmesh"
    )
    parser.add_argument("--image", action="append", default=[], help="another of the host's images for the engine")
    parser.add_argument("--writable", type=Path, action="append", default=[], help="a folder of the host to write to")
    parser.add_argument(
        "--memory-mb", type=int, help=f"of the machine ({MEMORY_MB}, with an engine {ENGINE_MEMORY_MB})"
    )
    parser.add_argument("what", choices=["build", "run"])
    parser.add_argument("command", nargs=argparse.REMAINDER, help="of run; found as on the host")
    arguments = parser.parse_args()
    machine = Machine(arguments.folder)
    begin_s = time.monotonic()
    try:
        if arguments.what == "build":
            machine.build()
            print(f"{machine.folder}: built after {time.monotonic() - begin_s:.1f} s")
            return 0
        images = [node_recipe().tag, shaper_recipe().tag, *arguments.image] if arguments.engine else arguments.image
        return machine.run(
            arguments.command or pytest_command(TESTS),
            timeout_s=arguments.timeout_s,
            environment={"FRAGMESH_REQUIRE": "netem,tc"},
            memory_mb=arguments.memory_mb or (ENGINE_MEMORY_MB if images else MEMORY_MB),
            images=images,
            writable=arguments.writable,
        )
    except MachineError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2


def pytest_command(tests: tuple[str, ...]) -> list[str]:
    """The command that runs tests where the checkout cannot be written."""
    return [sys.executable, "-m", "pytest", "-p", "no:cacheprovider", "--color=no", *tests]


if __name__ == "__main__":
    sys.exit(main())
