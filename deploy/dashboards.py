"""Write deploy/grafana from orchestrator/observe/dashboards, or with ``--check`` say whether what is there is stale.

An installed package makes the same files when it needs them, so nothing below deploy/grafana is written by hand.
"""

import argparse
import sys
from pathlib import Path

from orchestrator.observe.dashboards.rendering import grafana_files

FOLDER = Path(__file__).resolve().parent / "grafana"


def stale_files(folder: Path = FOLDER) -> list[str]:
    """Paths in the folder that are missing, or not as they would be written, or have no source any more."""
    wanted = grafana_files()
    found = {path.relative_to(folder).as_posix(): path.read_text("utf-8") for path in folder.rglob("*.*")}
    return sorted(name for name in wanted.keys() | found.keys() if wanted.get(name) != found.get(name))


def main() -> int:
    """Write what changed and remove what has no source any more, or only name it and return 1."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--check", action="store_true", help="write nothing; exit 1 when something is stale")
    check = parser.parse_args().check
    stale, wanted = stale_files(), grafana_files()
    for name in stale:
        path = FOLDER / name
        if check:
            print(f"deploy/grafana/{name}: stale; run `make dashboards`", file=sys.stderr)
        elif name in wanted:
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(wanted[name], encoding="utf-8")
        else:
            path.unlink()
    return 1 if check and stale else 0


if __name__ == "__main__":
    sys.exit(main())
