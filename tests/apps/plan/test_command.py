"""`steepest plan`: its table, its files, its flags, and one line for whatever is wrong."""

from __future__ import annotations

import csv
import json
import os
import re
from pathlib import Path

import pytest
from typer.testing import CliRunner, Result

from steepest.apps.app import app, command_of
from steepest.apps.plan import command, start
from steepest.apps.plan.models import MODELS
from steepest.apps.plan.picture import draw
from tests.apps.gallery.pictures import size

ROOT = Path(__file__).resolve().parents[3]
PAGE = (ROOT / "docs" / "plan.md").read_text(encoding="utf-8")
FLAGS = [
    *("--model", "--mesh", "--devices", "--device", "--tokens", "--length", "--sequences"),
    *("--recompute", "--dtype", "--exchange-dtype", "--set", "--out"),
]


def call(*arguments: object) -> Result:
    return CliRunner().invoke(
        app, ["plan", *map(str, arguments)], env={"COLUMNS": "80"}, catch_exceptions=False
    )


def test_the_flags_are_frozen_and_documented() -> None:
    shown = command_of("plan")
    assert [o for p in shown.params for o in p.opts] == FLAGS
    names = (*FLAGS, *MODELS, *command.DEVICES, *command.NUMBERS)
    assert [n for n in names if f"`{n}`" not in PAGE] == []


def test_the_page_shows_what_the_command_prints() -> None:
    blocks = re.findall(
        r"```console\n\$ steepest plan ([^\n]+)\n```\n\n```text\n(.*?)```", PAGE, re.S
    )
    assert len(blocks) >= 2
    for arguments, printed in blocks:
        found = call(*arguments.split()).stdout.rstrip()
        assert [line.rstrip() for line in found.splitlines()] == printed.rstrip().splitlines()


def test_the_files(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "fsync", lambda _: None)
    monkeypatch.setattr(start, "COUNTS", (1, 8, 2048))
    drawn = []
    monkeypatch.setattr(start, "draw", lambda plans: drawn.append(plans) or draw(plans))
    result = call("--model", "llama-8b", "--devices", 8, "--out", tmp_path / "new" / "folder")
    assert result.exit_code == 0
    out = tmp_path / "new" / "folder"
    paths = [out / name for name in ("plan.png", "plan.csv", "plan.json")]
    assert result.stdout.split()[-3:] == [str(p) for p in paths]
    assert size(paths[0].read_bytes())[0] == 1170
    assert [p.task.mesh.devices for p in drawn[0]] == [1, 8, 2048]
    rows = list(csv.DictReader(paths[1].read_text().splitlines()))
    assert len(rows) == 15 and all(row["limit"] for row in rows)
    data = json.loads(paths[2].read_text())
    told = {(d["mesh"]["fsdp"] * d["mesh"]["tp"] * d["mesh"]["replicate"]) for d in data["devices"]}
    assert told == {1, 8, 2048} and data["plan"]["source"] == MODELS["llama-8b"].source


def test_numbers_of_the_machine_can_be_replaced() -> None:
    usual, slow = call("--mesh", "data=8"), call("--mesh", "data=8", "--set", "inner=4.5e9")
    assert usual.exit_code == slow.exit_code == 0 and usual.stdout != slow.stdout
    assert "bandwidth" in slow.stdout and "80 GB" in slow.stdout
    other = call("--set", "memory=1e9", "--set", "node=4", "--device", "a100")
    assert "4 × a100, 4 in a node" in other.stdout and "of 1 GB" in other.stdout


def test_every_number_has_its_unit() -> None:
    assert command.UNITS.keys() == command.NUMBERS.keys()
    assert tuple(start.DTYPES) == command.DTYPES


def test_names_may_be_capitals() -> None:
    assert call("--model", "GPT2-Small", "--device", "H100", "--set", "NODE=4").exit_code == 0


def test_whatever_is_wrong_is_one_line(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    for arguments, message in (
        (("--model", "gpt9"), "--model gpt9: did you mean gpt2? Choose from gpt2-small"),
        (("--mesh", "pipe=2"), "--mesh pipe=2: name each axis once"),
        (("--mesh", "data=1e3"), "--mesh data=1e3: give data a whole number"),
        (("--mesh", "data=8", "--devices", "4"), "not to --devices 4"),
        (("--devices", "0"), "--devices 0: give a whole number >= 1"),
        (("--tokens", "1e3"), "--tokens 1e3: not a whole number; write --tokens 1000"),
        (("--device", "abacus"), "--device abacus: choose from a100"),
        (("--set", "outer=-5"), "--set outer=-5: give a positive number"),
        (("--set", "half=nan"), "--set half=nan: give a positive number"),
        (("--set", "utilization=2"), "--set utilization=2: give a number in (0, 1]"),
        (("--set", "outr=5"), "--set outr=5: write NAME=VALUE: did you mean outer?"),
        (("--set", "outer"), "--set outer: write NAME=VALUE"),
        (("--set", "outer=fast"), "--set outer=fast: give a number"),
        (("--set", "node=1.5"), "--set node=1.5: give a whole number"),
        (("--mesh", "pp=13"), "--mesh pp=13: give at most 12 stages"),
        (("--mesh", "tensor=13"), "--mesh tp=13: give a divisor of 12, the heads of gpt2-small"),
        (("--model", "llama-8b", "--mesh", "tp=64"), "--mesh tp=64: give a divisor of 32"),
        (("--recompute", "some"), "--recompute some: choose from none, selective, full"),
        (("--length", "0"), "--length 0: give a whole number >= 1"),
        (("--dtype", "int8"), "--dtype int8: choose from float32, bfloat16"),
        (("--mesh", "data=8", "--out", str(tmp_path / "file")), f"--out {tmp_path / 'file'}: "),
    ):
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(start, "COUNTS", (1,))
            result = call(*arguments)
        assert (result.exit_code, result.stdout) == (2, "")
        assert result.stderr.startswith("steepest: error: ") and result.stderr.count("\n") == 1
        assert message in result.stderr
