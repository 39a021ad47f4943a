"""The address of the Docker engine: as the ``docker`` command finds it, by ``DOCKER_HOST`` or a context.

The SDK knows neither ``DOCKER_CONTEXT`` nor, unasked, the context that ``docker context use`` chose; whoever talks to
one engine by hand must not run experiments on another one.
"""

import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from node.core.errors import ConfigError

DEFAULT_URL: Final = "unix:///var/run/docker.sock"


@dataclass(frozen=True, slots=True)
class Endpoint:
    """Address of an engine.

    Attributes:
        url: Where it listens, for example ``unix:///var/run/docker.sock``.
        named_by: The setting that says so, for messages: ``DOCKER_HOST=tcp://lab:2375``.
        certificates: Folder with ca.pem, cert.pem and key.pem; None without TLS.
    """

    url: str
    named_by: str
    certificates: Path | None = None


def find_endpoint(environment: Mapping[str, str], home: Path) -> Endpoint:
    """Return where the ``docker`` command would look for the engine.

    Args:
        environment: The variables of this process.
        home: The user's home directory.

    Raises:
        ConfigError: The context that is named is not there or cannot be read.
    """
    folder = Path(environment.get("DOCKER_CONFIG") or home / ".docker")
    if url := environment.get("DOCKER_HOST"):
        certificates = Path(environment.get("DOCKER_CERT_PATH") or folder)
        verify = bool(environment.get("DOCKER_TLS_VERIFY"))
        return Endpoint(url, f"DOCKER_HOST={url}", certificates if verify else None)
    if name := environment.get("DOCKER_CONTEXT"):
        return _of_context(name, folder, f"DOCKER_CONTEXT={name}")
    config = folder / "config.json"
    name = _read(config).get("currentContext") if config.exists() else None
    if name:
        return _of_context(str(name), folder, f"{config}: currentContext={name}")
    return Endpoint(DEFAULT_URL, f"Docker engine at {DEFAULT_URL}")


def _of_context(name: str, folder: Path, named_by: str) -> Endpoint:
    if name == "default":
        return Endpoint(DEFAULT_URL, named_by)
    identity = hashlib.sha256(name.encode()).hexdigest()
    meta = folder / "contexts" / "meta" / identity / "meta.json"
    if not meta.exists():
        raise ConfigError(f"{named_by}: there is no such context; docker context ls lists them")
    try:
        url = str(_read(meta)["Endpoints"]["docker"]["Host"])
    except (KeyError, TypeError):
        raise ConfigError(f"{meta}: Endpoints.docker.Host: missing") from None
    certificates = folder / "contexts" / "tls" / identity / "docker"
    return Endpoint(url, f"{named_by} ({url})", certificates if certificates.is_dir() else None)


def _read(path: Path) -> dict[str, Any]:
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise ConfigError(f"{path}: cannot be read: {error.strerror or error}") from None
    except ValueError as error:
        raise ConfigError(f"{path}: is not JSON: {' '.join(str(error).split())}") from None
    if not isinstance(content, dict):
        raise ConfigError(f"{path}: must hold keys and values, holds {type(content).__name__}")
    return content
