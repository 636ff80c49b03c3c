"""Files are written whole or not at all."""

from __future__ import annotations

import errno
import math
import os
from pathlib import Path

import pytest

from steepest._common.files import write_atomic, write_json
from tests.apps.train.tiny import contents, read_json


def test_the_new_content_replaces_the_old(tmp_path: Path) -> None:
    path = tmp_path / "file"
    for content in (b"old and long", b"new"):
        write_atomic(path, content)
        assert contents(tmp_path) == {"file": content}


@pytest.mark.parametrize("broken", ["fsync", "replace"])
def test_a_full_disk_keeps_the_old_content_and_names_the_file(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, broken: str
) -> None:
    def full(*_: object) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    path = tmp_path / "file"
    write_atomic(path, b"old")
    with monkeypatch.context() as patch:
        patch.setattr(os if broken == "fsync" else Path, broken, full)
        with pytest.raises(OSError, match="No space left") as error:
            write_atomic(path, b"new")
    assert error.value.errno == errno.ENOSPC
    assert error.value.filename == str(path)
    assert contents(tmp_path) == {"file": b"old"}


def test_a_kill_between_writing_and_renaming_keeps_the_old_content(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def killed(*_: object) -> None:
        raise KeyboardInterrupt

    path = tmp_path / "file"
    write_atomic(path, b"old")
    with monkeypatch.context() as patch:
        patch.setattr(Path, "replace", killed)
        with pytest.raises(KeyboardInterrupt):
            write_atomic(path, b"new")
    assert path.read_bytes() == b"old"
    write_atomic(path, b"newer")
    assert contents(tmp_path) == {"file": b"newer"}


def test_the_content_is_on_the_disk_before_the_name_is(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    calls: list[str] = []
    fsync, replace = os.fsync, Path.replace
    monkeypatch.setattr(os, "fsync", lambda f: (calls.append("fsync"), fsync(f))[1])
    monkeypatch.setattr(Path, "replace", lambda a, b: (calls.append("replace"), replace(a, b))[1])
    write_atomic(tmp_path / "file", b"content")
    assert calls == ["fsync", "replace", "fsync"]  # the file, its name, the folder


def test_json_holds_text_as_it_is_and_no_nan(tmp_path: Path) -> None:
    write_json(tmp_path / "x.json", {"æ": [1, None]})
    assert read_json(tmp_path / "x.json") == {"æ": [1, None]}
    assert "æ" in (tmp_path / "x.json").read_text(encoding="utf-8")
    with pytest.raises(ValueError, match="JSON"):
        write_json(tmp_path / "y.json", math.nan)
    assert not (tmp_path / "y.json").exists()
