"""Recipes of images, and when they are built, found, or refused."""

import ast
import io
import sys
import tarfile
from dataclasses import replace
from importlib import metadata
from pathlib import Path

import pytest
from packaging.utils import canonicalize_name

import node
from node.core.errors import ConfigError
from orchestrator.containers import image_recipes
from orchestrator.containers.image_builds import BuildOptions, find_wheels, have_image, named_image
from orchestrator.containers.image_recipes import (
    NODE_LIBRARIES,
    ImageRecipe,
    node_recipe,
    pinned,
    python_image,
    shaper_recipe,
)
from tests.unit.orchestrator.containers.fake_engine import FakeEngine, image

RECIPE = ImageRecipe(
    "node",
    "0.1.0",
    "FROM x\n",
    {"torch.txt": b"torch==2.0+cpu\n", "requirements.txt": b"numpy==2.1\n", "node/a.py": b""},
)
BASE = "python:3.12-slim"


def ignore(line: str) -> None:
    """For builds whose output is of no interest."""


# --- recipes ------------------------------------------------------------------------------------------------


def test_a_node_s_image_has_all_that_a_node_imports() -> None:
    """Nothing but these is installed there, so another import would fail in the container alone."""
    distributions = metadata.packages_distributions()
    imported = set()
    for path in Path(node.__file__).parent.rglob("*.py"):
        for item in ast.walk(ast.parse(path.read_text())):
            names = [alias.name for alias in item.names] if isinstance(item, ast.Import) else []
            if isinstance(item, ast.ImportFrom) and item.level == 0:
                names = [item.module or ""]
            imported |= {name.partition(".")[0] for name in names}
    imported -= {"node", *sys.stdlib_module_names}
    assert "numpy" in imported
    # A name may be of several, as google is, of which protobuf is one.
    assert {
        name for name in imported if not set(map(canonicalize_name, distributions[name])) & {*NODE_LIBRARIES}
    } == set()


def test_libraries_are_of_the_releases_that_are_installed() -> None:
    recipe = node_recipe()
    pins = [*recipe.content["torch.txt"].decode().split(), *recipe.content["requirements.txt"].decode().split()]
    assert f"numpy=={metadata.version('numpy')}" in pins
    assert f"pydantic-core=={metadata.version('pydantic-core')}" in pins  # which only others need
    assert f"torch=={metadata.version('torch').partition('+')[0]}+cpu" in pins
    assert all(pin.count("==") == 1 for pin in pins)
    assert not any(pin.startswith("matplotlib") for pin in pins)


def test_a_build_of_torch_for_gpus_becomes_the_one_for_cpus(monkeypatch: pytest.MonkeyPatch) -> None:
    class Distribution:
        def __init__(self, version: str, *requires: str) -> None:
            self.version, self.requires = version, list(requires)

    installed = {
        "torch": Distribution("2.13.0+cu130", "nvidia-cudnn-cu13==9; sys_platform != 'x'", "triton==3", "filelock"),
        "torchvision": Distribution("0.28.0+cu130", "torch==2.13.0", "numpy"),
        "filelock": Distribution("4.0", "sphinx; extra == 'docs'"),
        "numpy": Distribution("2.1"),
    }
    monkeypatch.setattr(image_recipes.metadata, "distribution", installed.__getitem__)
    assert pinned(["torchvision"]) == {
        "filelock": "4.0",
        "numpy": "2.1",
        "torch": "2.13.0+cpu",
        "torchvision": "0.28.0",
    }


def test_a_library_that_is_missing_is_one_line() -> None:
    with pytest.raises(ConfigError, match=r"^no-such-thing: not installed here"):
        pinned(["no-such-thing"])


def test_a_recipe_holds_the_package_and_nothing_else_of_it() -> None:
    content = node_recipe().content
    assert content["node/__main__.py"] == (Path(node.__file__).parent / "__main__.py").read_bytes()
    assert "node/transport/pb/peer_pb2.py" in content
    assert not [name for name in content if "__pycache__" in name or name.endswith((".pyc", ".pyi"))]
    assert not [name for name in content if name.startswith("orchestrator")]


def test_the_tag_follows_the_content() -> None:
    assert node_recipe().digest == node_recipe().digest
    changed = replace(RECIPE, content={**RECIPE.content, "node/a.py": b"x = 1\n"})
    other_way = replace(RECIPE, dockerfile="FROM y\n")
    moved = replace(RECIPE, content={**RECIPE.content, "node/b.py": b""})
    assert len({recipe.digest for recipe in (RECIPE, changed, other_way, moved)}) == 4
    assert RECIPE.tag == f"fragmesh-node:0.1.0-{RECIPE.digest[:12]}"
    assert replace(RECIPE, version="0.2.0+local").tag.startswith("fragmesh-node:0.2.0-local-")


def test_a_context_is_always_the_same_bytes(tmp_path: Path) -> None:
    """The engine's cache of layers compares files with their owners and permissions."""
    wheel = tmp_path / "torch-2.0+cpu-py3-none-any.whl"
    wheel.write_bytes(b"wheel")
    first, second = io.BytesIO(), io.BytesIO()
    RECIPE.write_context(first, [wheel])
    wheel.chmod(0o600)
    RECIPE.write_context(second, [wheel])
    assert first.getvalue() == second.getvalue()
    first.seek(0)
    with tarfile.open(fileobj=first) as archive:
        names = archive.getnames()
    assert names == ["Dockerfile", "node/a.py", "requirements.txt", "torch.txt", "wheels", f"wheels/{wheel.name}"]
    with pytest.raises(ConfigError, match=r"gone\.whl: cannot be read: No such file"):
        RECIPE.write_context(io.BytesIO(), [tmp_path / "gone.whl"])


def test_the_files_of_the_images_are_in_the_package_and_named_in_deploy() -> None:
    deploy = Path(__file__).parents[4] / "deploy" / "docker"
    for recipe in (node_recipe(), shaper_recipe()):
        assert (deploy / f"{recipe.kind}.Dockerfile").read_text() == recipe.dockerfile


# --- builds -------------------------------------------------------------------------------------------------


def test_a_missing_image_is_built_once(tmp_path: Path) -> None:
    engine = FakeEngine(images={BASE: image(BASE)})
    (tmp_path / "torch-2.0+cpu-py3-none-any.whl").write_bytes(b"wheel")
    options = BuildOptions(
        base=BASE,
        find_links=[str(tmp_path), "https://wheels.example/simple"],
        pip=["--index-url=https://mirror.example/simple"],
        proxies={"HTTPS_PROXY": "http://proxy:3128"},
    )
    built = have_image(engine, RECIPE, options, ignore)
    assert built.name == RECIPE.tag
    assert built.build_s is not None
    (build,) = engine.builds
    assert build.files["node/a.py"] == b""
    assert build.files["wheels/torch-2.0+cpu-py3-none-any.whl"] == b"wheel"
    assert build.labels == {
        "fragmesh.image": "node",
        "fragmesh.version": "0.1.0",
        "fragmesh.content": RECIPE.digest,
        "fragmesh.base": f"{BASE} sha256:0",
    }
    assert build.arguments == {
        "BASE_IMAGE": BASE,
        "HTTPS_PROXY": "http://proxy:3128",
        "PIP_OPTIONS": "--find-links=https://wheels.example/simple --index-url=https://mirror.example/simple",
    }
    again = have_image(engine, RECIPE, BuildOptions(), ignore)
    assert (again.build_s, len(engine.builds)) == (None, 1)


def test_a_build_looks_where_pip_looks_here() -> None:
    options = BuildOptions.from_environment(
        {
            "FRAGMESH_BASE_IMAGE": BASE,
            "PIP_FIND_LINKS": "/wheels https://wheels.example/",
            "PIP_INDEX_URL": "https://mirror.example/simple",
            "PIP_EXTRA_INDEX_URL": "https://a.example/ file:///of/this/machine",
            "HTTPS_PROXY": "http://proxy:3128",
            "http_proxy": "",
            "SECRET": "x",
        }
    )
    assert options == BuildOptions(
        base=BASE,
        find_links=["/wheels", "https://wheels.example/"],
        pip=["--index-url=https://mirror.example/simple", "--extra-index-url=https://a.example/"],
        proxies={"HTTPS_PROXY": "http://proxy:3128"},
    )
    assert BuildOptions.from_environment({}) == BuildOptions(find_links=[], pip=[])


def test_torch_for_cpus_has_an_index_of_its_own() -> None:
    engine = FakeEngine(registry={python_image()})
    have_image(engine, RECIPE, BuildOptions(), ignore)
    assert engine.builds[0].arguments["BASE_IMAGE"] == python_image()
    assert "--extra-index-url=https://download.pytorch.org/whl/cpu" in engine.builds[0].arguments["TORCH_OPTIONS"]


def test_the_shaper_needs_no_pip() -> None:
    engine = FakeEngine(registry={"alpine:3.20"})
    recipe = shaper_recipe()
    have_image(engine, recipe, BuildOptions(pip=["--no-index"]), ignore)
    assert engine.builds[0].arguments == {"BASE_IMAGE": "alpine:3.20"}
    assert engine.builds[0].tag.startswith("fragmesh-shaper:")


def test_a_base_image_that_cannot_be_had_is_one_line() -> None:
    with pytest.raises(ConfigError) as raised:
        have_image(FakeEngine(), RECIPE, BuildOptions(base="nowhere"), ignore)
    assert str(raised.value) == (
        "base image nowhere cannot be pulled: no such host; fragmesh image --base-image takes one that is here"
    )


def test_a_build_that_fails_tells_its_first_complaint() -> None:
    lines = [
        "Step 5/9 : RUN pip",
        "\x1b[91mERROR: No matching distribution found for torch==2.0+cpu",
        "ERROR: later",
    ]
    engine = FakeEngine(images={BASE: image(BASE)}, build_lines=lines, build_error="The command returned 1")
    with pytest.raises(ConfigError) as raised:
        have_image(engine, RECIPE, BuildOptions(base=BASE), ignore)
    message = str(raised.value)
    assert "The command returned 1 (ERROR: No matching distribution found for torch==2.0+cpu); " in message
    assert "\x1b" not in message


def test_an_image_of_another_content_is_refused() -> None:
    stale = image("mine", image="node", version="0.1.0", content="a" * 64)
    engine = FakeEngine(images={"mine": stale, RECIPE.tag: stale, "bare": image("bare")})
    reason = (
        f"fragmesh.content=aaaaaaaaaaaa: must be {RECIPE.digest[:12]}, as this fragmesh is; fragmesh image builds it"
    )
    with pytest.raises(ConfigError) as raised:
        named_image(engine, "mine", RECIPE, "docker.image")
    assert str(raised.value) == f"docker.image=mine: {reason}"
    with pytest.raises(ConfigError) as raised:
        have_image(engine, RECIPE, BuildOptions(), ignore)
    assert str(raised.value) == f"{RECIPE.tag}: {reason}"
    with pytest.raises(ConfigError, match=r"^docker\.image=bare: fragmesh\.image=missing: must be node"):
        named_image(engine, "bare", RECIPE, "docker.image")
    with pytest.raises(ConfigError, match=r"^docker\.image=none: there is no such image; fragmesh image builds "):
        named_image(engine, "none", RECIPE, "docker.image")


def test_an_image_of_another_version_is_refused() -> None:
    old = image("mine", image="node", version="0.0.9", content=RECIPE.digest)
    with pytest.raises(ConfigError, match=r"fragmesh\.version=0\.0\.9: must be 0\.1\.0"):
        named_image(FakeEngine(images={"mine": old}), "mine", RECIPE, "docker.image")


def test_an_image_that_fits_may_have_any_name() -> None:
    fits = image("mine", image="node", version="0.1.0", content=RECIPE.digest)
    assert named_image(FakeEngine(images={"mine": fits}), "mine", RECIPE, "docker.image").name == "mine"


def test_only_wheels_that_are_wanted_are_sent(tmp_path: Path) -> None:
    for name in ("torch-2.0+cpu-cp311.whl", "torch-2.1+cpu-cp311.whl", "Numpy-2.1-cp311.whl", "numpy-2.1.tar.gz"):
        (tmp_path / name).touch()
    wheels, links = find_wheels(RECIPE, [f"file://{tmp_path}"])
    assert [wheel.name for wheel in wheels] == ["Numpy-2.1-cp311.whl", "torch-2.0+cpu-cp311.whl"]
    assert links == []
    with pytest.raises(ConfigError, match=r"^--find-links=/no/such: is not a directory$"):
        find_wheels(RECIPE, ["/no/such"])
