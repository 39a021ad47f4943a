import io
import subprocess
import sys
import tarfile
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from sklearn.datasets import load_digits

from node.core.errors import ConfigError, DataError
from node.learning import cifar10, datasets, image_folder, ratings
from node.learning.config import (
    Cifar10Config,
    DigitsConfig,
    ImageFolderConfig,
    MovieLensConfig,
    SyntheticRatingsConfig,
)
from node.learning.data_files import cache_dir, resolve_data_root
from node.learning.datasets import load_dataset


def write_folder(root: Path, per_class: int = 3) -> None:
    for part in ("train", "test"):
        for label, name in enumerate(("cat", "dog")):
            for i in range(per_class):
                path = root / part / name / f"{i:04}.png"
                path.parent.mkdir(parents=True, exist_ok=True)
                Image.fromarray(np.full((6, 5, 3), 50 * label + i, dtype=np.uint8)).save(path)


def test_digits_are_split_once_per_seed() -> None:
    one, same, other = (load_dataset(DigitsConfig(), None, seed) for seed in (1, 1, 2))
    assert one.train.inputs.shape == (1438, 1, 8, 8)
    assert len(one.test) == 359
    assert one.train.inputs.dtype == np.uint8
    assert one.train.inputs.max() == 255
    assert np.array_equal(one.test.inputs, same.test.inputs)
    assert not np.array_equal(one.test.targets, other.test.targets)


def test_digits_are_those_that_scikit_learn_ships() -> None:
    shipped, loaded = load_digits(), load_dataset(DigitsConfig(), None, 1)
    images = np.concatenate([loaded.train.inputs, loaded.test.inputs]).reshape(-1, 64)
    rows = np.column_stack([images, np.concatenate([loaded.train.targets, loaded.test.targets])])
    expected = np.column_stack([np.rint(shipped.data * (255 / 16)), shipped.target])
    assert sorted(rows.tolist()) == sorted(expected.tolist())


def test_digits_are_read_without_scikit_learn_itself() -> None:
    code = (
        "import sys; from node.learning.config import DigitsConfig; from node.learning.datasets import load_dataset\n"
        "load_dataset(DigitsConfig(), None, 1); sys.exit(bool({'sklearn', 'scipy'} & set(sys.modules)))"
    )
    assert subprocess.run([sys.executable, "-c", code], timeout=60).returncode == 0


def test_digits_that_are_not_installed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(datasets, "find_spec", lambda name: None)
    with pytest.raises(
        DataError, match=r"^learning\.dataset\.kind=digits: scikit-learn, which ships them, is not inst"
    ):
        load_dataset(DigitsConfig(), None, 1)


def test_an_image_folder_and_its_tar_give_the_same_arrays(tmp_path: Path) -> None:
    write_folder(tmp_path / "pets")
    with tarfile.open(tmp_path / "pets.tar.xz", "w:xz") as archive:
        archive.add(tmp_path / "pets", arcname="pets")
    loaded = [load_dataset(ImageFolderConfig(path=name), tmp_path, 1) for name in ("pets", "pets.tar.xz")]
    assert loaded[0].train.inputs.shape == (6, 3, 6, 5)
    assert loaded[0].class_names == ("cat", "dog")
    assert loaded[0].train.targets.tolist() == [0, 0, 0, 1, 1, 1]
    assert loaded[0].train.inputs[:, 0, 0, 0].tolist() == [0, 1, 2, 50, 51, 52]
    assert np.array_equal(loaded[0].train.inputs, loaded[1].train.inputs)
    assert "tar" in loaded[1].source


def test_decoded_images_come_from_the_cache_until_the_source_changes(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write_folder(tmp_path / "pets")
    config = ImageFolderConfig(path="pets")
    first = load_dataset(config, tmp_path, 1)
    monkeypatch.setattr(image_folder, "decode", None)  # decoding again would fail
    assert np.array_equal(load_dataset(config, tmp_path, 1).train.inputs, first.train.inputs)
    monkeypatch.undo()
    monkeypatch.setenv("FRAGMESH_CACHE", str(tmp_path / "cache"))
    write_folder(tmp_path / "pets", per_class=4)
    assert len(load_dataset(config, tmp_path, 1).train) == 8


def test_a_damaged_cache_is_made_again(tmp_path: Path) -> None:
    write_folder(tmp_path / "pets")
    load_dataset(ImageFolderConfig(path="pets"), tmp_path, 1)
    (damaged,) = cache_dir().rglob("train_pixels.npy")
    damaged.write_bytes(damaged.read_bytes()[:100])
    assert len(load_dataset(ImageFolderConfig(path="pets"), tmp_path, 1).train) == 6
    assert damaged.stat().st_size > 100


def test_an_unwritable_cache_costs_only_time(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write_folder(tmp_path / "pets")
    (tmp_path / "file").write_text("")
    monkeypatch.setenv("FRAGMESH_CACHE", str(tmp_path / "file" / "cache"))
    assert len(load_dataset(ImageFolderConfig(path="pets"), tmp_path, 1).train) == 6


def bad_jpeg(root: Path) -> None:
    (root / "train" / "cat" / "9.jpg").write_bytes(b"not a picture")


def other_size(root: Path) -> None:
    Image.fromarray(np.zeros((7, 7, 3), dtype=np.uint8)).save(root / "train" / "dog" / "9.png")


def no_test(root: Path) -> None:
    (root / "test").rename(root / "tset")


@pytest.mark.parametrize(
    ("damage", "expected"),
    [
        (bad_jpeg, "9.jpg: is not a readable image"),
        (other_size, "one size"),
        (no_test, "no images under test/"),
    ],
)
def test_a_broken_image_folder_is_one_clear_line(tmp_path: Path, damage: object, expected: str) -> None:
    write_folder(tmp_path / "pets")
    damage(tmp_path / "pets")  # type: ignore[operator]
    with pytest.raises(DataError, match=expected) as caught:
        load_dataset(ImageFolderConfig(path="pets"), tmp_path, 1)
    assert "\n" not in str(caught.value)


def test_a_truncated_or_missing_tar_is_one_clear_line(tmp_path: Path) -> None:
    write_folder(tmp_path / "pets")
    for form in ("xz", "gz"):
        buffer = io.BytesIO()
        with tarfile.open(fileobj=buffer, mode=f"w:{form}") as archive:
            archive.add(tmp_path / "pets", arcname="pets")
        cut = buffer.getvalue()[: len(buffer.getvalue()) // 2]
        (tmp_path / f"cut.tar.{form}").write_bytes(cut)
    for name in ("cut.tar.xz", "cut.tar.gz", "absent.tar.xz"):
        with pytest.raises(DataError, match=name) as caught:
            load_dataset(ImageFolderConfig(path=name), tmp_path, 1)
        assert "\n" not in str(caught.value)


def refuse(*_: object, **__: object) -> None:
    raise OSError("no network\nhere")


def test_missing_cifar10_says_what_was_looked_for_and_where(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(cifar10, "_read_official_cifar10", refuse)
    with pytest.raises(DataError, match=r"cifar10-imagefolder\*.*no network here.*FRAGMESH_DATA") as caught:
        load_dataset(Cifar10Config(), tmp_path, 1)
    assert str(tmp_path) in str(caught.value)
    assert "\n" not in str(caught.value)


def test_cifar10_as_an_image_folder_is_found(tmp_path: Path) -> None:
    write_folder(tmp_path / "cifar10-imagefolder-small")
    assert len(load_dataset(Cifar10Config(max_train_samples=4), tmp_path, 1).train) == 4


def test_corrupt_official_cifar10_is_one_clear_line(tmp_path: Path) -> None:
    (tmp_path / "cifar-10-batches-py").mkdir()
    with pytest.raises(DataError, match="not a readable copy of CIFAR-10") as caught:
        load_dataset(Cifar10Config(), tmp_path, 1)
    assert "\n" not in str(caught.value)


def test_missing_movielens_says_where_to_put_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(ratings, "_download_movielens", refuse)
    with pytest.raises(DataError, match=r"ml-latest-small/ratings\.csv.*FRAGMESH_DATA"):
        load_dataset(MovieLensConfig(), tmp_path, 1)


@pytest.mark.parametrize(
    ("content", "expected"),
    [
        ("a,b\n1,2\n", "expected userId"),
        ("userId,movieId,rating,timestamp\n1,2,0.7,0\n", "halves"),
        ("userId,movieId,rating,timestamp\n1,x,4.0,0\n", "cannot be read"),
        ("userId,movieId,rating,timestamp\n1,2,4.0,0\0\n", r"cannot be read \(line 2 holds a zero byte\)"),
        ("userId,movieId,rating,timestamp\n1e300,2,4.0,0\n", "must be whole numbers"),
        ("userId,movieId,rating,timestamp\n1,2.5,4.0,0\n", "must be whole numbers"),
    ],
)
@pytest.mark.filterwarnings("ignore")
def test_a_bad_ratings_file_is_one_clear_line(tmp_path: Path, content: str, expected: str) -> None:
    (tmp_path / "ml-latest-small").mkdir()
    (tmp_path / "ml-latest-small" / "ratings.csv").write_text(content)
    with pytest.raises(DataError, match=expected) as caught:
        load_dataset(MovieLensConfig(), tmp_path, 1)
    assert "\n" not in str(caught.value)


def test_ratings_are_split_70_to_30_per_user() -> None:
    dataset = load_dataset(SyntheticRatingsConfig(users=7, ratings_per_user=20), None, 1)
    assert np.bincount(dataset.train.inputs[:, 0].astype(np.int64)).tolist() == [14] * 7
    assert np.bincount(dataset.test.inputs[:, 0].astype(np.int64)).tolist() == [6] * 7


def test_ratings_that_leave_nothing_to_test_on_are_refused(tmp_path: Path) -> None:
    (tmp_path / "ml-latest-small").mkdir()
    (tmp_path / "ml-latest-small" / "ratings.csv").write_text("userId,movieId,rating,timestamp\n1,2,4,0\n2,2,3,0\n")
    with pytest.raises(DataError, match="no user has two ratings"):
        load_dataset(MovieLensConfig(), tmp_path, 1)


def test_the_data_root_is_the_argument_then_the_environment(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("FRAGMESH_DATA", raising=False)
    assert resolve_data_root(None) is None
    monkeypatch.setenv("FRAGMESH_DATA", str(tmp_path))
    assert resolve_data_root(None) == tmp_path
    with pytest.raises(ConfigError, match="not a directory"):
        resolve_data_root(tmp_path / "absent")


@pytest.mark.data
def test_real_movielens_has_the_published_size(data_root: Path) -> None:
    dataset = load_dataset(MovieLensConfig(), data_root, 1)
    assert (dataset.num_users, dataset.num_items) == (610, 9724)
    assert len(dataset.train) + len(dataset.test) == 100836


@pytest.mark.data
@pytest.mark.slow
def test_real_cifar10_has_60000_images(data_root: Path) -> None:
    dataset = load_dataset(Cifar10Config(), data_root, 1)
    assert dataset.train.inputs.shape == (50000, 3, 32, 32)
    assert np.bincount(dataset.test.targets.astype(np.int64)).tolist() == [1000] * 10
