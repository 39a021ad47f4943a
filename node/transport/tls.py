"""Mutual TLS for gRPC: who serves, who calls, who the caller is, and what went wrong, in words.

A client asks for the name of the one that it means to call, wherever that one listens. A server lets nobody in whom the
run's authority has not certified; whether the caller is the node that it says it is, the server asks :func:`impostor`.
gRPC tells a server nothing of those that it turns away in the handshake, and them not much: :func:`trouble` tells more.
"""

from collections.abc import Sequence
from typing import Any, Final, TypeAlias

import grpc
import grpc.aio

from node.host.credentials import Credentials

Options: TypeAlias = Sequence[tuple[str, Any]]

_TURNED_AWAY: Final = (
    # Whoever sees a certificate that is none of the run's is told why; its own is refused without a word.
    ("CERTIFICATE_VERIFY_FAILED", "its certificate is none of this run's"),
    ("Hostname Verification", "its certificate is another one's"),
    ("WRONG_VERSION_NUMBER", "it does not speak TLS"),
)
_HANGS_UP: Final = "Socket closed"


def bind(server: grpc.aio.Server, address: str, credentials: Credentials | None) -> int:
    """Let a server listen, in plain text without credentials.

    Returns:
        The port.

    Raises:
        RuntimeError: The port is taken, or the address is not this host's.
    """
    if credentials is None:
        return server.add_insecure_port(address)
    pairs = [(credentials.key, credentials.certificate)]
    return server.add_secure_port(address, grpc.ssl_server_credentials(pairs, credentials.authority, True))


def channel(address: str, name: str, credentials: Credentials | None, options: Options) -> grpc.aio.Channel:
    """Make a channel, in plain text without credentials.

    Args:
        address: Where to call, host:port.
        name: The name that must stand in the certificate of whoever answers.
        credentials: The caller's.
        options: Of gRPC.
    """
    if credentials is None:
        return grpc.aio.insecure_channel(address, options)
    trusted = grpc.ssl_channel_credentials(credentials.authority, credentials.key, credentials.certificate)
    return grpc.aio.secure_channel(address, trusted, [*options, ("grpc.ssl_target_name_override", name)])


def impostor(context: "grpc.aio.ServicerContext[Any, Any]", name: str, credentials: Credentials | None) -> str | None:
    """Say why whoever calls is not the one of that name, in words; None if it is, and in plain text.

    Args:
        context: Of the call.
        name: The name that must stand in the caller's certificate.
        credentials: The server's.
    """
    if credentials is None:
        return None
    found = [other.decode("utf-8", "replace") for other in context.auth_context()["x509_subject_alternative_name"]]
    return None if name in found else f"its certificate is of {', '.join(found)}"


def is_hopeless(details: str) -> bool:
    """Tell whether an attempt to connect failed at a certificate, so that another would fail as well."""
    return any(sign in details for sign, _ in _TURNED_AWAY)


def trouble(details: str, credentials: Credentials | None) -> str | None:
    """Say in words why no connection came about; None if that has nothing to do with certificates.

    Args:
        details: What gRPC says.
        credentials: The caller's.
    """
    for sign, words in _TURNED_AWAY:
        if sign in details:
            reason = details.partition(f"{sign}: ")[2].removesuffix(": OK")
            return f"{words} ({reason})" if sign == "CERTIFICATE_VERIFY_FAILED" and reason else words
    if _HANGS_UP in details:
        why = "it speaks TLS" if credentials is None else "it does not accept this node's certificate"
        return f"it hung up at once, perhaps because {why}"
    return None
