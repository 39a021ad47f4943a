"""First process of the machine: mounts, loads modules, runs the task, writes its status, and turns the machine off.

Runs under the host's interpreter with the standard library alone. ``/shared`` of the machine's folder holds the task;
the host's files are the root, read-only.
"""

import ctypes
import json
import os
import re
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

LIBC: Any = ctypes.CDLL(None, use_errno=True)
FINIT_MODULE = 313
"""Number of the system call on x86_64."""
SHARED, MODULES = Path("/tmp/shared"), Path("/tmp/modules")
ENVIRONMENT = {
    "PATH": "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin",
    "HOME": "/tmp/home",
    "LANG": "C.UTF-8",
    "PYTHONDONTWRITEBYTECODE": "1",
    "HYPOTHESIS_STORAGE_DIRECTORY": "/tmp/hypothesis",
    "OMP_NUM_THREADS": "1",
}


def mount(kind: str, target: Path | str, source: str = "none") -> None:
    """Mount a file system; of ``hostfs`` the source is a folder of the machine's jail."""
    Path(target).mkdir(exist_ok=True, parents=True)
    options = source.encode() if kind == "hostfs" else b""
    if LIBC.mount(source.encode(), str(target).encode(), kind.encode(), 0, options):
        raise OSError(ctypes.get_errno(), f"mount {kind} on {target}")


def load(name: str, files: dict[str, Path], loaded: set[str]) -> None:
    """Load a module after those that it depends on. There is no modprobe."""
    if name in loaded:
        return
    loaded.add(name)
    depends = re.search(rb"\0depends=([^\0]+)\0", files[name].read_bytes())
    for other in depends[1].decode().split(",") if depends else ():
        load(other.replace("-", "_"), files, loaded)
    with files[name].open("rb") as file:
        if LIBC.syscall(FINIT_MODULE, file.fileno(), b"", 0):
            print(f"module {name}: {os.strerror(ctypes.get_errno())}", flush=True)


def run_task() -> int:
    """Run the command of the task."""
    task = json.loads((SHARED / "task.json").read_text())
    for path in task["needed"]:
        if path.startswith(("/tmp/", "/run/")):  # else the machine's own would hide it
            mount("hostfs", path, f"/host{path}")
    files = {path.stem.replace("-", "_"): path for path in MODULES.rglob("*.ko")}
    loaded: set[str] = set()
    for name in task["modules"]:
        load(name, files, loaded)
    subprocess.run(["ip", "link", "set", "lo", "up"], env=ENVIRONMENT, check=True)
    environment = ENVIRONMENT | {"PYTHONPATH": task["folder"]} | task["environment"]
    print(f"[machine: Linux {os.uname().release}, up {uptime_s():.1f} s]", flush=True)
    status = subprocess.run(task["command"], cwd=task["folder"], env=environment, check=False).returncode
    print(f"[machine: exit status {status} after {uptime_s():.1f} s]", flush=True)
    return status


def uptime_s() -> float:
    """Seconds since the kernel began."""
    return float(Path("/proc/uptime").read_text().split()[0])


def main() -> None:
    """Live the machine's life."""
    for kind, target in (("proc", "/proc"), ("sysfs", "/sys"), ("tmpfs", "/run"), ("tmpfs", "/tmp")):
        mount(kind, target)
    Path(ENVIRONMENT["HOME"]).mkdir()
    mount("hostfs", SHARED, "/shared")
    mount("hostfs", MODULES, "/modules")
    mount("tmpfs", "/dev/shm")
    try:
        (SHARED / "status").write_text(str(run_task()))
    finally:
        sys.stdout.flush()
        Path("/proc/sysrq-trigger").write_text("o")
        time.sleep(60)


main()
