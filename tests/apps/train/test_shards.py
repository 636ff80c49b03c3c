"""Checkpoints in DCP's format: plain data goes in, plain data comes out, and nothing else."""

from __future__ import annotations

import os
import pickle
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.distributed.checkpoint as dcp

from steepest.apps.train.parallel import sharded_checkpoint
from steepest.apps.train.parallel.team import SINGLE
from tests.apps.train.tiny import same

TREE: dict[str, Any] = {
    "model": {"w": torch.arange(12.0).view(3, 4), "half": torch.ones(2, dtype=torch.bfloat16)},
    "groups": [{"lr": 0.1, "betas": (0.9, 0.95)}],
    "state": {0: {"step": torch.tensor(3.0)}},
}


def written(folder: Path) -> dict[str, str]:
    return sharded_checkpoint.write(folder, TREE, SINGLE)


def read(folder: Path, marks: dict[str, str]) -> Any:
    return sharded_checkpoint.read(
        folder, sharded_checkpoint.frame(TREE), marks, like=lambda _: None, team=SINGLE
    )


def test_a_tree_comes_back_as_it_was(tmp_path: Path) -> None:
    marks = written(tmp_path / "a")
    assert marks.keys() == {p.name for p in (tmp_path / "a").iterdir()}
    assert same(read(tmp_path / "a", marks), TREE)


def test_what_an_earlier_writer_left_is_gone(tmp_path: Path) -> None:
    (tmp_path / "a").mkdir()
    (tmp_path / "a" / "__7_0.distcp").write_bytes(b"half")
    assert "__7_0.distcp" not in written(tmp_path / "a")


def test_a_changed_or_missing_file_is_noticed(tmp_path: Path) -> None:
    marks = written(tmp_path / "a")
    for name in marks:
        path = tmp_path / "a" / name
        raw = path.read_bytes()
        path.write_bytes(raw[:-1] + bytes([raw[-1] ^ 1]))
        with pytest.raises(ValueError, match="is damaged"):
            read(tmp_path / "a", marks)
        path.unlink()
        with pytest.raises(ValueError, match="is damaged"):
            read(tmp_path / "a", marks)
        path.write_bytes(raw)
    assert same(read(tmp_path / "a", marks), TREE)


class Harmful:
    """Makes a file wherever it is unpickled."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> tuple[Any, ...]:
        return (os.mkdir, (str(self.path),))


def test_code_in_a_table_of_contents_does_not_run(tmp_path: Path) -> None:
    marks = written(tmp_path / "a")
    table = tmp_path / "a" / sharded_checkpoint.METADATA
    table.write_bytes(pickle.dumps(Harmful(tmp_path / "harm")))
    marks[table.name] = sharded_checkpoint.fingerprint(table)
    with pytest.raises(ValueError, match=r"checkpoint=.*mkdir does not belong in a table"):
        read(tmp_path / "a", marks)
    assert not (tmp_path / "harm").exists()


def test_code_in_the_place_of_a_tensor_does_not_run(tmp_path: Path) -> None:
    tree = {**sharded_checkpoint.tensors(TREE), "model.w": Harmful(tmp_path / "harm")}
    with pytest.warns(UserWarning, match="torch.distributed is disabled"):
        dcp.save(tree, storage_writer=dcp.FileSystemWriter(tmp_path / "a"), no_dist=True)
    marks = {p.name: sharded_checkpoint.fingerprint(p) for p in (tmp_path / "a").iterdir()}
    with pytest.raises(
        ValueError, match=r"checkpoint=.*BytesStorageMetadata does not belong in a table"
    ):
        read(tmp_path / "a", marks)
    assert not (tmp_path / "harm").exists()
