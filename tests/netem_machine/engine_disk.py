"""The disk of the machine's own Docker engine: images of this host's engine, put into its data once.

An engine on this host fills the data folder, because a load takes ten times as long in the machine. That engine is in a
network namespace of its own, else it would delete the bridge of the host's. The disk is never modified afterwards: the
machine keeps what it writes in memory.
"""

import hashlib
import shutil
import subprocess
import tempfile
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from fcntl import LOCK_EX, LOCK_NB, LOCK_SH, flock
from pathlib import Path

from tests.netem_machine.calls import MachineError, call

PROGRAMS = ("docker", "dockerd", "mke2fs", "unshare")
FREE_BYTES = 8 * 2**30
"""Room for containers beside the images. The file has holes, so it takes none on this host."""
START_S = 60
LOAD_S = 900


def why_no_engine() -> str | None:
    """The reason for which the machine can have no engine; None if it can."""
    missing = [name for name in PROGRAMS if shutil.which(name) is None]
    return f"an engine in the machine needs {', '.join(missing)}" if missing else None


@contextmanager
def engine_disk(folder: Path, images: Sequence[str]) -> Iterator[Path]:
    """Give a disk with images, made if there is none, which stays there as long as it is in use.

    Args:
        folder: Where disks are kept. Those of other images that nobody uses are removed when one is made.
        images: Names of images of this host's engine.

    Raises:
        MachineError: It cannot be made, or the host's engine lacks an image.
    """
    if reason := why_no_engine():
        raise MachineError(reason)
    folder.mkdir(parents=True, exist_ok=True)
    identities = call(["docker", "image", "inspect", "--format", "{{.Id}}", *images])
    key = hashlib.sha256("\n".join([*images, identities]).encode()).hexdigest()[:16]
    disk = folder / f"{key}.ext4"
    with open(folder / "lock", "w") as lock:
        flock(lock, LOCK_EX)
        if not disk.exists():
            _remove_unused(folder)
            _make(disk, images)
        used = disk.open("rb")
        flock(used, LOCK_SH)
    with used:
        yield disk


def _remove_unused(folder: Path) -> None:
    for disk in folder.glob("*.ext4"):
        with disk.open("rb") as file:
            try:
                flock(file, LOCK_EX | LOCK_NB)
            except BlockingIOError:
                continue
            disk.unlink()


def _make(disk: Path, images: Sequence[str]) -> None:
    with tempfile.TemporaryDirectory(dir=disk.parent, prefix="make-") as name:
        work = Path(name)
        data = work / "data"
        with (
            _engine(work, data) as url,
            subprocess.Popen(["docker", "save", *images], stdout=subprocess.PIPE) as saving,
        ):
            call(["docker", "-H", url, "load", "-q"], given=saving.stdout, timeout_s=LOAD_S)
        if saving.returncode:
            raise MachineError(f"docker save: exit code {saving.returncode}")
        made = work / "disk"
        with made.open("wb") as file:
            file.truncate(int(call(["du", "-sb", str(data)]).split()[0]) * 3 // 2 + FREE_BYTES)
        call(
            ["mke2fs", "-q", "-t", "ext4", "-m", "0", "-O", "^has_journal", "-d", str(data), str(made)],
            timeout_s=LOAD_S,
        )
        made.rename(disk)


@contextmanager
def _engine(work: Path, data: Path) -> Iterator[str]:
    """An engine that has images and runs nothing; gives its address."""
    url, log = f"unix://{work}/socket", work / "log"
    words = ["unshare", "--net", "dockerd", "--host", url, "--data-root", str(data), "--exec-root", str(work / "exec")]
    words += ["--pidfile", str(work / "pid"), "--containerd-namespace", work.name, "--storage-driver", "overlay2"]
    words += ["--bridge=none", "--iptables=false", "--ip-forward=false", "--ip-masq=false"]
    with log.open("wb") as output, subprocess.Popen(words, stdout=output, stderr=output) as engine:
        try:
            end_s = time.monotonic() + START_S
            while subprocess.run(["docker", "-H", url, "version"], capture_output=True, check=False).returncode:
                if engine.poll() is not None or time.monotonic() > end_s:
                    raise MachineError(f"dockerd has not started: {log.read_text()[-400:]}")
                time.sleep(0.1)
            yield url
        finally:
            engine.terminate()
            engine.wait()
