"""Certificates of one part of a run: an authority that lives for a moment, and what it certifies.

The authority's key exists in this module's one call and nowhere else, so that nobody can be certified afterwards. A
part that goes on with a run has a new authority, and what an earlier part's nodes had is worth nothing in it.
"""

from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Final

from cryptography import x509
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

from node.core.types import NodeId
from node.host.credentials import Credentials, node_name, orchestrator_name

CLOCKS_APART: Final = timedelta(minutes=10)
"""Time that a node's clock may be behind the orchestrator's."""

VALID_MAX: Final = timedelta(days=3_650)


@dataclass(frozen=True)
class RunCredentials:
    """The credentials of one part of a run.

    Attributes:
        orchestrator: The orchestrator's, for its control server.
        nodes: Each node's, in order.
    """

    orchestrator: Credentials
    nodes: tuple[Credentials, ...]


def issue_credentials(run_id: str, num_nodes: int, valid: timedelta) -> RunCredentials:
    """Make an authority, let it certify everybody, and forget its key.

    Args:
        run_id: The run's name.
        num_nodes: How many nodes it has.
        valid: For how long from now on; at most :data:`VALID_MAX`.
    """
    begin = datetime.now(UTC)
    times = begin - CLOCKS_APART, begin + min(valid, VALID_MAX)
    key = ec.generate_private_key(ec.SECP256R1())
    names = [orchestrator_name(run_id), *(node_name(run_id, NodeId(node)) for node in range(num_nodes))]
    common = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, f"authority of {names[0].partition('.')[2]}")])
    authority = (
        _unsigned(common, common, key.public_key(), times)
        .add_extension(x509.BasicConstraints(ca=True, path_length=0), critical=True)
        .add_extension(_usage(key_cert_sign=True), critical=True)
        .sign(key, SHA256())
    )
    pem = authority.public_bytes(Encoding.PEM)
    issued = [_certify(name, common, key, times, pem) for name in names]
    return RunCredentials(issued[0], tuple(issued[1:]))


def _certify(
    name: str, issuer: x509.Name, issuer_key: ec.EllipticCurvePrivateKey, times: tuple[datetime, datetime], pem: bytes
) -> Credentials:
    """Certify a new key under a name. A node serves its peers and calls them, so that all may do both."""
    key = ec.generate_private_key(ec.SECP256R1())
    subject = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, name.partition(".")[0])])
    certificate = (
        _unsigned(subject, issuer, key.public_key(), times)
        .add_extension(x509.BasicConstraints(ca=False, path_length=None), critical=True)
        .add_extension(x509.SubjectAlternativeName([x509.DNSName(name)]), critical=False)
        .add_extension(_usage(digital_signature=True), critical=True)
        .add_extension(
            x509.ExtendedKeyUsage([ExtendedKeyUsageOID.SERVER_AUTH, ExtendedKeyUsageOID.CLIENT_AUTH]), critical=False
        )
        .add_extension(x509.AuthorityKeyIdentifier.from_issuer_public_key(issuer_key.public_key()), critical=False)
        .sign(issuer_key, SHA256())
    )
    return Credentials(
        certificate=certificate.public_bytes(Encoding.PEM),
        authority=pem,
        key=key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption()),
    )


def _unsigned(
    subject: x509.Name, issuer: x509.Name, key: ec.EllipticCurvePublicKey, times: tuple[datetime, datetime]
) -> x509.CertificateBuilder:
    return (
        x509.CertificateBuilder()
        .subject_name(subject)
        .issuer_name(issuer)
        .public_key(key)
        .serial_number(x509.random_serial_number())
        .not_valid_before(times[0])
        .not_valid_after(times[1])
        .add_extension(x509.SubjectKeyIdentifier.from_public_key(key), critical=False)
    )


def _usage(*, digital_signature: bool = False, key_cert_sign: bool = False) -> x509.KeyUsage:
    return x509.KeyUsage(
        digital_signature=digital_signature,
        key_cert_sign=key_cert_sign,
        content_commitment=False,
        key_encipherment=False,
        data_encipherment=False,
        key_agreement=False,
        crl_sign=False,
        encipher_only=False,
        decipher_only=False,
    )
