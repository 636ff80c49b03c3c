"""Files are written whole or not at all."""

from __future__ import annotations

import errno
import math
import os
import signal
import stat
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest

from steepest._common.files import (
    naming,
    new_folder,
    open_append,
    open_file,
    read_file,
    read_json,
    read_lines,
    refuse_links,
    write_atomic,
    write_json,
)
from tests.apps.train.tiny import contents
from tests.planted import PLANTED


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


# What a stranger may have planted.


def test_planted_names_are_not_followed(tmp_path: Path) -> None:
    """Neither a guessed temporary name nor a link in the file's own place leads anywhere."""
    victim, path = tmp_path / "victim", tmp_path / "run" / "file"
    victim.write_bytes(b"precious")
    path.parent.mkdir()
    for name in (".file.tmp", "file.tmp", "file~", "file"):
        (path.parent / name).symlink_to(victim)
    write_atomic(path, b"new")
    assert victim.read_bytes() == b"precious"
    assert path.read_bytes() == b"new" and not path.is_symlink()


def test_temporary_names_cannot_be_guessed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    names, opened = set(), os.open
    flags: list[int] = []

    def seen(path: Any, flag: int, *mode: int) -> int:
        if str(path).endswith(".tmp"):
            names.add(Path(path).name)
            flags.append(flag)
        return opened(path, flag, *mode)

    monkeypatch.setattr(os, "open", seen)
    for _ in range(50):
        write_atomic(tmp_path / "file", b"x")
    assert len(names) == 50
    assert all(flag & os.O_EXCL and flag & os.O_NOFOLLOW for flag in flags)


def test_another_name_of_the_same_file_keeps_the_old_content(tmp_path: Path) -> None:
    (tmp_path / "victim").write_bytes(b"precious")
    os.link(tmp_path / "victim", tmp_path / "file")
    write_atomic(tmp_path / "file", b"new")
    assert contents(tmp_path) == {"victim": b"precious", "file": b"new"}


@pytest.mark.parametrize("name", ["file", "x" * 255, "ä" * 127])
def test_a_name_may_be_as_long_as_a_file_can_have(tmp_path: Path, name: str) -> None:
    write_atomic(tmp_path / name, b"x")
    assert contents(tmp_path) == {name: b"x"}


def test_the_umask_counts(tmp_path: Path) -> None:
    before = os.umask(0o027)
    try:
        write_atomic(tmp_path / "file", b"x")
    finally:
        os.umask(before)
    assert stat.S_IMODE((tmp_path / "file").stat().st_mode) == 0o640


KILLED = """
import os, pathlib, signal, sys
from steepest._common import files
def die(handle):
    os.kill(os.getpid(), signal.SIGKILL)
os.fsync = die
files.write_atomic(pathlib.Path(sys.argv[1]), b"half")
"""


def test_what_kills_leave_does_not_pile_up(tmp_path: Path) -> None:
    path = tmp_path / "file"
    write_atomic(path, b"old")
    for _ in range(2):
        done = subprocess.run([sys.executable, "-c", KILLED, str(path)], check=False, timeout=60)
        assert done.returncode == -signal.SIGKILL
        assert path.read_bytes() == b"old"
        assert len(list(tmp_path.glob(".file.*.tmp"))) == 1
    write_atomic(path, b"new")
    assert contents(tmp_path) == {"file": b"new"}


def test_what_another_process_is_writing_is_left_alone(tmp_path: Path) -> None:
    """Several threads write one file: each write succeeds, and it is never anything but whole."""
    path, wanted = tmp_path / "file", {bytes([65 + i]) * 100_000 for i in range(4)}

    def write(content: bytes) -> None:
        for _ in range(25):
            write_atomic(path, content)
            assert path.read_bytes() in wanted

    with ThreadPoolExecutor(4) as pool:
        list(pool.map(write, wanted))
    assert list(contents(tmp_path)) == ["file"]


def test_a_leftover_is_a_file_of_our_own_name(tmp_path: Path) -> None:
    kept = {
        ".file.tmp",
        ".file.short.tmp",
        ".other.0123456789abcdef.tmp",
        "file.0123456789abcdef.tmp",
    }
    for name in kept:
        (tmp_path / name).write_bytes(b"x")
    (tmp_path / ".file.0123456789abcdef.tmp").symlink_to(tmp_path / ".file.tmp")
    (tmp_path / ".file.0123456789abcde0.tmp").write_bytes(b"left")
    write_atomic(tmp_path / "file", b"x")
    assert contents(tmp_path).keys() == {*kept, "file", ".file.0123456789abcdef.tmp"}


@pytest.mark.parametrize("kind", PLANTED)
def test_only_a_regular_file_is_opened(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, kind: str
) -> None:
    monkeypatch.chdir(tmp_path)
    path = tmp_path / "file"
    PLANTED[kind](path)
    for use in (open_file, open_append, read_file, read_json):
        with pytest.raises(OSError, match=str(path)) as error:
            use(path)
        assert error.value.filename == str(path) and error.value.strerror
    if path.exists():
        with pytest.raises(OSError, match=str(path)):
            list(read_lines(path))


def test_appending_follows_no_link(tmp_path: Path) -> None:
    victim = tmp_path / "victim"
    victim.write_bytes(b"precious")
    for target in (victim, tmp_path / "new"):
        (tmp_path / "file").symlink_to(target)
        with pytest.raises(OSError, match=str(tmp_path / "file")):
            open_append(tmp_path / "file")
        (tmp_path / "file").unlink()
    assert contents(tmp_path) == {"victim": b"precious"}


def test_a_link_to_a_file_can_be_read(tmp_path: Path) -> None:
    (tmp_path / "there").write_bytes(b"[1]")
    (tmp_path / "file").symlink_to("there")
    assert read_json(tmp_path / "file") == [1]


def test_files_of_absurd_size_are_not_read(tmp_path: Path) -> None:
    path = tmp_path / "file"
    with path.open("wb") as file:
        file.truncate(2**40)  # a terabyte, of which nothing is on the disk
    for use in (read_file, read_json):
        with pytest.raises(OSError, match="at most") as error:
            use(path)
        assert error.value.errno == errno.EFBIG
    assert list(read_lines(path)) == []


def test_json_that_nests_too_deeply_is_no_json(tmp_path: Path) -> None:
    path = tmp_path / "file"
    path.write_text('{"a": 1}\n' + "[" * 200_000 + "\n")
    assert list(read_lines(path)) == [{"a": 1}]
    path.write_text("[" * 200_000)
    with pytest.raises(ValueError, match="nested too deeply"):
        read_json(path)


def test_json_holds_names_that_are_not_utf8(tmp_path: Path) -> None:
    write_json(tmp_path / "x.json", {"name": "a\udcff"})
    assert read_json(tmp_path / "x.json") == {"name": "a\udcff"}


@pytest.mark.parametrize("what", ["link to a folder", "dangling link", "file", "folder", "nothing"])
def test_a_new_folder_is_empty_and_no_link(tmp_path: Path, what: str) -> None:
    victim, path = tmp_path / "victim", tmp_path / "a" / "new"
    victim.mkdir()
    (victim / "precious").write_bytes(b"x")
    if what != "nothing":
        path.parent.mkdir()
    if "link" in what:
        path.symlink_to(victim if what == "link to a folder" else tmp_path / "gone")
    elif what == "file":
        path.write_bytes(b"old")
    elif what == "folder":
        path.mkdir()
        (path / "old").write_bytes(b"old")
    new_folder(path)
    assert path.is_dir() and not path.is_symlink() and not list(path.iterdir())
    assert contents(tmp_path) == {"victim/precious": b"x"} and not (tmp_path / "gone").exists()


def test_links_on_the_way_are_refused(tmp_path: Path) -> None:
    root, place = tmp_path / "run", tmp_path / "run" / "muon" / "seed-0"
    place.mkdir(parents=True)
    (tmp_path / "link").symlink_to(root)
    refuse_links(root, place, root / "new" / "seed-0")
    refuse_links(tmp_path / "link", tmp_path / "link" / "muon" / "seed-0")
    (root / "adamw").symlink_to(tmp_path)
    for wrong in (root / "adamw", root / "adamw" / "seed-0"):
        with pytest.raises(OSError, match="is a link") as error:
            refuse_links(root, place, wrong)
        assert error.value.filename == str(root / "adamw")


FULL, NONE = Path("/dev/full"), Path(os.devnull)
MEMORY = Path("/proc/self/mem")
"""A regular file whose first byte nobody can read."""


@pytest.mark.skipif(not MEMORY.exists(), reason="needs /proc")
def test_an_error_of_reading_names_the_file() -> None:
    with open_file(MEMORY) as file:
        for read in (file.read, lambda: file.read(8), file.readline):
            with pytest.raises(OSError, match="Input/output error") as error:
                read()
            assert (error.value.errno, error.value.filename) == (errno.EIO, str(MEMORY))


@pytest.mark.skipif(not FULL.exists(), reason="needs /dev/full")
def test_an_error_of_writing_names_the_file(tmp_path: Path) -> None:
    path = tmp_path / "file"
    with open_append(path) as file, FULL.open("wb") as full, NONE.open("wb") as none:
        os.dup2(full.fileno(), file.fileno())
        file.write(b"line\n")
        with pytest.raises(OSError, match="No space left") as error:
            file.flush()
        os.dup2(none.fileno(), file.fileno())
    assert (error.value.errno, error.value.filename) == (errno.ENOSPC, str(path))


def test_only_an_error_without_a_name_gets_one() -> None:
    for given, name in (((errno.EIO, "broken"), "outer"), ((errno.EIO, "broken", "own"), "own")):
        with pytest.raises(OSError, match="broken") as error, naming(Path("outer")):
            raise OSError(*given)
        assert error.value.filename == name
    with pytest.raises(OSError, match="told") as plain, naming(Path("outer")):
        raise OSError("told")
    assert plain.value.filename is None
    with pytest.raises(BrokenPipeError), naming(Path("outer")):
        raise BrokenPipeError(errno.EPIPE, "broken")
