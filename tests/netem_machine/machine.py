"""The machine: user-mode Linux from Debian's archive, on the host's own files.

User-mode Linux is a kernel that runs as a process: no KVM, nearly the host's speed, one processor. Its root file system
is the host's, read-only and through the kernel's ``hostfs``, so nothing has to be installed in it: it has the same
Python, packages, iproute2 and checkout as the host, under the same paths. Only the kernel, its modules and the C
library that it wants are fetched, 38 MB, and unpacked into a folder; no package is installed and no disk is modified.

Kernel and library come from unstable: user-mode Linux of the releases up to 6.12 ends at once on processors with AMX.
"""

import ctypes
import json
import os
import platform
import shutil
import signal
import subprocess
import sys
import tempfile
from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from fcntl import LOCK_EX, flock
from pathlib import Path
from typing import Any

from tests.netem_machine.calls import MachineError, call
from tests.netem_machine.engine_disk import engine_disk

ROOT = Path(__file__).resolve().parents[2]
FOLDER_VARIABLE = "FRAGMESH_NETEM_MACHINE"
PACKAGES = ("user-mode-linux", "libc6", "libgcc-s1")
KEYRING = Path("/usr/share/keyrings/debian-archive-keyring.gpg")
MODULES = (
    "veth",
    "bridge",
    "ifb",
    "sch_htb",
    "sch_netem",
    "sch_tbf",
    "sch_ingress",
    "cls_u32",
    "act_mirred",
    "overlay",
)
MEMORY_MB = 2_048
ENGINE_MEMORY_MB = 6_144
WRITTEN_MB = 4_096
"""What containers may write to the engine's disk: bound of a file in memory, which has holes."""
NO_STATUS = 125
"""Exit status of a machine that ended without one of its command."""

_PR_SET_PDEATHSIG = 1
_START = """
mount --rbind / "$1/host"
mount --bind /dev "$1/dev"
mount -t proc proc "$1/proc"
mount -t tmpfs -o size="$3"M tmpfs "$1/tmp"
mount --bind "$2" "$1/shared"
jail=$1; shift 3
HOME=/root TMPDIR=/tmp exec chroot "$jail" /uml/linux "$@"
"""


def why_not() -> str | None:
    """The reason for which this host cannot run the machine; None if it can."""
    if sys.platform != "linux" or platform.machine() != "x86_64":
        return "the machine's kernel is for Linux on x86_64"
    if os.geteuid() != 0:
        return "the machine is started by root, who may mount and change roots"
    for program in ("apt-get", "dpkg-deb", "unshare", "chroot"):
        if shutil.which(program) is None:
            return f"the machine needs {program}"
    return None if KEYRING.exists() else f"the machine needs {KEYRING}, from the package debian-archive-keyring"


@dataclass(frozen=True)
class Machine:
    """A machine in a folder.

    Attributes:
        folder: Where it is kept; built by :meth:`build` when first needed.
    """

    folder: Path

    @property
    def is_built(self) -> bool:
        """Whether it is there."""
        return (self.folder / "machine.json").exists()

    def build(self) -> None:
        """Fetch and unpack kernel, modules and library, unless they are there. Takes some ten seconds.

        Raises:
            MachineError: It cannot be done.
        """
        self.folder.mkdir(parents=True, exist_ok=True)
        with open(self.folder / "lock", "w") as lock:
            flock(lock, LOCK_EX)
            if self.is_built:
                return
            with tempfile.TemporaryDirectory(dir=self.folder, prefix="build-") as work:
                self._build(Path(work))

    def _build(self, work: Path) -> None:
        versions = _download(work)
        unpacked = work / "unpacked"
        for package in sorted(work.glob("*.deb")):
            call(["dpkg-deb", "-x", str(package), str(unpacked)])
        jail = work / "jail"
        for name in ("host", "dev", "proc", "tmp", "shared", "root/.uml", "uml", "usr"):
            (jail / name).mkdir(parents=True)
        for library in ("lib", "lib64"):
            (jail / library).symlink_to(f"usr/{library}")
        shutil.move(unpacked / "usr/lib/uml/modules", jail / "modules")
        shutil.move(unpacked / "usr/bin/linux.uml", jail / "uml/linux")
        for library in ("lib", "lib64"):
            shutil.move(unpacked / "usr" / library, jail / "usr" / library)
        shutil.rmtree(self.folder / "jail", ignore_errors=True)
        jail.rename(self.folder / "jail")
        # Written last: a machine that has it is complete.
        (self.folder / "machine.json").write_text(json.dumps(versions, indent=1) + "\n")

    def run(
        self,
        command: Sequence[str],
        *,
        timeout_s: float,
        environment: Mapping[str, str] | None = None,
        memory_mb: int = MEMORY_MB,
        images: Sequence[str] = (),
        writable: Sequence[Path] = (),
    ) -> int:
        """Run a command in the machine, as root, in the checkout; its output goes to this process's.

        Args:
            command: Found as on the host.
            timeout_s: Real time after which the machine is ended.
            environment: Variables besides a plain set of them; the host's are not passed on.
            memory_mb: Of the machine. Taken from the host as it is used.
            images: Of the host's engine, to be in one that the machine starts; none starts none.
            writable: Folders of the host that the command may write to.

        Returns:
            The command's exit status; :data:`NO_STATUS` if there is none.

        Raises:
            MachineError: It cannot be built or started.
        """
        if reason := why_not():
            raise MachineError(reason)
        self.build()
        with ExitStack() as stack:
            shared = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="fragmesh-machine-")))
            disk = stack.enter_context(engine_disk(self.folder / "jail/disks", images)) if images else None
            needed = {str(Path(path).resolve()) for path in (ROOT, sys.prefix, sys.base_prefix)}
            task = {
                # Its PATH is a plain one.
                "command": [shutil.which(command[0]) or command[0], *command[1:]],
                "folder": str(ROOT),
                "environment": dict(environment or {}),
                "modules": MODULES,
                "needed": sorted(needed),
                "writable": [str(path.resolve()) for path in writable],
                "engine": disk is not None,
            }
            (shared / "task.json").write_text(json.dumps(task))
            self._start(shared, disk, memory_mb, timeout_s)
            status = shared / "status"
            return int(status.read_text()) if status.exists() else NO_STATUS

    def _start(self, shared: Path, disk: Path | None, memory_mb: int, timeout_s: float) -> None:
        kernel = [
            f"umid=fragmesh-{os.getpid()}",
            f"mem={memory_mb}M",
            *([f"ubd0=/tmp/written,/disks/{disk.name}"] if disk else []),
            *("root=/dev/root", "rootfstype=hostfs", "rootflags=/host", "ro", f"init={sys.executable}"),
            *("seccomp=auto", "con=null", "con0=fd:0,fd:1", "quiet", "--", str(Path(__file__).with_name("init.py"))),
        ]
        # All processes of the machine are in a namespace of their own and end with its first one.
        words = ["unshare", "--mount", "--propagation", "private", "--pid", "--fork", "--kill-child", "sh", "-ec"]
        size_mb = memory_mb + 256 + WRITTEN_MB * (disk is not None)
        words += [_START, "sh", str(self.folder / "jail"), str(shared), str(size_mb), *kernel]
        with subprocess.Popen(
            words, stdin=subprocess.DEVNULL, stderr=subprocess.STDOUT, preexec_fn=_end_with_the_starter
        ) as started:
            try:
                started.wait(timeout_s)
            except subprocess.TimeoutExpired:
                print(f"the machine has not ended within {timeout_s:g} s", flush=True)
            finally:
                started.kill()


def _end_with_the_starter() -> None:
    libc: Any = ctypes.CDLL(None)
    libc.prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)


def _download(work: Path) -> dict[str, str]:
    """Fetch the packages with lists and settings of our own; returns their versions."""
    for name in ("lists/partial", "cache/archives/partial"):
        (work / name).mkdir(parents=True)
    (work / "sources").write_text(f"deb [signed-by={KEYRING}] {_mirror()} sid main\n")
    options = {
        "Dir::Etc::sourcelist": work / "sources",
        "Dir::Etc::sourceparts": "/nonexistent",
        "Dir::State::lists": work / "lists",
        "Dir::Cache": work / "cache",
        "APT::Sandbox::User": "root",
    }
    apt = ["apt-get", "-qq", *(word for name, value in options.items() for word in ("-o", f"{name}={value}"))]
    call([*apt, "update"], work)
    call([*apt, "download", *PACKAGES], work)
    found = (path.stem.split("_") for path in work.glob("*.deb"))
    return {name: version for name, version, _ in found}


def _mirror() -> str:
    """The archive that this host itself uses."""
    listed = call(["apt-get", "indextargets", "--format", "$(SITE)", "Created-By: Packages"])
    sites = [site for site in listed.splitlines() if site.rstrip("/").endswith("/debian")]
    return sites[0] if sites else "http://deb.debian.org/debian"
