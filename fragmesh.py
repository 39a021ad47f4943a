"""The ``fragmesh`` command: ``fragmesh`` once installed, ``python -m fragmesh`` from anywhere.

Nothing of the testbed is imported before it is sure that what would be imported is the testbed: with ``python -m`` the
working directory comes first, and a folder ``node`` or ``orchestrator`` in it would be taken for ours.
"""

import importlib.util
import os
import sys

PACKAGES = ("node", "orchestrator")


def shadow() -> str | None:
    """Return what stands in the place of one of the testbed's packages, in a line; None if nothing does."""
    here = os.path.dirname(os.path.abspath(__file__))
    for name in PACKAGES:
        try:
            spec = importlib.util.find_spec(name)
        except (ImportError, ValueError) as error:
            return f"{name}: cannot be imported: {error}"
        ours = os.path.join(here, name, "__init__.py")
        found = None if spec is None else spec.origin
        if spec is not None and found is None and os.path.exists(ours):
            found = next(iter(spec.submodule_search_locations or ()), None)  # a folder without code
        if found is None:
            return f"{name}: the testbed's package of this name is missing beside {os.path.join(here, 'fragmesh.py')}"
        if not os.path.exists(ours):
            continue  # installed so that each package has a folder of its own
        if not os.path.samefile(found, ours):
            return (
                f"{found}: stands in the place of the testbed's package {name}: run fragmesh from another folder, or"
                " without this one in PYTHONPATH"
            )
    return None


def refuse_shadow() -> None:
    """Leave with a line and exit code 2 where something stands in the place of one of the testbed's packages."""
    found = shadow()
    if found is not None:
        print("error:", " ".join(found.split()), file=sys.stderr)
        sys.exit(2)


def main() -> None:
    """Entry point of the console script."""
    refuse_shadow()
    from orchestrator.cli.commands import main as run_command_line

    run_command_line()


if __name__ == "__main__":
    main()
