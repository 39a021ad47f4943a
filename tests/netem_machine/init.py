"""First process of the machine: mounts, loads modules, runs the task, writes its status, and turns the machine off.

Runs under the host's interpreter with the standard library alone. ``/shared`` of the machine's folder holds the task;
the host's files are the root, read-only.
"""

import ctypes
import json
import os
import re
import socket
import subprocess
import sys
import time
import traceback
from contextlib import suppress
from pathlib import Path
from typing import Any

LIBC: Any = ctypes.CDLL(None, use_errno=True)
FINIT_MODULE = 313
"""Number of the system call on x86_64."""
SHARED, MODULES = Path("/tmp/shared"), Path("/tmp/modules")
ENGINE_DATA, ENGINE_SOCKET, ENGINE_LOG = Path("/run/engine"), Path("/run/docker.sock"), Path("/tmp/dockerd.log")
ENGINE_DISK = "/dev/ubda"
ENVIRONMENT = {
    "PATH": "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin",
    "HOME": "/tmp/home",
    "LANG": "C.UTF-8",
    "PYTHONDONTWRITEBYTECODE": "1",
    "HYPOTHESIS_STORAGE_DIRECTORY": "/tmp/hypothesis",
    "OMP_NUM_THREADS": "1",
}


def mount(kind: str, target: Path | str, source: str = "none", options: str = "") -> None:
    """Mount a file system; of ``hostfs`` the source is a folder of the machine's jail."""
    Path(target).mkdir(exist_ok=True, parents=True)
    options = source if kind == "hostfs" else options
    if LIBC.mount(source.encode(), str(target).encode(), kind.encode(), 0, options.encode()):
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
    for path in task["writable"]:
        mount("hostfs", path, f"/host{path}")
    files = {path.stem.replace("-", "_"): path for path in MODULES.rglob("*.ko")}
    loaded: set[str] = set()
    for name in task["modules"]:
        load(name, files, loaded)
    subprocess.run(["ip", "link", "set", "lo", "up"], env=ENVIRONMENT, check=True)
    if task["engine"]:
        start_engine()
    environment = ENVIRONMENT | {"PYTHONPATH": task["folder"]} | task["environment"]
    print(f"[machine: Linux {os.uname().release}, up {uptime_s():.1f} s]", flush=True)
    status = subprocess.run(task["command"], cwd=task["folder"], env=environment, check=False).returncode
    print(f"[machine: exit status {status} after {uptime_s():.1f} s]", flush=True)
    return status


def start_engine() -> None:
    """Start a Docker engine on its disk, and wait until it answers.

    It writes no rules of a firewall, for which there are no modules: bridges work, and there is no way out.
    """
    mount("cgroup2", "/sys/fs/cgroup")
    mount("devpts", "/dev/pts")
    mount("ext4", ENGINE_DATA, ENGINE_DISK)
    for name in ("upper", "work"):
        Path("/tmp/etc", name).mkdir(parents=True)
    mount("overlay", "/etc", options="lowerdir=/etc,upperdir=/tmp/etc/upper,workdir=/tmp/etc/work")
    words = ["dockerd", "--data-root", str(ENGINE_DATA), "--storage-driver", "overlay2"]
    with ENGINE_LOG.open("wb") as log:
        engine = subprocess.Popen(
            [*words, "--iptables=false", "--ip-masq=false"], env=ENVIRONMENT, stdout=log, stderr=log
        )
    while not engine_answers():
        if engine.poll() is not None:
            raise RuntimeError(f"dockerd: exit code {engine.returncode}: {ENGINE_LOG.read_text()[-2000:]}")
        time.sleep(0.1)


def engine_answers() -> bool:
    """Whether the engine takes requests."""
    with socket.socket(socket.AF_UNIX) as asking, suppress(OSError):
        asking.connect(str(ENGINE_SOCKET))
        asking.sendall(b"GET /_ping HTTP/1.0\r\n\r\n")
        return b" 200 " in asking.recv(64)
    return False


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
    except Exception:
        traceback.print_exc()  # here, because the machine is off before the interpreter would tell
    finally:
        sys.stdout.flush()
        Path("/proc/sysrq-trigger").write_text("o")
        time.sleep(60)


main()
