"""Certificates of a run, as the orchestrator makes them and as a node checks its own before it opens a socket."""

import os
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
from cryptography import x509
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import (
    BestAvailableEncryption,
    Encoding,
    PrivateFormat,
    load_pem_private_key,
)

from node.core.errors import ConfigError
from node.host.credentials import Credentials, credentials_of, node_name, orchestrator_name
from orchestrator.runs import certificates
from orchestrator.runs.certificates import issue_credentials

RUN = "quickstart-20260131-120000-ab12cd34"
HOUR = timedelta(hours=1)
ISSUED = issue_credentials(RUN, 3, HOUR)
OWN = ISSUED.nodes[1]
CERTIFICATE = x509.load_pem_x509_certificate(OWN.certificate)
FOREIGN = issue_credentials(RUN, 3, HOUR).nodes[1]
"""The same node of another part of the run."""


def check(folder: Path, content: bytes, name: str = node_name(RUN, 1)) -> Credentials:
    path = folder / "node-0001.pem"
    path.write_bytes(content)
    return credentials_of(path, content, name)


def refusal(folder: Path, content: bytes) -> str:
    """The one line, without the folder."""
    with pytest.raises(ConfigError) as caught:
        check(folder, content)
    line = str(caught.value)
    assert "\n" not in line
    assert line.startswith(f"{folder}/node-0001.pem: ")
    return line.removeprefix(f"{folder}/node-0001.pem: ")


def test_what_is_issued_is_valid(tmp_path: Path) -> None:
    for node, issued in enumerate(ISSUED.nodes):
        assert check(tmp_path, issued.to_pem(), node_name(RUN, node)) == issued
    orchestrator = ISSUED.orchestrator
    assert check(tmp_path, orchestrator.to_pem(), orchestrator_name(RUN)) == orchestrator


@pytest.mark.parametrize("run_id", ["x" * 255, "a run\nwith ünusual letters", os.fsdecode(b"\xff")])
def test_a_run_may_have_any_name(run_id: str, tmp_path: Path) -> None:
    check(tmp_path, issue_credentials(run_id, 1, HOUR).nodes[0].to_pem(), node_name(run_id, 0))
    assert len(node_name(run_id, 0)) < 64


def test_names_differ_by_run_and_node() -> None:
    names = {node_name(run, node) for run in ("a", "b") for node in range(20)}
    names |= {orchestrator_name("a"), orchestrator_name("b")}
    assert len(names) == 42


def test_every_part_has_an_authority_of_its_own_and_every_node_a_key() -> None:
    assert OWN.authority == ISSUED.orchestrator.authority == ISSUED.nodes[0].authority
    assert OWN.authority != FOREIGN.authority
    keys = {issued.key for issued in (*ISSUED.nodes, ISSUED.orchestrator, FOREIGN)}
    assert len(keys) == 5
    authority = x509.load_pem_x509_certificate(OWN.authority)
    for key in keys:  # the authority's own is nowhere
        private = load_pem_private_key(key, None)
        assert isinstance(private, ec.EllipticCurvePrivateKey)
        assert private.curve.name == "secp256r1"
        assert private.public_key() != authority.public_key()


def test_they_are_valid_for_as_long_as_was_asked_for() -> None:
    valid = CERTIFICATE.not_valid_after_utc - CERTIFICATE.not_valid_before_utc
    assert valid == HOUR + certificates.CLOCKS_APART
    longest = x509.load_pem_x509_certificate(issue_credentials(RUN, 1, timedelta(days=10**6)).nodes[0].certificate)
    assert longest.not_valid_after_utc <= datetime.now(UTC) + certificates.VALID_MAX


def test_no_text_shows_a_key() -> None:
    for shown in (repr(OWN), str(OWN), repr(ISSUED), f"{OWN}"):
        assert "PRIVATE" not in shown
        assert OWN.key.decode().splitlines()[1] not in shown


def flipped(place: int) -> bytes:
    content = bytearray(OWN.to_pem())
    content[place] = ord("A") if content[place] != ord("A") else ord("B")
    return bytes(content)


def encrypted() -> bytes:
    key = load_pem_private_key(OWN.key, None).private_bytes(
        Encoding.PEM, PrivateFormat.TraditionalOpenSSL, BestAvailableEncryption(b"secret")
    )
    return OWN.certificate + OWN.authority + key.replace(b"EC PRIVATE", b"PRIVATE")


NO_PEM = "must hold a certificate, that of its authority and a private key, as PEM"
DAMAGED = "certificate or key: is damaged"
NOT_VALID = f"certificate of {node_name(RUN, 1)}: is not valid: "


@pytest.mark.parametrize(
    ("content", "why"),
    [
        (lambda: b"", NO_PEM),
        (lambda: OWN.to_pem()[:-30], NO_PEM),
        (lambda: OWN.certificate + OWN.key, NO_PEM),
        (lambda: OWN.to_pem() + OWN.key, NO_PEM),
        (lambda: OWN.key + OWN.authority + OWN.certificate, NO_PEM),
        (lambda: OWN.to_pem().replace(OWN.key[28:60], b"!" * 32), DAMAGED),
        (lambda: OWN.to_pem().replace(OWN.authority[28:60], b"\xff" * 32), DAMAGED),
        (encrypted, DAMAGED),
        (lambda: flipped(200), f"{NOT_VALID}certificate signature failure"),
        (lambda: ISSUED.nodes[2].to_pem(), f"{NOT_VALID}Hostname mismatch, certificate is not valid for 'node-1."),
        (lambda: ISSUED.orchestrator.to_pem(), f"{NOT_VALID}Hostname mismatch"),
        (lambda: issue_credentials("other", 3, HOUR).nodes[1].to_pem(), f"{NOT_VALID}Hostname mismatch"),
        (
            lambda: FOREIGN.certificate + OWN.authority + FOREIGN.key,
            f"{NOT_VALID}unable to get local issuer certificate",
        ),
        (
            lambda: OWN.certificate + OWN.authority + FOREIGN.key,
            "the private key does not belong to the certificate",
        ),
        (
            lambda: issue_credentials(RUN, 3, timedelta(seconds=-1)).nodes[1].to_pem(),
            f"{NOT_VALID}certificate has expired",
        ),
    ],
    ids=range(15),
)
def test_credentials_that_are_of_no_use(content: Callable[[], bytes], why: str, tmp_path: Path) -> None:
    assert refusal(tmp_path, content()).startswith(why)


def test_credentials_that_are_not_valid_yet(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(certificates, "CLOCKS_APART", -HOUR / 2)
    content = issue_credentials(RUN, 3, HOUR).nodes[1].to_pem()
    assert refusal(tmp_path, content) == f"{NOT_VALID}certificate is not yet valid"


def test_a_pipe_is_not_waited_for(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe")
    with pytest.raises(ConfigError, match="pipe: must be a regular file"):
        credentials_of(tmp_path / "pipe", OWN.to_pem(), node_name(RUN, 1))


def test_damaged_bytes_never_pass_for_others(tmp_path: Path) -> None:
    """Whatever a letter becomes: refused in one line, or the same certificate all the same."""
    content, harmless = OWN.to_pem(), 0
    for place in range(0, len(content), 19):
        damaged = bytearray(content)
        damaged[place] ^= 1
        try:
            found = check(tmp_path, bytes(damaged))
        except ConfigError as error:
            harmless += "\n" not in str(error)
        else:
            harmless += x509.load_pem_x509_certificate(found.certificate) == CERTIFICATE
    assert harmless == len(range(0, len(content), 19))
