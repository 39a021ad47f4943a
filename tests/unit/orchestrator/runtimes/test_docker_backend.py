"""What is found and refused before a run with containers makes anything."""

from dataclasses import replace
from ipaddress import IPv4Network
from pathlib import Path
from typing import Any

import pytest

from node.core.errors import ConfigError
from node.core.links import PartitionChange
from node.transport.frames import HEADER_BYTES
from orchestrator.containers.image_recipes import node_recipe
from orchestrator.containers.interface import ImageFacts, NetworkFacts
from orchestrator.containers.networks import make_networks
from orchestrator.containers.ownership import Owner, RunScope
from orchestrator.runtimes import docker_backend
from orchestrator.runtimes.docker_backend import (
    check_model,
    find_backend,
    foresee,
    kernel_options,
    memory_limit,
    memory_needed,
)
from orchestrator.shaping.probe import ShapingAbilities
from tests.unit.orchestrator.containers.described import facts
from tests.unit.orchestrator.containers.fake_engine import FakeEngine
from tests.unit.orchestrator.runtimes.docker_plans import engine_with_images, plan

ALL = ShapingAbilities("tc utility, iproute2-6.1.0", {})
NO_NETEM = replace(ALL, problems={"netem": "Error: Specified qdisc kind is unknown."})


class Told:
    """A display that remembers."""

    def __init__(self) -> None:
        self.notes: list[str] = []
        self.prepared: list[str] = []

    def preparing(self, what: str) -> None:
        self.prepared.append(what)

    def note(self, text: str) -> None:
        self.notes.append(text)


@pytest.fixture
def abilities(monkeypatch: pytest.MonkeyPatch) -> dict[str, ShapingAbilities]:
    """What the kernel can; a test puts another value in."""
    found = {"kernel": ALL}
    monkeypatch.setattr(docker_backend, "_probe_in", lambda engine, spec: found["kernel"])
    return found


@pytest.fixture
def congestion(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Path:
    folder = tmp_path / "ipv4"
    folder.mkdir()
    (folder / "tcp_allowed_congestion_control").write_text("reno bbr\n")
    (folder / "tcp_congestion_control").write_text("bbr\n")
    monkeypatch.setattr(docker_backend, "_IPV4", folder)
    return folder


pytestmark = pytest.mark.usefixtures("abilities", "congestion")


def refused(folder: Path, engine: FakeEngine | None = None, **changes: Any) -> str:
    engine = engine or engine_with_images()
    before = dict(engine.containers), dict(engine.resources)
    with pytest.raises(ConfigError) as raised:
        find_backend(plan(folder, **changes), engine, Told(), {})
    assert "\n" not in str(raised.value)
    assert (engine.containers, engine.resources) == before
    return str(raised.value)


def test_all_is_there(tmp_path: Path) -> None:
    told = Told()
    found = find_backend(plan(tmp_path), engine_with_images(), told, {})
    assert found.netem
    assert found.links_name == "kernel: htb and netem"
    assert (told.notes, told.prepared) == ([], [])
    recorded = found.to_json()
    assert recorded["latency_by"] == "kernel"
    assert recorded["sysctls"] == {
        "net.ipv4.tcp_congestion_control": "bbr",
        "net.ipv4.tcp_slow_start_after_idle": "0",
        "net.ipv4.tcp_retries2": "255",
    }
    assert recorded["images"]["node"].endswith(" sha256:there")


def test_a_missing_image_is_built_and_told_of(tmp_path: Path) -> None:
    engine, told = engine_with_images(), Told()
    tag = next(tag for tag in engine.images if "node" in tag)
    del engine.images[tag]
    engine.images["my-base"] = ImageFacts("sha256:base", ("my-base",), {}, 1)
    found = find_backend(plan(tmp_path), engine, told, {"FRAGMESH_BASE_IMAGE": "my-base"})
    assert found.node_image.name == tag
    assert told.prepared == [f"building the image {tag}, once: some minutes"]
    assert [build.tag for build in engine.builds] == [tag]


def test_an_image_of_another_version_is_refused(tmp_path: Path) -> None:
    engine = engine_with_images()
    engine.images["mine"] = ImageFacts("sha256:mine", ("mine",), {"fragmesh.image": "node"}, 1)
    assert refused(tmp_path, engine, docker={"image": "mine"}).startswith(
        "docker.image=mine: fragmesh.version=missing: must be "
    )
    assert refused(tmp_path, docker={"image": "none"}).startswith("docker.image=none: there is no such image; ")


@pytest.mark.parametrize(
    ("changes", "reason"),
    [
        ({"docker": {"subnet": "10.9"}}, "docker.subnet=10.9: must be an IPv4 network, such as 10.9.0.0/23"),
        ({"docker": {"subnet": "10.9.0.1/23"}}, "docker.subnet=10.9.0.1/23: must be an IPv4 network"),
        ({"docker": {"subnet": "10.9.0.0/30"}}, "docker.subnet=10.9.0.0/30: must be /26 or larger"),
        ({"docker": {"subnet": "10.7.0.0/16"}}, "docker.subnet=10.7.0.0/16: must be free: 10.7.1.0/24 is the Docker"),
        (
            {"congestion_control": "cubic"},
            "network.congestion_control=cubic: must be one of reno, bbr, which this kernel lets containers choose",
        ),
        (
            {"transport": "datagram", "overrides": [{"source": 0, "destination": 1, "loss_percent": 1}]},
            "network.transport=datagram: must be reliable with runtime: docker",
        ),
    ],
)
def test_what_cannot_be(changes: dict[str, Any], reason: str, tmp_path: Path) -> None:
    engine = engine_with_images()
    engine.others.append(NetworkFacts("1", "somebody", (IPv4Network("10.7.1.0/24"),)))
    assert refused(tmp_path, engine, **changes).startswith(reason)


def test_a_congestion_control_of_the_host_that_containers_may_not_have(tmp_path: Path, congestion: Path) -> None:
    (congestion / "tcp_congestion_control").write_text("vegas\n")
    assert refused(tmp_path).startswith("network.congestion_control: the host's is vegas: must be one of reno, bbr")
    assert find_backend(plan(tmp_path, congestion_control="reno"), engine_with_images(), Told(), {})


def test_without_netem_the_receivers_add_latency(tmp_path: Path, abilities: dict[str, ShapingAbilities]) -> None:
    abilities["kernel"] = NO_NETEM
    found = find_backend(plan(tmp_path), engine_with_images(), Told(), {})
    assert not found.netem
    assert found.links_name == "kernel: htb, latency by the receivers' delay line"
    assert found.to_json()["latency_by"] == "receiver"
    assert found.to_json()["kernel_lacks"] == {"netem": "Error: Specified qdisc kind is unknown."}
    assert refused(tmp_path, docker={"latency_by": "kernel"}).startswith(
        "docker.latency_by=kernel: must be auto or receiver: this kernel has no netem (Error: "
    )
    lossy = [{"source": 0, "destination": 1, "loss_percent": 1}]
    assert refused(tmp_path, overrides=lossy).startswith(
        "loss_percent: must be 0 where the kernel does not lose packets: no"
    )


def test_an_entry_that_loses_packets_is_named_where_none_can_be_lost(
    tmp_path: Path, abilities: dict[str, ShapingAbilities]
) -> None:
    abilities["kernel"] = NO_NETEM
    (tmp_path / "lossy.csv").write_text("time_s,loss_percent\n0,0\n1,5\n")
    far = {"action": "degrade", "nodes": "all", "latency_ms": 5}
    for lossy in (
        {"action": "degrade", "nodes": 1, "loss_percent": 2},
        {"action": "trace", "nodes": 1, "file": "lossy.csv", "for_s": 2},
    ):
        assert refused(tmp_path, schedule=[far, lossy]).startswith(
            f"schedule[1].action={lossy['action']}: loss_percent: must be 0 where the kernel does not lose packets: no"
        )


def test_the_experiment_may_leave_latency_to_the_receivers(tmp_path: Path) -> None:
    found = find_backend(plan(tmp_path, docker={"latency_by": "receiver"}), engine_with_images(), Told(), {})
    assert not found.netem
    lossy = [{"source": 0, "destination": 1, "loss_percent": 1}]
    assert "docker.latency_by=receiver loses no packets" in refused(
        tmp_path, docker={"latency_by": "receiver"}, overrides=lossy
    )
    assert find_backend(plan(tmp_path, overrides=lossy), engine_with_images(), Told(), {}).netem


def test_a_kernel_that_shapes_nothing_is_refused(tmp_path: Path, abilities: dict[str, ShapingAbilities]) -> None:
    abilities["kernel"] = replace(ALL, problems={"netem": "unknown", "ifb": "Error: Unknown device type."})
    assert refused(tmp_path).startswith(
        "network.links=emulated: this kernel cannot shape links: ifb: Error: Unknown device type.; "
    )
    direct = plan(tmp_path, links="direct", preset={"kind": "uniform", "bandwidth_mbps": None, "latency_ms": 0})
    found = find_backend(direct, engine_with_images(), Told(), {})
    assert (found.shaper_image, found.abilities, found.to_json()["latency_by"]) == (None, None, None)


def test_a_neighbour_table_that_is_too_small_is_refused_where_nobody_fills_it(tmp_path: Path, congestion: Path) -> None:
    free = {"kind": "uniform", "bandwidth_mbps": None, "latency_ms": 0}
    (congestion / "neigh" / "default").mkdir(parents=True)
    bound = congestion / "neigh" / "default" / "gc_thresh3"
    bound.write_text("1056\n")  # of 32 nodes, 31 for each and two between each and the orchestrator
    find_backend(plan(tmp_path, nodes=32, links="direct", preset=free), engine_with_images(), Told(), {})
    assert refused(tmp_path, nodes=33, links="direct", preset=free) == (
        "network.links=direct: must be emulated, or net.ipv4.neigh.default.gc_thresh3 at least 1,122 (it is 1,056):"
        " so many entries of this machine's neighbour table are what 33 nodes need"
    )
    find_backend(plan(tmp_path, nodes=33), engine_with_images(), Told(), {})


def test_what_dead_orchestrators_left_goes_first_and_is_told(tmp_path: Path) -> None:
    engine, told = engine_with_images(), Told()
    dead = RunScope("dead", replace(Owner.of_this_process(), started=1))
    subnet = IPv4Network("10.9.0.0/23")
    make_networks(engine, dead, 3, wanted=subnet)
    find_backend(plan(tmp_path, docker={"subnet": str(subnet)}), engine, told, {})
    assert engine.resources == {}
    (note,) = told.notes
    assert note.startswith("removing what dead has left: 2 networks; process ")


@pytest.mark.parametrize("subnet", ["127.0.0.0/23", "126.0.0.0/7", "224.0.0.0/23", "240.0.0.0/23", "0.0.0.0/8"])
def test_addresses_that_no_host_may_have_are_refused(subnet: str, tmp_path: Path) -> None:
    found = refused(tmp_path, docker={"subnet": subnet})
    assert found == f"docker.subnet={subnet}: must be of addresses that hosts may have, such as 10.9.0.0/23"


@pytest.mark.parametrize(
    ("limits", "facts_differ", "message"),
    [
        ({"cpus": 8}, {"cpus": 2}, "docker.cpus=8: must be at most 2, the engine's processors"),
        ({"cpus": 1}, {"limits_cpus": False}, "docker.cpus=1: must be absent: this kernel limits no processor time"),
        ({"memory_mb": 500}, {"limits_memory": False}, "docker.memory_mb=500: must be absent: this kernel limits no"),
    ],
)
def test_limits_that_the_engine_cannot_give_are_refused(
    limits: dict[str, Any], facts_differ: dict[str, Any], message: str, tmp_path: Path
) -> None:
    engine = replace(engine_with_images(), facts=facts(**facts_differ))
    assert refused(tmp_path, engine, docker=limits).startswith(message)


def test_what_a_run_would_need_is_foreseen_and_nothing_is_made(tmp_path: Path) -> None:
    engine = engine_with_images()
    dead = RunScope("dead", replace(Owner.of_this_process(), started=1))
    make_networks(engine, dead, 3, wanted=IPv4Network("10.9.0.0/23"))
    before = dict(engine.containers), dict(engine.resources), dict(engine.images)
    rows = foresee(plan(tmp_path, docker={"subnet": "10.19.0.0/23"}), engine, 1_000)
    assert (engine.containers, engine.resources, engine.images) == before
    assert rows["networks"] == "10.19.0.0/24, 10.19.1.0/24"
    assert rows["images"] == "there"
    assert rows["congestion control"] == "bbr"
    assert rows["memory in containers"].startswith("about 600 MB, 200 MB a node")
    del engine.images[node_recipe().tag]
    assert foresee(plan(tmp_path), engine, 1_000)["images"] == f"to be built first: {node_recipe().tag}"


@pytest.mark.parametrize(
    ("docker", "message"),
    [
        ({"image": "nope"}, "docker.image=nope: there is no such image"),
        ({"subnet": "10.9.0.0/23"}, "docker.subnet=10.9.0.0/23: "),
        ({"memory_mb": 64}, "docker.memory_mb=64: must be at least 201"),
        ({"cpus": 1_000}, "docker.cpus=1000: must be at most "),
    ],
)
def test_what_cannot_be_is_foreseen(docker: dict[str, Any], message: str, tmp_path: Path) -> None:
    engine = engine_with_images()
    make_networks(engine, RunScope("other", Owner.of_this_process()), 3, wanted=IPv4Network("10.9.0.0/23"))
    with pytest.raises(ConfigError) as raised:
        foresee(plan(tmp_path, docker=docker), engine, 1_000)
    assert str(raised.value).startswith(message)


def test_a_rate_beyond_the_kernels_is_told_as_the_file_has_it(tmp_path: Path) -> None:
    preset = {"kind": "uniform", "bandwidth_mbps": 20_000, "latency_ms": 2}
    fast = plan(tmp_path, preset=preset)
    found = find_backend(fast, engine_with_images(), Told(), {})
    lines = replace(fast.network, up_mbps=fast.network.up_mbps * 1.3, down_mbps=fast.network.down_mbps * 1.3)
    with pytest.raises(ConfigError, match=r"^uplink of node 0: bandwidth_mbps=20000: must be 0\.01 to 10000 "):
        check_model(fast, lines, found, 1_000, 1.0)
    segments = check_model(plan(tmp_path), plan(tmp_path).network, found, 1_000, 1.0)
    assert len(segments) == 3
    assert min(segments) >= 1


def test_less_memory_than_a_node_needs_is_refused_before_anything_is_made(tmp_path: Path) -> None:
    small = plan(tmp_path, docker={"memory_mb": 64})
    found = find_backend(small, engine_with_images(), Told(), {})
    with pytest.raises(ConfigError, match=r"^docker\.memory_mb=64: must be at least 201, which a node needs$"):
        check_model(small, small.network, found, 1_000, 1.0)


@pytest.mark.parametrize(("sender", "models"), [("per_peer", 2), ("serial", 2)])
def test_queues_hold_what_may_be_in_flight(tmp_path: Path, sender: str, models: int) -> None:
    described = plan(tmp_path, sender={"kind": sender})
    found = find_backend(described, engine_with_images(), Told(), {})
    options = kernel_options(described, found, 10_000, 3.0)
    assert (options.netem, options.time_dilation) == (True, 3.0)
    assert options.in_flight_bytes == models * (HEADER_BYTES + 40_000)
    # A longer way than two models need.
    preset = {"kind": "uniform", "bandwidth_mbps": 8, "latency_ms": 100}
    described = plan(tmp_path, sender={"kind": sender}, preset=preset)
    assert kernel_options(described, found, 10_000, 3.0).in_flight_bytes == 300_000


def test_memory_is_checked_before_anything_is_made(tmp_path: Path) -> None:
    engine = replace(engine_with_images(), facts=facts(memory_bytes=2 * 10**9))
    found = find_backend(plan(tmp_path), engine, Told(), {})
    check_model(plan(tmp_path), plan(tmp_path).network, found, 1_000, 1.0)
    with pytest.raises(ConfigError, match=r"^nodes=3: must be at most 2: the engine has 2 GB, about 1 GB each$"):
        check_model(plan(tmp_path), plan(tmp_path).network, found, 10**7, 1.0)


def test_links_that_the_kernel_cannot_be_told(tmp_path: Path) -> None:
    slow = plan(tmp_path, preset={"kind": "uniform", "bandwidth_mbps": 1, "latency_ms": 6_000})
    found = find_backend(slow, engine_with_images(), Told(), {})
    check_model(slow, slow.network, found, 1_000, 1.0)
    with pytest.raises(ConfigError, match=r"latency_ms=6000: must be at most 5000 where the kernel shapes at time_dil"):
        check_model(slow, slow.network, found, 1_000, 2.0)


def test_a_limit_of_memory_leaves_room() -> None:
    assert memory_limit(None, 1_000) >= 4 * memory_needed(1_000)
    assert memory_limit(None, 0) == 10**9
    assert memory_limit(300, 10**7) == 300_000_000


def test_a_kernel_that_cannot_cut_links_is_refused_where_a_partition_is_planned(
    tmp_path: Path, abilities: dict[str, ShapingAbilities]
) -> None:
    abilities["kernel"] = replace(ALL, problems={"tbf": "Error: Specified qdisc kind is unknown."})
    assert find_backend(plan(tmp_path), engine_with_images(), Told(), {}).netem
    parted = plan(tmp_path)
    groups = tuple(node % 2 for node in range(parted.config.nodes))
    changes = ((5, PartitionChange((groups,))), (9, PartitionChange(())))
    parted = replace(parted, network=replace(parted.network, changes=changes))
    with pytest.raises(ConfigError) as raised:
        find_backend(parted, engine_with_images(), Told(), {})
    assert str(raised.value) == (
        "schedule: a partition needs tbf where the kernel shapes: Error: Specified qdisc kind is unknown."
    )
    abilities["kernel"] = ALL
    assert find_backend(parted, engine_with_images(), Told(), {}).netem
