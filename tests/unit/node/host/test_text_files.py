"""Text from outside is read within bounds, or refused in a few words."""

import json
import os
import threading
import time
from pathlib import Path

import pytest

from node.host import text_files
from node.host.text_files import UnreadableText, decode_text, parse_json, parse_number, read_text, shorten


def refusal(path: Path, max_bytes: int = 1000) -> str:
    began = time.process_time()
    with pytest.raises(UnreadableText) as refused:
        read_text(path, max_bytes)
    assert time.process_time() - began < 1  # of processor time, whatever else the host does
    return str(refused.value)


@pytest.mark.parametrize(
    ("data", "text"),
    [
        (b"a\nb", "a\nb"),
        (b"a\r\nb\rc\n", "a\nb\nc\n"),
        (b"\xef\xbb\xbfa", "a"),
        ("ü\u2028".encode(), "ü\u2028"),
        (b"", ""),
    ],
)
def test_a_text(data: bytes, text: str, tmp_path: Path) -> None:
    (tmp_path / "t").write_bytes(data)
    assert read_text(tmp_path / "t", 1000) == text


def test_texts_that_are_none(tmp_path: Path) -> None:
    file = tmp_path / "t"
    assert refusal(file) == "No such file or directory"
    assert refusal(tmp_path) == "Is a directory"
    for data in (b"\xff", "é".encode("latin-1"), "a".encode("utf-16")):
        file.write_bytes(data)
        assert refusal(file) == "is not UTF-8 text"
    file.write_bytes(b"a\nb\0c")
    assert refusal(file) == "line 2 holds a zero byte"
    assert "zero byte" in refusal(tmp_path / "a\0b")


def test_a_file_is_read_up_to_its_bound(tmp_path: Path) -> None:
    file = tmp_path / "t"
    file.write_bytes(b"x" * 1000)
    assert len(read_text(file, 1000)) == 1000
    assert refusal(file, 999) == "holds 1,000 bytes, must be at most 999"
    with file.open("wb") as large:
        large.truncate(2**30)
    assert refusal(file, 2**24) == "holds 1,073,741,824 bytes, must be at most 16,777,216"


@pytest.mark.parametrize("device", ["/dev/zero", "/dev/full", "/dev/null"])
def test_devices_are_refused(device: str) -> None:
    assert refusal(Path(device)) == "is neither a file nor a pipe"


def test_pipes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pipe = tmp_path / "pipe"
    os.mkfifo(pipe)
    assert read_text(pipe, 10) == ""  # nobody writes to it
    reader, writer = os.pipe()
    late = threading.Timer(0.1, lambda: (os.write(writer, b"late"), os.close(writer)))
    late.start()
    assert read_text(Path(f"/dev/fd/{reader}"), 10) == "late"
    late.join()
    monkeypatch.setattr(text_files, "PIPE_SILENCE_S", 0.1)
    silent = os.open(pipe, os.O_RDWR)
    assert refusal(pipe) == "is a pipe that said nothing for 0.1 s"
    os.write(silent, b"x" * 100)
    assert refusal(pipe, 10) == "holds more than 10 bytes"
    for descriptor in (reader, silent):
        os.close(descriptor)


@pytest.mark.parametrize("word", ["1", "-1.5", "+.5e3", "1.", "1E-3", "inf", "-nan", "9" * 5000])
def test_numbers(word: str) -> None:
    assert repr(parse_number(word)) == repr(float(word))


@pytest.mark.parametrize("word", ["", "1_0", "٣", "0x1", "1 ", "1e", "infinity", "1,5"])
def test_words_that_are_no_number(word: str) -> None:
    with pytest.raises(ValueError, match="is not a number"):
        parse_number(word)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ('{"a": NaN}', "NaN is not a number in JSON"),
        ('{"a": -Infinity}', "-Infinity is not a number in JSON"),
        ('{"a": 1, "b": 2, "a": 3}', "key given twice: a"),
        ("[" * 100_000, "is nested too deeply"),
        ("9" * 5000, "a number of 5,000 digits: must have at most 400"),
    ],
)
def test_json_that_is_refused(text: str, message: str) -> None:
    with pytest.raises(ValueError, match=message) as refused:
        parse_json(text)
    assert str(refused.value) == message


def test_json() -> None:
    assert parse_json('{"a": [1, 2.5e3, null, true, "x"]}') == {"a": [1, 2500.0, None, True, "x"]}
    with pytest.raises(json.JSONDecodeError) as refused:
        parse_json("[1,\n 2")
    assert refused.value.lineno == 2


def test_what_a_message_quotes_is_short_and_on_one_line() -> None:
    assert shorten("a\n\tb") == "a  b"
    assert shorten("x" * 10_000) == "x" * 57 + "..."
    assert shorten(decode_text(b"ab"), 2) == "ab"
