"""Image folders: what is read, what is left out and told, what is refused."""

import io
import os
import tarfile
from collections.abc import Callable
from pathlib import Path

import numpy as np
import numpy.typing as npt
import pytest
from PIL import Image

from node.core.errors import DataError
from node.learning import image_folder
from node.learning.config import ImageFolderConfig
from node.learning.datasets import load_dataset
from node.learning.image_decoding import decode
from node.learning.image_files import IMAGE_SUFFIXES
from node.learning.samples import Dataset
from node.learning.torchvision_import import import_torchvision


def save(path: Path, value: int | npt.NDArray[np.generic] = 0, **options: object) -> Path:
    """Write an image of 5x4 pixels of one value, or the given one."""
    path.parent.mkdir(parents=True, exist_ok=True)
    pixels = np.full((4, 5), value, dtype=np.uint8) if isinstance(value, int) else value
    Image.fromarray(pixels).save(path, **options)  # type: ignore[arg-type]
    return path


def two_classes(root: Path) -> Path:
    """Cats 0 and dogs 100 in training, cats 10 and dogs 110 in test."""
    for part, offset in (("train", 0), ("test", 10)):
        save(root / part / "cat" / "0.png", offset)
        save(root / part / "dog" / "0.png", 100 + offset)
    return root


def read(root: Path) -> Dataset:
    return load_dataset(ImageFolderConfig(path=root.name), root.parent, 1)


def train_values(dataset: Dataset) -> list[int]:
    return [int(value) for value in dataset.train.inputs[:, 0, 0, 0]]


def as_tar(folder: Path) -> Path:
    path = folder.with_suffix(".tar")
    with tarfile.open(path, "w") as archive:
        archive.add(folder, arcname=folder.name)
    return path


@pytest.fixture
def pets(tmp_path: Path) -> Path:
    return two_classes(tmp_path / "pets")


both_forms = pytest.mark.parametrize("form", [lambda folder: folder, as_tar], ids=["directory", "tar"])
Form = Callable[[Path], Path]


@both_forms
@pytest.mark.parametrize("suffix", ["jpg", "JPEG", "png", "ppm", "bmp", "pgm", "tif", "TIFF", "webp"])
def test_every_format_of_torchvisions_image_folder_is_read(pets: Path, form: Form, suffix: str) -> None:
    lossless = {"lossless": True} if suffix == "webp" else {}
    save(pets / "train" / "cat" / f"1.{suffix}", 77, **lossless)
    dataset = read(form(pets))
    assert train_values(dataset) == [0, 77, 100]
    assert dataset.notes == ()


def test_the_suffixes_are_those_of_torchvision() -> None:
    assert set(IMAGE_SUFFIXES) == set(import_torchvision().datasets.folder.IMG_EXTENSIONS)


@both_forms
def test_torchvisions_image_folder_reads_the_same(tmp_path: Path, form: Form) -> None:
    rng = np.random.default_rng(0)
    folder = tmp_path / "pets"
    for number, suffix in enumerate(("jpg", "png", "ppm", "bmp", "tif", "webp")):
        for place in ("train/cat", "train/cat/deep/er", "train/dog", "test/cat", "test/dog"):
            save(folder / place / f"{number}.{suffix}", rng.integers(0, 256, (4, 5, 3), dtype=np.uint8))
    save(folder / "train" / "dog" / "grey.png", 77)
    (folder / "train" / "fox").symlink_to("dog")
    (folder / "train" / "dog" / "notes.txt").write_text("")
    theirs = import_torchvision().datasets.ImageFolder(str(folder / "train"))
    dataset = read(form(folder))
    assert list(dataset.class_names) == theirs.classes
    expected = [(label, np.asarray(image).transpose(2, 0, 1).tobytes()) for image, label in theirs]
    pairs = zip(dataset.train.targets, dataset.train.inputs, strict=True)
    assert sorted((int(label), image.tobytes()) for label, image in pairs) == sorted(expected)


@both_forms
def test_folders_below_a_class_belong_to_the_class(pets: Path, form: Form) -> None:
    save(pets / "train" / "cat" / "siamese" / "kittens" / "0.png", 1)
    dataset = read(form(pets))
    assert dataset.class_names == ("cat", "dog")
    assert dataset.train.targets.tolist() == [0, 0, 1]
    assert train_values(dataset) == [0, 1, 100]


@both_forms
def test_links_to_folders_and_files_are_followed(pets: Path, form: Form) -> None:
    save(pets / "pool" / "birds" / "0.png", 200)
    save(pets / "pool" / "birds" / "1.png", 201)
    (pets / "train" / "bird").symlink_to("../pool/birds")
    (pets / "train" / "cat" / "again.png").symlink_to("../../pool/birds/1.png")
    (pets / "train" / "cat" / "hard.png").hardlink_to(pets / "train" / "dog" / "0.png")
    dataset = read(form(pets))
    assert dataset.class_names == ("bird", "cat", "dog")
    assert train_values(dataset) == [200, 201, 0, 201, 100, 100]
    assert dataset.notes == ("left out 2 files: 2 outside train/ and test/",)


def test_a_link_may_lead_out_of_a_directory_and_a_change_there_is_noticed(pets: Path, tmp_path: Path) -> None:
    save(tmp_path / "elsewhere" / "0.png", 200)
    (pets / "train" / "bird").symlink_to(tmp_path / "elsewhere")
    assert train_values(read(pets)) == [200, 0, 100]
    save(tmp_path / "elsewhere" / "1.png", 201)
    assert train_values(read(pets)) == [200, 201, 0, 100]


def test_links_through_linked_folders_of_an_archive_are_followed(pets: Path) -> None:
    save(pets / "pool" / "birds" / "0.png", 200)
    (pets / "short").symlink_to("pool")
    (pets / "train" / "bird").symlink_to("../short/birds")
    assert train_values(read(as_tar(pets))) == [200, 0, 100]


@pytest.mark.parametrize(
    ("mode", "values"),
    [
        ("png", np.array([[0, 257, 32768, 65535]], dtype=np.uint16)),
        ("tif", np.array([[0, 257, 32768, 65535]], dtype=np.uint16)),
        ("pgm", np.array([[0, 257, 32768, 65535]], dtype=np.uint16)),
    ],
)
def test_grey_of_16_bits_is_scaled(tmp_path: Path, mode: str, values: npt.NDArray[np.uint16]) -> None:
    path = tmp_path / f"0.{mode}"
    if mode == "pgm":
        path.write_bytes(b"P5 4 1 65535\n" + values.astype(">u2").tobytes())
    else:
        Image.fromarray(values).save(path)
    assert decode(path.read_bytes(), "0").pixels[:, :, 0].tolist() == [[0, 1, 128, 255]]


def test_a_folder_of_16_bit_images_keeps_its_contrast(tmp_path: Path) -> None:
    ramp = np.linspace(1000, 60000, 20).astype(np.uint16).reshape(4, 5)
    for part in ("train", "test"):
        for name in ("cat", "dog"):
            save(tmp_path / "deep" / part / name / "0.png", ramp)
    dataset = read(tmp_path / "deep")
    assert dataset.train.inputs.shape == (2, 1, 4, 5)
    assert dataset.train.inputs[0, 0].tolist() == np.rint(ramp / 257).astype(int).tolist()


def test_pixels_of_unknown_range_are_refused_not_clipped(pets: Path) -> None:
    save(pets / "train" / "cat" / "1.tif", np.full((4, 5), 1e-3, dtype=np.float32))
    with pytest.raises(DataError, match=r"train/cat/1\.tif: has signed or 32-bit pixels"):
        read(pets)


@pytest.mark.parametrize("mode", ["1", "LA", "P", "RGBA", "CMYK", "L", "RGB"])
def test_every_colour_mode_becomes_grey_or_rgb(mode: str) -> None:
    buffer = io.BytesIO()
    Image.new("RGB", (5, 4), (255, 255, 255)).convert(mode).save(buffer, "TIFF")
    pixels = decode(buffer.getvalue(), "0").pixels
    assert pixels.shape == (4, 5, 1 if mode in ("1", "L", "LA") else 3)
    assert (pixels == 255).all()


def test_grey_images_among_coloured_ones_become_rgb(pets: Path) -> None:
    save(pets / "train" / "cat" / "1.png", np.full((4, 5, 3), (1, 2, 3), dtype=np.uint8))
    dataset = read(pets)
    assert dataset.train.inputs[:, :, 0, 0].tolist() == [[0, 0, 0], [1, 2, 3], [100, 100, 100]]
    assert dataset.test.inputs.shape == (2, 3, 4, 5)


def test_only_the_first_frame_is_read_and_that_is_told(pets: Path) -> None:
    frames = [Image.new("L", (5, 4), value) for value in (50, 60)]
    frames[0].save(pets / "train" / "cat" / "1.tif", save_all=True, append_images=frames[1:])
    dataset = read(pets)
    assert train_values(dataset) == [0, 50, 100]
    assert dataset.notes == ("files with more than one frame, of which the first is read: 1",)


@both_forms
def test_what_is_left_out_is_counted_and_told_once_and_from_the_cache(pets: Path, form: Form) -> None:
    for name in ("1.gif", "2.gif"):
        save(pets / "train" / "dog" / name, 1)
    (pets / "train" / "notes.txt").write_text("")
    save(pets / "train" / "loose.png")
    save(pets / "val" / "cat" / "0.png")
    save(pets / "train" / "cat" / "._0.png")
    save(pets / "train" / ".ipynb_checkpoints" / "0-checkpoint.png")
    (pets / "train" / "cat" / "gone.png").symlink_to("nowhere.png")
    (pets / "train" / "bird").mkdir()
    (pets / "README.md").write_text("")
    folder = form(pets)
    for _ in range(2):
        dataset = read(folder)
        assert dataset.class_names == ("cat", "dog")
        assert train_values(dataset) == [0, 100]
        told, empty = dataset.notes
        assert told == (
            "left out 8 files: 2 .gif, 2 hidden, 1 .txt, 1 in no class's folder, 1 links that lead nowhere,"
            " 1 outside train/ and test/"
        )
        assert empty.endswith("train/bird: no class")


@both_forms
@pytest.mark.parametrize(
    ("second", "expected"),
    [
        ("backup/train/cat/0.png", r"train/ and (pets/)?backup/train/ both hold images"),
        ("backup/test/cat/0.png", r"test/ and (pets/)?backup/test/ both hold images"),
        ("train/train/cat/0.png", r"second folder train/ below train/ is ambiguous"),
        ("train/cat/train/dog/0.png", r"second folder train/ below train/ is ambiguous"),
        ("train/old/test/dog/0.png", r"second folder test/ below train/ is ambiguous"),
    ],
)
def test_a_second_train_or_test_is_refused(pets: Path, form: Form, second: str, expected: str) -> None:
    save(pets / second, 1)
    with pytest.raises(DataError, match=expected):
        read(form(pets))


@pytest.mark.parametrize("name", ["test", "train"])
def test_a_tar_of_a_folder_called_test_is_read(tmp_path: Path, name: str) -> None:
    assert train_values(read(as_tar(two_classes(tmp_path / name)))) == [0, 100]


def test_a_single_image_is_no_data_set(tmp_path: Path) -> None:
    save(tmp_path / "one" / "train" / "cat" / "0.png")
    with pytest.raises(DataError, match="no images under test/"):
        read(tmp_path / "one")


def test_a_class_may_be_called_train(pets: Path) -> None:
    save(pets / "train" / "train" / "0.png", 1)
    dataset = read(pets)
    assert dataset.class_names == ("cat", "dog", "train")


@both_forms
def test_a_folder_that_links_to_one_above_it_is_refused(pets: Path, form: Form) -> None:
    (pets / "train" / "cat" / "again").symlink_to("..")
    with pytest.raises(DataError, match="repeats without end"):
        read(form(pets))


def test_a_pipe_among_the_images_is_refused_without_waiting(pets: Path) -> None:
    os.mkfifo(pets / "train" / "cat" / "1.png")
    with pytest.raises(DataError, match=r"train/cat/1\.png is a device, a pipe or a socket"):
        read(pets)


def test_a_file_too_large_for_an_image_is_refused_before_it_is_read(pets: Path) -> None:
    large = pets / "train" / "cat" / "0.png"
    os.truncate(large, 200 * 10**9)  # of holes
    with pytest.raises(DataError, match=r"train/cat/0\.png: 200,000,000,000 bytes: must be at most 268,435,456$"):
        read(pets)


def test_a_member_too_large_for_an_image_is_refused_before_it_is_read(
    pets: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(image_folder, "IMAGE_BYTES_MAX", 10)
    with pytest.raises(DataError, match=r"pets/test/cat/0\.png: \d+ bytes: must be at most 10$"):
        read(as_tar(pets))


def member(name: str, kind: bytes = tarfile.REGTYPE, link: str = "") -> tarfile.TarInfo:
    made = tarfile.TarInfo(name)
    made.type, made.linkname = kind, link
    return made


@pytest.mark.parametrize(
    ("bad", "expected"),
    [
        (member("../train/cat/9.png"), "leads out of the archive"),
        (member("/etc/9.png"), "leads out of the archive"),
        (member("train/cat/9.png", tarfile.SYMTYPE, "/etc/passwd"), "leads out of the archive"),
        (member("train/cat/9.png", tarfile.SYMTYPE, "../../../9.png"), "leads out of the archive"),
        (member("train/cat/9.png", tarfile.LNKTYPE, "../9.png"), "leads out of the archive"),
        (member("unused", tarfile.SYMTYPE, "/etc"), "leads out of the archive"),
        (member("train/cat/9.png", tarfile.SYMTYPE, "9.png"), "leads to itself"),
        (member("train/cat/9.png", tarfile.CHRTYPE), "device or a pipe"),
        (member("train/cat/9.png", tarfile.FIFOTYPE), "device or a pipe"),
        (member("train/cat/0.png/9.png"), "not a folder"),
    ],
)
def test_members_that_no_data_set_needs_are_refused(
    pets: Path, tmp_path: Path, bad: tarfile.TarInfo, expected: str
) -> None:
    path = tmp_path / "bad.tar"
    with tarfile.open(path, "w") as archive:
        for part in ("train", "test"):
            archive.add(pets / part, arcname=part)
        archive.addfile(bad, io.BytesIO(b""))
    with pytest.raises(DataError, match=expected) as caught:
        read(path)
    assert "\n" not in str(caught.value)


def test_the_later_of_two_members_of_one_name_counts(pets: Path, tmp_path: Path) -> None:
    path = as_tar(pets)
    save(tmp_path / "new.png", 5)
    with tarfile.open(path, "a") as archive:
        archive.add(tmp_path / "new.png", arcname="pets/train/cat/0.png")
    assert train_values(read(path)) == [5, 100]


@pytest.mark.parametrize(
    "content",
    [b"", b"not a picture", b"\x89PNG\r\n\x1a\n" + b"\0" * 50, b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 5 4\n"],
)
def test_no_message_shows_an_objects_address(content: bytes) -> None:
    with pytest.raises(DataError, match="0: is not a readable image") as caught:
        decode(content, "0")
    assert "0x" not in str(caught.value)


@pytest.mark.parametrize("suffix", ["png", "jpg", "bmp", "tif", "webp", "pgm"])
def test_a_damaged_image_is_read_or_one_quiet_line(suffix: str, recwarn: pytest.WarningsRecorder) -> None:
    """Bytes changed and cut off at random, seeds 0..59."""
    buffer = io.BytesIO()
    name = {"jpg": "JPEG", "tif": "TIFF", "pgm": "PPM"}.get(suffix, suffix)
    Image.fromarray(np.arange(20, dtype=np.uint8).reshape(4, 5)).save(buffer, name)
    messages = []
    for seed in range(60):
        rng = np.random.default_rng(seed)
        content = bytearray(buffer.getvalue())
        for at in rng.integers(len(content), size=4):
            content[at] = rng.integers(256)
        if seed % 3 == 0:
            del content[rng.integers(len(content)) :]
        try:
            decode(bytes(content), "0")
        except DataError as error:
            messages.append(str(error))
    assert len(messages) > 10
    assert not [message for message in messages if "\n" in message or "0x" in message]
    assert not recwarn.list


def test_images_of_other_sizes_are_named_by_the_common_one(pets: Path) -> None:
    save(pets / "train" / "cat" / "0.png", np.zeros((7, 6), dtype=np.uint8))
    with pytest.raises(DataError, match=r"train/cat/0\.png is 6x7 pixels, others are 5x4"):
        read(pets)
