"""Generate node/transport/pb from protos/, or with ``--check`` say whether what is there is stale.

The compiler is told that the files lie in node/transport/pb, so that the generated modules import each other
by their real names and nothing has to be rewritten afterwards.
"""

import argparse
import sys
from pathlib import Path
from shutil import which
from tempfile import TemporaryDirectory

import grpc_tools
from grpc_tools import protoc

ROOT = Path(__file__).resolve().parents[1]
SOURCES = ROOT / "protos" / "fragmesh" / "v1"
GENERATED = Path("node/transport/pb")
SUFFIXES = ("_pb2.py", "_pb2.pyi", "_pb2_grpc.py", "_pb2_grpc.pyi")


def generate(into: Path) -> None:
    """Run the compiler on all sources; the results lie in ``into / GENERATED``."""
    names = [str(GENERATED / source.name) for source in sorted(SOURCES.glob("*.proto"))]
    well_known = Path(grpc_tools.__file__).parent / "_proto"
    arguments = [
        "protoc",
        f"-I{GENERATED}={SOURCES}",
        f"-I{well_known}",
        *_plugin("protoc-gen-mypy_grpc"),
        f"--python_out={into}",
        f"--pyi_out={into}",
        f"--grpc_python_out={into}",
        f"--mypy_grpc_out={into}",
        *names,
    ]
    if protoc.main(arguments) != 0:
        raise SystemExit("the compiler failed; its message is above")


def _plugin(name: str) -> list[str]:
    """The option that names a plugin, which lies beside this interpreter and not always on the path."""
    path = which(name, path=str(Path(sys.executable).parent))
    return [f"--plugin={path}"] if path else []


def texts(folder: Path) -> dict[str, str]:
    """Generated files by name."""
    return {p.name: p.read_text("utf-8") for p in sorted(folder.iterdir()) if p.name.endswith(SUFFIXES)}


def main() -> int:
    """Write what changed and remove what has no source any more, or only name it and return 1."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--check", action="store_true", help="write nothing; exit 1 when something is stale")
    check = parser.parse_args().check
    with TemporaryDirectory() as folder:
        generate(Path(folder))
        wanted = texts(Path(folder) / GENERATED)
    found = texts(ROOT / GENERATED)
    stale = sorted(name for name in wanted.keys() | found.keys() if wanted.get(name) != found.get(name))
    for name in stale:
        path = ROOT / GENERATED / name
        if check:
            print(f"{GENERATED / name}: stale; run `make protos`", file=sys.stderr)
        elif name in wanted:
            path.write_text(wanted[name], encoding="utf-8")
        else:
            path.unlink()
    return 1 if check and stale else 0


if __name__ == "__main__":
    sys.exit(main())
