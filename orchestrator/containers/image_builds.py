"""Building images, and having the one that fits the fragmesh that is installed."""

import re
import tempfile
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final
from urllib.parse import urlsplit

from node.core.errors import ConfigError
from orchestrator.containers.image_recipes import (
    CONTENT_LABEL,
    KIND_LABEL,
    VERSION_LABEL,
    ImageRecipe,
    python_image,
)
from orchestrator.containers.interface import Engine, EngineError, ImageFacts

SHAPER_BASE: Final = "alpine:3.20"
TORCH_INDEX: Final = "https://download.pytorch.org/whl/cpu"
"""Index of torch's builds for CPUs; PyPI's for Linux hold several GB of CUDA."""

_PROXIES: Final = ("HTTP_PROXY", "HTTPS_PROXY", "NO_PROXY", "http_proxy", "https_proxy", "no_proxy")
_LINES_KEPT: Final = 400


@dataclass(frozen=True, slots=True)
class BuildOptions:
    """Sources of an image's parts.

    Attributes:
        base: Base image of both images; None takes Python's own for nodes, and a small one for the shaper.
        find_links: Folders with wheels, or addresses of pages with links to wheels, that pip takes first.
        pip: More options of pip, for example ``--index-url=https://mirror/simple``.
        proxies: Variables that lead a build to the outside, for example ``HTTPS_PROXY``.
    """

    base: str | None = None
    find_links: Sequence[str] = ()
    pip: Sequence[str] = ()
    proxies: Mapping[str, str] = field(default_factory=dict)

    @classmethod
    def from_environment(cls, environment: Mapping[str, str]) -> "BuildOptions":
        """Take what this process's variables say, so that pip in a build finds what pip finds here.

        ``FRAGMESH_BASE_IMAGE`` names the base image. Of pip's own variables those count that name wheels and indexes,
        and of the others those that name proxies.
        """
        indexes = {"--index-url": "PIP_INDEX_URL", "--extra-index-url": "PIP_EXTRA_INDEX_URL"}
        pip = [
            f"{option}={address}"
            for option, name in indexes.items()
            for address in environment.get(name, "").split()
            if urlsplit(address).scheme in ("http", "https")  # a folder of this machine is not in the build
        ]
        return cls(
            base=environment.get("FRAGMESH_BASE_IMAGE") or None,
            find_links=environment.get("PIP_FIND_LINKS", "").split(),
            pip=pip,
            proxies={name: environment[name] for name in _PROXIES if environment.get(name)},
        )


@dataclass(frozen=True, slots=True)
class BuiltImage:
    """An image that is there.

    Attributes:
        name: Its tag.
        facts: What the engine says of it.
        build_s: How long its build took; None if it was there.
    """

    name: str
    facts: ImageFacts
    build_s: float | None


def have_image(engine: Engine, recipe: ImageRecipe, options: BuildOptions, tell: Callable[[str], None]) -> BuiltImage:
    """Return the image of a recipe, built if it is missing.

    Args:
        engine: Where.
        recipe: Of what.
        options: Where its parts come from.
        tell: Called with each line of a build's output.

    Raises:
        ConfigError: It cannot be built; one line with the reason and a remedy. Or another image has its name.
    """
    found = engine.find_image(recipe.tag)
    if found is not None:
        check_image(recipe.tag, found, recipe)
        return BuiltImage(recipe.tag, found, None)
    begin = time.monotonic()
    build_image(engine, recipe, options, tell)
    found = engine.find_image(recipe.tag)
    assert found is not None, f"{recipe.tag}: built and not there"
    return BuiltImage(recipe.tag, found, time.monotonic() - begin)


def named_image(engine: Engine, name: str, recipe: ImageRecipe, place: str) -> BuiltImage:
    """Return an image that the user names, if it is of this version and content.

    Args:
        engine: Where.
        name: Which image.
        recipe: What it must be made of.
        place: The setting that names it, for messages.

    Raises:
        ConfigError: It is missing, or of another version or content.
    """
    found = engine.find_image(name)
    if found is None:
        raise ConfigError(f"{place}={name}: there is no such image; fragmesh image builds {recipe.tag}")
    check_image(f"{place}={name}", found, recipe)
    return BuiltImage(name, found, None)


def check_image(place: str, found: ImageFacts, recipe: ImageRecipe) -> None:
    """Refuse an image that was not made of a recipe.

    Raises:
        ConfigError: It is of another kind, version or content.
    """
    wanted = {KIND_LABEL: recipe.kind, VERSION_LABEL: recipe.version, CONTENT_LABEL: recipe.digest}
    for label, value in wanted.items():
        actual = found.labels.get(label)
        if actual != value:
            shown = "missing" if actual is None else actual[:12]
            raise ConfigError(
                f"{place}: {label}={shown}: must be {value[:12]}, as this fragmesh is; fragmesh image builds it"
            )


def build_image(engine: Engine, recipe: ImageRecipe, options: BuildOptions, tell: Callable[[str], None]) -> None:
    """Build the image of a recipe, whatever is there.

    Raises:
        ConfigError: It cannot be built; one line with the reason and a remedy.
    """
    base = _have_base(engine, recipe, options, tell)
    wheels, links = find_wheels(recipe, options.find_links)
    pip = [*(f"--find-links={link}" for link in links), *options.pip]
    arguments = {"BASE_IMAGE": base.name, **options.proxies}
    if recipe.kind == "node":
        arguments["PIP_OPTIONS"] = " ".join(pip)
        if not any(wheel.name.startswith("torch-") for wheel in wheels):
            # One retry, because an index that cannot be reached is asked about each of them.
            arguments["TORCH_OPTIONS"] = f"--retries=1 --extra-index-url={TORCH_INDEX}"
    lines: list[str] = []

    def keep(line: str) -> None:
        lines.append(line)
        del lines[:-_LINES_KEPT]
        tell(line)

    with tempfile.TemporaryFile() as context:
        recipe.write_context(context, wheels)
        context.seek(0)
        try:
            engine.build_image(context, recipe.tag, recipe.labels(f"{base.name} {base.identity}"), arguments, keep)
        except EngineError as error:
            remedy = "fragmesh image --help tells how to give it a base image, wheels and options of pip"
            raise ConfigError(f"{error}{_reason(lines)}; {remedy}") from error


@dataclass(frozen=True, slots=True)
class _Base:
    name: str
    identity: str


def _have_base(engine: Engine, recipe: ImageRecipe, options: BuildOptions, tell: Callable[[str], None]) -> _Base:
    name = options.base
    if name is None:
        name = python_image() if recipe.kind == "node" else SHAPER_BASE
    found = engine.find_image(name)
    if found is None:
        tell(f"Fetching the base image {name}")
        try:
            engine.pull_image(name)
        except EngineError as error:
            raise ConfigError(f"base {error}; fragmesh image --base-image takes one that is here") from error
        found = engine.find_image(name)
        assert found is not None, f"{name}: pulled and not there"
    return _Base(name, found.identity)


def find_wheels(recipe: ImageRecipe, find_links: Sequence[str]) -> tuple[list[Path], list[str]]:
    """Return wheels on this machine that a recipe wants, and the places that only pip can look into.

    Args:
        recipe: Whose libraries.
        find_links: Folders and addresses, as pip's option of that name takes them.

    Raises:
        ConfigError: A folder is not there.
    """
    wanted = [line for name in ("torch.txt", "requirements.txt") for line in _lines(recipe.content.get(name, b""))]
    beginnings = tuple(
        f"{name.replace('-', '_')}-{version}-" for name, _, version in (w.partition("==") for w in wanted)
    )
    wheels: list[Path] = []
    links = []
    for place in find_links:
        if urlsplit(place).scheme in ("http", "https"):
            links.append(place)
            continue
        folder = Path(urlsplit(place).path if place.startswith("file:") else place)
        if not folder.is_dir():
            raise ConfigError(f"--find-links={place}: is not a directory")
        wheels += [path for path in sorted(folder.glob("*.whl")) if path.name.lower().startswith(beginnings)]
    return wheels, links


def _lines(data: bytes) -> list[str]:
    return data.decode().split()


def _reason(lines: Iterable[str]) -> str:
    """Return the first complaint of a failed build's output, which says more than the command that failed."""
    for line in lines:
        text = re.sub(r"\x1b\[[\d;]*m", "", line).strip()
        if re.match(r"(ERROR|error|E): ", text):
            return f" ({text})"
    return ""
