"""Checkpoints: the newest two are kept, and a foreign or damaged one is refused, never lost."""

from __future__ import annotations

import random
from pathlib import Path
from typing import Any

import pytest
import torch

from steepest.apps.train.checkpoint import checkpoint_path, checkpoints, load, save
from tests.apps.train.tiny import same

CONTENT: dict[str, Any] = {"model": {"w": torch.arange(100.0)}, "step": 3}
SIZE = {"model": {"layers": 2}}


def test_what_was_saved_is_loaded(tmp_path: Path) -> None:
    path = save(tmp_path, 3, CONTENT, belongs=SIZE)
    assert same(load(path, device="cpu", belongs=SIZE), CONTENT)


def test_the_newest_two_are_kept(tmp_path: Path) -> None:
    for step in (5, 10, 999_999, 1_000_000):
        save(tmp_path, step, CONTENT, belongs=SIZE)
    names = [p.name for p in checkpoints(tmp_path)]
    assert names == ["step-999999.pt", "step-1000000.pt"]


def test_a_checkpoint_of_another_model_is_refused(tmp_path: Path) -> None:
    path = save(tmp_path, 3, CONTENT, belongs=SIZE)
    with pytest.raises(ValueError, match=r"another run \(model \{.layers.: 2\} there") as error:
        load(path, device="cpu", belongs={"model": {"layers": 4}})
    assert str(path) in str(error.value)
    assert path.exists()


@pytest.mark.parametrize("part", [0.0, 0.01, 0.3, 0.5, 0.9, 0.999])
def test_a_cut_off_checkpoint_is_refused(tmp_path: Path, part: float) -> None:
    path = save(tmp_path, 3, CONTENT, belongs=SIZE)
    raw = path.read_bytes()
    path.write_bytes(raw[: int(part * len(raw))])
    with pytest.raises(ValueError, match=r"cut off.*move it away and resume") as error:
        load(path, device="cpu", belongs={})
    assert str(path) in str(error.value)
    assert path.stat().st_size == int(part * len(raw)), "left as it was found"


def test_one_flipped_bit_in_the_numbers_is_noticed(tmp_path: Path) -> None:
    path = save(tmp_path, 3, CONTENT, belongs=SIZE)
    raw = bytearray(path.read_bytes())
    place = raw.find(torch.arange(100.0).numpy().tobytes())
    assert place > 0
    raw[place + 41] ^= 1
    path.write_bytes(raw)
    with pytest.raises(ValueError, match="damaged"):
        load(path, device="cpu", belongs={})


@pytest.mark.parametrize("raw", [b"", b"text", random.Random(0).randbytes(5000)])
def test_another_file_is_no_checkpoint(tmp_path: Path, raw: bytes) -> None:
    path = checkpoint_path(tmp_path, 1)
    path.write_bytes(raw)
    with pytest.raises(ValueError, match="no checkpoint of steepest"):
        load(path, device="cpu", belongs={})


def test_code_in_a_checkpoint_does_not_run(tmp_path: Path) -> None:
    path = checkpoint_path(tmp_path, 1)
    torch.save({"model": torch.nn.Linear(2, 2)}, path)
    with pytest.raises(ValueError, match="no checkpoint of steepest"):
        load(path, device="cpu", belongs={})


def test_a_file_that_cannot_be_read_is_no_damage(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError):
        load(tmp_path / "gone.pt", device="cpu", belongs={})
