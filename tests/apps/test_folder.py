"""A folder belongs to one process at a time, however that ends; paths are as users write them."""

from __future__ import annotations

import errno
import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from steepest._common import files
from steepest.apps._folder import LOCK, given_path, held, is_empty, is_special, user_path

HOLDING = """
import sys, time
from pathlib import Path
from steepest.apps._folder import held
with held(Path(sys.argv[1])):
    print("held", flush=True)
    time.sleep(60)
"""


@contextmanager
def other(folder: Path) -> Iterator[subprocess.Popen[str]]:
    """Another process that holds a folder; it ends with the block."""
    call = [sys.executable, "-c", HOLDING, str(folder)]
    with subprocess.Popen(call, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == "held\n"
        try:
            yield process
        finally:
            process.kill()


def test_another_process_is_kept_out_and_named(tmp_path: Path) -> None:
    folder = tmp_path / "new" / "folder"
    with other(folder) as process:
        text = rf"^out='{folder}': process {process.pid} on .* is at work there; give another"
        with pytest.raises(ValueError, match=text), held(folder):
            pass
        process.send_signal(signal.SIGKILL)
        process.wait()
        # The lock has ended with the process, and not with the file that it has left.
        assert (folder / LOCK).exists()
        assert is_empty(folder)
        with held(folder):
            pass
    assert not list(folder.iterdir())


def test_a_lock_without_a_name_is_held_all_the_same(tmp_path: Path) -> None:
    with held(tmp_path):
        (tmp_path / LOCK).write_bytes(b"\xff")
        with pytest.raises(ValueError, match="another process is at work"), held(tmp_path):
            pass


def test_a_folder_is_free_after_the_block_and_what_was_made_for_nothing_is_gone(
    tmp_path: Path,
) -> None:
    for _ in range(2):
        with held(tmp_path / "new"):
            assert (tmp_path / "new" / LOCK).is_file()
    assert not (tmp_path / "new").exists()
    with held(tmp_path / "new"):
        (tmp_path / "new" / "file").touch()
    assert [p.name for p in (tmp_path / "new").iterdir()] == ["file"]
    (tmp_path / "empty").mkdir()
    with held(tmp_path / "empty"):
        pass
    assert (tmp_path / "empty").is_dir(), "it was there before"


def test_a_new_folder_is_made_by_one_alone(tmp_path: Path) -> None:
    with held(tmp_path / "new", new=True):
        with pytest.raises(FileExistsError), held(tmp_path / "new", new=True):
            pass
        assert (tmp_path / "new").is_dir()


def test_who_has_patience_waits(tmp_path: Path) -> None:
    with other(tmp_path) as process:
        signalled = subprocess.Popen(["bash", "-c", f"sleep 0.3; kill -9 {process.pid}"])
        with held(tmp_path, patience=30.0):
            assert process.wait(1) == -signal.SIGKILL
        signalled.wait()


def test_a_lock_that_was_removed_meanwhile_is_none(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    # Between opening the file and locking it, its owner may have ended and removed it.
    flock, removed = files.fcntl.flock, []

    def late(handle: int, operation: int) -> None:
        if not removed:
            removed.append((tmp_path / LOCK).unlink())
        flock(handle, operation)

    monkeypatch.setattr(files.fcntl, "flock", late)
    with held(tmp_path):
        assert (tmp_path / LOCK).is_file()
        with pytest.raises(ValueError, match="is at work"), held(tmp_path):
            pass


@pytest.mark.parametrize("system", ["no fcntl", "no locks"])
def test_without_locks_a_note_says_so(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    system: str,
) -> None:
    def refuse(*_: object) -> None:
        raise OSError(errno.ENOLCK, os.strerror(errno.ENOLCK))

    if system == "no fcntl":
        monkeypatch.setattr(files, "fcntl", None)
    else:
        monkeypatch.setattr(files.fcntl, "flock", refuse)
    with held(tmp_path / "new"), held(tmp_path / "new"):
        pass
    assert capsys.readouterr().err.count(f"note: {tmp_path / 'new'} is on a file system") == 2


def test_a_planted_lock_is_not_followed(tmp_path: Path) -> None:
    (tmp_path / "victim").write_text("precious")
    (tmp_path / "run").mkdir()
    (tmp_path / "run" / LOCK).symlink_to(tmp_path / "victim")
    with pytest.raises(OSError, match="symbolic links"), held(tmp_path / "run"):
        pass
    assert (tmp_path / "victim").read_text() == "precious"


def test_a_file_in_the_place_of_a_folder_is_refused(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    (tmp_path / "circle").symlink_to(tmp_path / "circle")
    for name in ("file", "circle"):
        with pytest.raises(ValueError, match="a file of that name exists"), held(tmp_path / name):
            pass
    with pytest.raises(OSError, match="Not a directory"), held(tmp_path / "file" / "below"):
        pass


def test_paths_are_those_that_users_mean(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    assert user_path("~/text", argument="data") == tmp_path.resolve() / "text"
    with pytest.raises(ValueError, match=r"^data='~nobody-here/x': there is no user nobody-here"):
        user_path("~nobody-here/x", argument="data")
    (tmp_path / "circle").symlink_to(tmp_path / "circle")
    for place in ("circle", "circle/below"):
        for read in (user_path, given_path):
            with pytest.raises(ValueError, match=r"^data=.*lead in a circle"):
                read(str(tmp_path / place), argument="data")
    (tmp_path / "link").symlink_to(tmp_path / "target")
    assert given_path("~/link", argument="out") == tmp_path / "link", "a link stays what it is"
    monkeypatch.chdir(tmp_path)
    assert str(given_path("link", argument="out")) == "link"


def test_a_user_without_a_home_is_told_so(monkeypatch: pytest.MonkeyPatch) -> None:
    def nobody(_: Path) -> Path:
        raise RuntimeError("Could not determine home directory.")

    monkeypatch.setattr(Path, "expanduser", nobody)
    with pytest.raises(ValueError, match=r"^out='~/x': nothing says which folder ~ is; write the"):
        given_path("~/x", argument="out")


def test_pipes_and_devices_are_special(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe")
    (tmp_path / "file").touch()
    names = ("pipe", "file", ".", "missing")
    assert [is_special(tmp_path / name) for name in names] == [True, False, False, False]
    assert is_special(Path("/dev/zero"))
