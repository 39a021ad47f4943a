"""A node's certificate: its names, its file, and its check before the node opens a socket.

Each part of a run has an authority of its own, which certifies every node and the orchestrator under a name and then is
gone (``orchestrator.runs.certificates``). Both sides of a connection trust that authority alone and ask for the name
that they mean to speak with, so that an address leads to the right node of the right run, or nowhere.

The check needs the standard library alone: the package that makes certificates would take ten megabytes of each node.
"""

import hashlib
import re
import ssl
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final

from node.core.errors import ConfigError

PEM_BYTES_MAX: Final = 2**16
"""Size of a file with credentials; two certificates and a key take less than two kilobytes."""

_BLOCK: Final = re.compile(rb"-----BEGIN ([A-Z ]+)-----\r?\n.*?-----END \1-----\r?\n?", re.DOTALL)
_KINDS: Final = [b"CERTIFICATE", b"CERTIFICATE", b"PRIVATE KEY"]


@dataclass(frozen=True)
class Credentials:
    """Everything that one side of an encrypted connection needs, as PEM.

    Attributes:
        certificate: The side's own.
        authority: The certificate of the run's authority, the only one that is trusted.
        key: The private key of the side's certificate. No text of this object shows it.
    """

    certificate: bytes
    authority: bytes
    key: bytes = field(repr=False)

    def to_pem(self) -> bytes:
        """Return the content of the file that :func:`credentials_of` reads."""
        return self.certificate + self.authority + self.key


def node_name(run_id: str, node: int) -> str:
    """Return the name in a node's certificate, a DNS name. A run's name may hold letters that no DNS name has."""
    return f"node-{node}.{_run_label(run_id)}.fragmesh"


def orchestrator_name(run_id: str) -> str:
    """Return the name in the orchestrator's certificate, a DNS name."""
    return f"orchestrator.{_run_label(run_id)}.fragmesh"


def _run_label(run_id: str) -> str:
    return hashlib.sha256(run_id.encode("utf-8", "surrogateescape")).hexdigest()[:32]


def credentials_of(path: Path, content: bytes, name: str) -> Credentials:
    """Take credentials apart and check them, as both sides of a connection would.

    Args:
        path: Their file, a regular one.
        content: Its content: certificate, certificate of the authority, private key, in this order.
        name: The name that the certificate must hold.

    Raises:
        ConfigError: They are no credentials, of another name or another authority, or not valid now; one line.
    """
    if not path.is_file():  # it is read once more below, and a pipe would say nothing then
        raise ConfigError(f"{path}: must be a regular file")
    blocks = list(_BLOCK.finditer(content))
    if [block[1] for block in blocks] != _KINDS:
        raise ConfigError(f"{path}: must hold a certificate, that of its authority and a private key, as PEM")
    credentials = Credentials(*(block[0] for block in blocks))
    try:
        _shake_hands_with_itself(path, credentials, name)
    except ssl.SSLCertVerificationError as error:
        raise ConfigError(f"{path}: certificate of {name}: is not valid: {error.verify_message.rstrip('.')}") from None
    except ssl.SSLError as error:
        if error.reason == "KEY_VALUES_MISMATCH":
            raise ConfigError(f"{path}: the private key does not belong to the certificate") from None
        reason = f" ({error.reason.lower().replace('_', ' ')})" if error.reason else ""
        raise ConfigError(f"{path}: certificate or key: is damaged{reason}") from None
    except ValueError:  # letters beyond ASCII
        raise ConfigError(f"{path}: certificate or key: is damaged") from None
    return credentials


def _shake_hands_with_itself(path: Path, credentials: Credentials, name: str) -> None:
    """Be both sides of a connection in memory: each checks what the other one shows."""
    server, client = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER), ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    server.verify_mode = ssl.CERT_REQUIRED
    for context in (server, client):
        context.load_verify_locations(cadata=credentials.authority.decode("ascii"))
        context.load_cert_chain(path, password="")  # else an encrypted key would ask the terminal
    to_server, to_client = ssl.MemoryBIO(), ssl.MemoryBIO()
    sides = [
        client.wrap_bio(to_client, to_server, server_hostname=name),
        server.wrap_bio(to_server, to_client, server_side=True),
    ]
    while sides:
        side = sides.pop(0)
        try:
            side.do_handshake()
        except ssl.SSLWantReadError:
            sides.append(side)
