"""Runs whose nodes speak TLS: real processes, from the experiment's key to the last key file."""

import re
import signal
import socket
import ssl
import sys
from datetime import UTC, datetime
from pathlib import Path

import psutil
import pytest
from cryptography import x509

from node.host.credentials import node_name, orchestrator_name
from orchestrator.results.reader import Run
from tests.integration.started import ENDLESS, Start, Started, done, start
from tests.integration.test_process_faults import failure

__all__ = ["start"]

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="looks into /proc")

TLS = "network.tls=true"
END = "-----END CERTIFICATE-----\n"


def served_name_is(process: psutil.Process, name: str, keys: Path) -> bool:
    """Whether a process listens on one port and speaks TLS there under a name, to whoever has a node's keys."""
    (port,) = {one.laddr.port for one in process.net_connections("tcp") if one.status == psutil.CONN_LISTEN}
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.load_verify_locations(cadata=keys.read_text().split("-----END CERTIFICATE-----\n")[1] + END)
    context.load_cert_chain(keys)
    context.set_alpn_protocols(["h2"])
    with (
        socket.create_connection(("127.0.0.1", port), timeout=60) as plain,
        context.wrap_socket(plain, server_hostname=name) as encrypted,
    ):
        return encrypted.version() == "TLSv1.3"


def check_no_key_is_left(run: Run) -> None:
    assert not list(run.path.rglob("*.pem*"))
    for path in run.path.rglob("*"):
        assert path.is_dir() or b"PRIVATE KEY" not in path.read_bytes(), path


def keys_of(started: Started) -> list[Path]:
    return sorted(started.path.glob("nodes/*.pem"))


def test_everybody_speaks_tls_and_no_key_outlives_its_part(start: Start) -> None:
    started = start(ENDLESS, TLS, "observe.metrics=false")  # which are plain text, on a port of their own
    started.until_it_runs()
    path = started.path
    keys = keys_of(started)
    assert [key.name for key in keys] == [f"node-000{node}.pem" for node in range(3)]
    assert {key.stat().st_mode & 0o777 for key in keys} == {0o600}
    before = [key.read_bytes() for key in keys]
    served = {node_name(path.name, node): process for node, process in started.nodes().items()}
    served[orchestrator_name(path.name)] = psutil.Process(started.process.pid)
    assert all(served_name_is(process, name, keys[0]) for name, process in served.items())
    started.process.send_signal(signal.SIGINT)
    code, _, err = started.end()
    assert code == 130, err
    run = started.run()
    assert run.environment is not None
    assert run.environment["tls"] is True
    check_no_key_is_left(run)

    # What goes on has certificates of its own.
    again = start(resume=path)
    again.until(lambda: len(keys_of(again)) == 3, "keys of the second part")
    authorities = {key.split(END.encode())[1] for key in (*before, *(key.read_bytes() for key in keys_of(again)))}
    assert len(authorities) == 2
    again.process.send_signal(signal.SIGINT)
    assert again.end()[0] == 130
    check_no_key_is_left(run)


@pytest.mark.parametrize("links", ["emulated", "direct"])
def test_what_does_not_depend_on_time_is_what_plain_text_gives(links: str, start: Start) -> None:
    """Models after so many rounds, to the bit, over either kind of link."""
    settings = ["algorithm.kind=dpsgd", "topology={kind: ring}", "stop={rounds: 7}"]
    if links == "direct":
        settings.append("network={links: direct, preset: {kind: uniform, bandwidth_mbps: null, latency_ms: 0}}")
    runs = [done(start(*settings, f"network.tls={tls}")) for tls in ("true", "false")]
    for name in ("accuracy_mean", "loss_mean", "consensus_distance", "rounds_min", "rounds_max", "bytes_sent"):
        assert runs[0].curve[name][-1] == runs[1].curve[name][-1], name
    for run, tls in zip(runs, (True, False), strict=True):
        assert run.summary is not None
        assert run.summary["messages"]["lost"] == 0
        assert run.environment is not None
        assert run.environment["tls"] is tls
        check_no_key_is_left(run)


def test_certificates_are_valid_until_the_end_and_not_for_ever(start: Start) -> None:
    started = start("stop={time_s: 100000}", "time_dilation=3", TLS)
    started.until_it_runs()
    certificate = x509.load_pem_x509_certificate(keys_of(started)[0].read_bytes())
    left_s = (certificate.not_valid_after_utc - datetime.now(UTC)).total_seconds()
    assert 300_000 < left_s < 300_000 + 2 * 86_400
    started.process.send_signal(signal.SIGINT)
    assert started.end()[0] == 130


@pytest.mark.parametrize(
    ("how", "why"),
    [
        (
            "forked",
            r"failed: node \d ended with code 1 before the start; .*orchestrator at \S+: cannot be reached;"
            r" its certificate is none of this run's \(certificate has expired\)",
        ),
        pytest.param(
            "fresh",
            r"failed: node \d ended with code 2 before the start; it said last: error: \S+/node-000\d\.pem: certificate"
            r" of node-\d\.\w+\.fragmesh: is not valid: certificate has expired",
            marks=pytest.mark.slow,
        ),
    ],
)
def test_certificates_that_have_expired(how: str, why: str, start: Start) -> None:
    """A fresh node finds it in its own file, a forked one at its orchestrator."""
    started = start(TLS, f"processes={{start: {how}, start_timeout_s: 300}}", faults="expired")
    code, _, err = started.end()
    assert code == 3
    assert re.search(why, failure(err)), err
    check_no_key_is_left(started.run())


def test_a_node_with_the_certificate_of_another_one(start: Start) -> None:
    started = start(TLS, faults="swapped_keys")
    code, _, err = started.end()
    assert code == 3
    name = node_name(started.path.name, 2)
    assert f"refuses node 1: node 1: its certificate is of {name}" in failure(err)
