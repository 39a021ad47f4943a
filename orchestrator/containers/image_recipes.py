"""Recipes of the images: everything that goes into them, as values, and the digest by which an image is known again.

A node's image is made of the package that is installed, so neither a checkout nor a registry of ours is needed. Its
libraries are of the very releases that the orchestrator has, so a model that is tested here is the model trained there.
The base image and where libraries come from are the builder's choice and no part of the digest.
"""

import hashlib
import io
import sys
import tarfile
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from importlib import metadata
from importlib.resources import files
from pathlib import Path
from typing import IO, Final, Literal, TypeAlias

from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

import node
from node.core.errors import ConfigError

ImageKind: TypeAlias = Literal["node", "shaper"]

NODE_LIBRARIES: Final = (
    "grpcio",
    "grpcio-health-checking",
    "grpcio-reflection",
    "numpy",
    "pillow",
    "prometheus-client",
    "protobuf",
    "pydantic",
    "scikit-learn",
    "torch",
    "torchvision",
)
"""Distributions that ``node`` imports; what they need comes with them."""

_TORCH: Final = ("torch", "torchvision")
_NOT_FOR_CPUS: Final = ("nvidia-", "cuda-", "triton", "pytorch-triton")
"""Beginnings of the names of libraries that a CUDA build of torch wants; the image holds the one for CPUs."""

NODE_COMMAND: Final = ("python", "-P", "-m", "node")
"""Command that starts a node in its image; options follow."""

VERSION_LABEL: Final = "fragmesh.version"
CONTENT_LABEL: Final = "fragmesh.content"
KIND_LABEL: Final = "fragmesh.image"
BASE_LABEL: Final = "fragmesh.base"


@dataclass(frozen=True, slots=True)
class ImageRecipe:
    """Content of an image.

    Attributes:
        kind: Of which image.
        version: Of the package.
        dockerfile: How it is built.
        content: Files of its build context, by path.
    """

    kind: ImageKind
    version: str
    dockerfile: str
    content: Mapping[str, bytes]

    @property
    def digest(self) -> str:
        """SHA-256 of everything in the recipe, in hexadecimal."""
        digest = hashlib.sha256()
        for name, data in [("Dockerfile", self.dockerfile.encode()), *sorted(self.content.items())]:
            digest.update(f"{len(name)} {name} {len(data)} ".encode() + data)
        return digest.hexdigest()

    @property
    def tag(self) -> str:
        """Name of the image: its kind, version and content."""
        version = self.version.replace("+", "-")  # which a tag must not hold
        return f"fragmesh-{self.kind}:{version}-{self.digest[:12]}"

    def labels(self, base: str) -> dict[str, str]:
        """Labels of the image, built on a base image."""
        return {
            KIND_LABEL: self.kind,
            VERSION_LABEL: self.version,
            CONTENT_LABEL: self.digest,
            BASE_LABEL: base,
        }

    def write_context(self, file: IO[bytes], wheels: Sequence[Path] = ()) -> None:
        """Write the build context as a tar archive, always the same bytes for the same content.

        Args:
            file: Where to.
            wheels: Files that pip takes before it asks an index.

        Raises:
            ConfigError: A wheel cannot be read.
        """
        with tarfile.open(fileobj=file, mode="w") as archive:
            _add(archive, "Dockerfile", self.dockerfile.encode())
            for name, data in sorted(self.content.items()):
                _add(archive, name, data)
            folder = tarfile.TarInfo("wheels")
            folder.type, folder.mode = tarfile.DIRTYPE, 0o755
            archive.addfile(folder)
            for wheel in wheels:
                try:
                    with wheel.open("rb") as source:
                        entry = tarfile.TarInfo(f"wheels/{wheel.name}")
                        entry.size = wheel.stat().st_size
                        archive.addfile(entry, source)
                except OSError as error:
                    raise ConfigError(f"{wheel}: cannot be read: {error.strerror or error}") from error


def _add(archive: tarfile.TarFile, name: str, data: bytes) -> None:
    entry = tarfile.TarInfo(name)
    entry.size = len(data)
    archive.addfile(entry, io.BytesIO(data))


def node_recipe() -> ImageRecipe:
    """Make the recipe of a node's image from what is installed.

    Raises:
        ConfigError: A library of a node is not installed.
    """
    pins = pinned(NODE_LIBRARIES)
    torch = {name: version for name, version in pins.items() if name in _TORCH}
    others = {name: version for name, version in pins.items() if name not in _TORCH}
    content = {
        "torch.txt": _requirements(torch),
        "requirements.txt": _requirements(others),
        # A node tells the orchestrator of which release it is, and asks Python for it.
        "fragmesh.dist-info/METADATA": _metadata(package_version()),
        **{f"node/{name}": data for name, data in _source(Path(node.__file__).parent)},
    }
    return ImageRecipe("node", package_version(), _dockerfile("node"), content)


def shaper_recipe() -> ImageRecipe:
    """Make the recipe of the image of the helper that shapes links."""
    return ImageRecipe("shaper", package_version(), _dockerfile("shaper"), {})


def package_version() -> str:
    """The version of fragmesh; of a source tree that nobody installed ``0``."""
    try:
        return metadata.version("fragmesh")
    except metadata.PackageNotFoundError:
        return "0"


def python_image() -> str:
    """Name of the base image that has the Python which runs this."""
    return f"python:{sys.version_info.major}.{sys.version_info.minor}-slim-bookworm"


def pinned(names: Sequence[str]) -> dict[str, str]:
    """Return distributions and all that they need, each with the version that is installed, in alphabetical order.

    torch becomes its build for CPUs of the same release.

    Raises:
        ConfigError: One of them is not installed.
    """
    found: dict[str, str] = {}
    waiting = list(names)
    while waiting:
        name = canonicalize_name(waiting.pop())
        if name in found or name.startswith(_NOT_FOR_CPUS):
            continue
        try:
            distribution = metadata.distribution(name)
        except metadata.PackageNotFoundError:
            raise ConfigError(f"{name}: not installed here, so its release for nodes is not known") from None
        version = distribution.version
        if name in _TORCH:
            version = version.partition("+")[0] + "+cpu" * (name == "torch")
        found[name] = version
        for requirement in map(Requirement, distribution.requires or ()):
            if requirement.marker is None or requirement.marker.evaluate({"extra": ""}):
                waiting.append(requirement.name)
    return dict(sorted(found.items()))


def _requirements(pins: Mapping[str, str]) -> bytes:
    return "".join(f"{name}=={version}\n" for name, version in pins.items()).encode()


def _metadata(version: str) -> bytes:
    return f"Metadata-Version: 2.1\nName: fragmesh\nVersion: {version}\n".encode()


def _dockerfile(kind: ImageKind) -> str:
    return (files("orchestrator.containers") / "images" / f"{kind}.Dockerfile").read_text(encoding="utf-8")


def _source(package: Path) -> Iterator[tuple[str, bytes]]:
    """Files of a package that it needs to run, with their paths in it."""
    for path in package.rglob("*"):
        name = path.relative_to(package)
        hidden = any(part.startswith(".") or part == "__pycache__" for part in name.parts)
        if path.is_file() and not hidden and path.suffix not in (".pyc", ".pyi", ".md"):
            yield name.as_posix(), path.read_bytes()
