"""`steepest gallery`: which pictures it draws, where it writes them, and its errors."""

from __future__ import annotations

from pathlib import Path

import matplotlib as mpl
import pytest
from typer.testing import CliRunner, Result

from steepest.apps.app import app, command_of
from steepest.apps.gallery import start
from steepest.apps.gallery.command import NAMES
from steepest.apps.gallery.start import PICTURES
from tests.apps.gallery.pictures import size

ROOT = Path(__file__).resolve().parents[3]
FLAGS = ["--out", "--only", "--seed"]
# In the place of the pictures, where a test is about the files.
QUICK = {name: lambda seed, name=name: f"{name} {seed}".encode() for name in PICTURES}


def call(*arguments: object) -> Result:
    return CliRunner().invoke(app, ["gallery", *map(str, arguments)], catch_exceptions=False)


def test_the_flags_are_frozen_and_documented() -> None:
    shown = command_of("gallery")
    assert [o for p in shown.params for o in p.opts] == FLAGS
    docs = ROOT / "docs"
    page = (docs / "duality.md").read_text("utf-8") + (docs / "derivation.md").read_text("utf-8")
    assert [f for f in (*FLAGS, *PICTURES) if f"`{f}`" not in page] == []


def test_it_draws_what_is_named_into_a_new_folder(tmp_path: Path) -> None:
    out = tmp_path / "new" / "folder"
    result = call("--out", out, "--only", "steps")
    assert result.exit_code == 0
    assert result.stdout.split() == [str(out / "steps.png")]
    assert [p.name for p in out.iterdir()] == ["steps.png"]
    content = (out / "steps.png").read_bytes()
    assert size(content)[0] == 1170
    # Again under other settings of matplotlib: the same bytes, and the settings are as they were.
    with mpl.rc_context({"lines.linewidth": 9.0, "font.size": 30.0}):
        assert call("--out", out, "--only", "steps").exit_code == 0
        assert mpl.rcParams["font.size"] == 30.0
    assert (out / "steps.png").read_bytes() == content


def test_all_by_default_and_the_seed_arrives(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(start, "PICTURES", QUICK)
    monkeypatch.chdir(tmp_path)
    assert call("--seed", 7).exit_code == 0
    found = {p.name: p.read_text() for p in (tmp_path / "gallery").iterdir()}
    assert found == {f"{name}.png": f"{name} 7" for name in PICTURES}


def test_a_wrong_name_is_one_line_and_nothing_is_written(tmp_path: Path) -> None:
    result = call("--out", tmp_path / "x", "--only", "balls", "--only", "bals")
    assert result.exit_code == 2
    assert result.stdout == ""
    assert result.stderr == (
        "steepest: error: --only bals: did you mean balls? "
        "Choose from balls, sharpness, steps, spectra, derivation-trace, derivation-newton-schulz, "
        "derivation-ball, derivation-grid\n"
    )
    assert not (tmp_path / "x").exists()


def test_a_file_in_the_place_of_the_folder_is_one_line(tmp_path: Path) -> None:
    path = tmp_path / "file"
    path.touch()
    result = call("--out", path, "--only", "steps")
    assert result.exit_code == 2
    assert result.stderr.count("\n") == 1 and str(path) in result.stderr


def test_a_picture_that_fails_leaves_the_old_one(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "balls.png").write_bytes(b"old")

    def full(_: object, __: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(start, "PICTURES", QUICK)
    monkeypatch.setattr(Path, "replace", full)
    result = call("--out", tmp_path, "--only", "balls")
    assert result.exit_code == 2
    assert result.stderr.count("\n") == 1 and "No space left" in result.stderr
    assert (tmp_path / "balls.png").read_bytes() == b"old"
    assert [p.name for p in tmp_path.iterdir()] == ["balls.png"]


def test_the_names_are_those_of_the_pictures() -> None:
    assert tuple(PICTURES) == NAMES


def test_the_order_of_the_table_is_kept(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(start, "PICTURES", QUICK)
    result = call("--out", tmp_path, "--only", "Spectra", "--only", "balls")
    assert result.stdout.split() == [str(tmp_path / f"{n}.png") for n in ("balls", "spectra")]


def test_a_negative_seed_is_refused() -> None:
    assert call("--seed", -1).exit_code == 2
