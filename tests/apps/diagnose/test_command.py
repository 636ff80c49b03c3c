"""`steepest diagnose`: what it makes of a run, a trial, a checkpoint, and of what is none."""

from __future__ import annotations

import re
import shutil
from pathlib import Path

import pytest
import torch
from typer.testing import Result

from steepest.apps.app import command_of
from steepest.apps.diagnose import measure, pictures, start
from steepest.apps.diagnose.source import find
from steepest.apps.train import trial
from tests.apps.diagnose.conftest import call
from tests.apps.diagnose.test_page import Found
from tests.apps.train.tiny import TINY

PAGE = Path(__file__).resolve().parents[3] / "docs" / "diagnose.md"
FLAGS = ["--optimizer", "--seed", "--data", "--windows", "--out"]


def read(path: Path) -> Found:
    return Found(path.read_bytes())


@pytest.fixture
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    """Without what takes long: nothing is computed or drawn; the test is about something else."""
    monkeypatch.setattr(start, "measure", lambda *_, **__: None)
    monkeypatch.setattr(start, "estimate", lambda *_, **__: {})
    monkeypatch.setattr(pictures, "png", lambda _: b"no picture")


def test_the_flags_are_frozen_and_documented() -> None:
    shown = command_of("diagnose")
    assert [o for p in shown.params for o in p.opts if o.startswith("-")] == FLAGS
    page = PAGE.read_text(encoding="utf-8")
    assert [flag for flag in FLAGS if f"`{flag}`" not in page] == []


def test_a_run_becomes_a_page(run: Path, diagnosed: tuple[Path, Result]) -> None:
    out, result = diagnosed
    assert result.exit_code == 0, result.stderr
    assert result.stderr == ""
    for part in ("muon seed 0", "adamw seed 0", "12 of 12", "--monitor-every", str(out), "ETA"):
        assert part in result.stdout
    # What to change comes first, here and on the page.
    shown = result.stdout[result.stdout.index("\nFindings\n") :]
    assert shown.index("\n1. ") < shown.index("weak guide") < shown.index("┏")
    page = read(out)
    # Losses of both in one; of Muon spectra, ranks, updates, depth; of both directions, verdict.
    assert page.tags.count("img") == 1 + 4 + 2 * 2
    for part in (
        "Findings",
        "Side by side",
        "muon, adamw: GPT with 1 layers of width 16",
        "words.txt, 4,000 characters, sha256 ",
        f"steepest diagnose {run} --windows 2",
        "sharpness (λ₁)",
        "Spectra over time",
        "Ranks by layer and step",
        "Activations through depth",
        "Sharpness by direction",
        "Which step suits each layer",
        "Smoothness in a norm",
        "on 2 windows of the training text drawn with seed 0",
        "blocks.0.attn.qkv",
        "adamw/seed-0/monitor.jsonl has none of it. Train with --monitor-every 100 to have it.",
    ):
        assert part in page.text


@pytest.mark.usefixtures("quick")
def test_the_page_does_not_say_where_on_this_machine_the_run_lies(
    run: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    out = tmp_path / "page.html"
    monkeypatch.chdir(run.parent)
    trial = Path(run.name, "muon", "seed-0")
    for path in (Path(run.name), trial, trial / "step-000010.pt"):
        assert call("diagnose", path, "--out", out).exit_code == 0
        assert f"From {path}" in read(out).text
        assert str(run.parent) not in out.read_text(encoding="utf-8")


def test_an_older_checkpoint_is_diagnosed_as_it_was(run: Path, tmp_path: Path) -> None:
    out = tmp_path / "page.html"
    path = run / "adamw" / "seed-0" / "step-000010.pt"
    assert call("diagnose", path, "--out", out, "--windows", 1).exit_code == 0
    text = read(out).text
    assert "At step 10, on 1 window" in text
    assert "10 of 12" in text


@pytest.mark.usefixtures("quick")
def test_warnings_are_the_lines_that_the_training_has_shown(
    text: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(trial, "SAMPLE", 20)
    run = tmp_path / "run"
    flags = ("--optimizer", "adamw", "--lr", 1, "--warmup", 3, "--monitor-every", 2, "--out", run)
    trained = call("train", *TINY, "--data", text, *flags)
    assert trained.exit_code == 0, trained.stderr
    start = "Warning: adamw seed 0, step "
    lines = [t.removeprefix(start) for t in trained.stdout.splitlines() if t.startswith("Warning")]
    rates = [line for line in lines if "far too large" in line]
    assert len(rates) == 1 and " layers, worst " in rates[0], lines
    result = call("diagnose", run)
    assert result.exit_code == 0, result.stderr
    page = read(run / "diagnosis.html").text
    for line in lines:
        step, _, words = line.partition(", ")
        what, _, remedy = words.partition("; ")
        assert f"Step {step}: {what}" in result.stdout
        assert remedy in result.stdout
        assert f"Step {step}: {words}" in page and remedy in page


@pytest.mark.usefixtures("quick")
def test_a_checkpoint_alone_asks_for_its_text(run: Path, text: Path, tmp_path: Path) -> None:
    path = tmp_path / "copied.pt"
    shutil.copy(run / "muon" / "seed-0" / "step-000012.pt", path)
    (subject,) = find(path, optimizers=[], seed=None)
    assert (subject.name, subject.checkpoint) == ("muon seed 0", path)
    result = call("diagnose", path)
    assert result.exit_code == 2
    assert "is not the text" in result.stderr and "--data FILE" in result.stderr
    result = call("diagnose", path, "--data", text)
    assert result.exit_code == 0, result.stderr
    assert (tmp_path / "diagnosis.html").is_file()


@pytest.mark.usefixtures("quick")
def test_the_text_may_have_moved_but_not_changed(run: Path, text: Path, tmp_path: Path) -> None:
    trial, out = run / "adamw" / "seed-0", tmp_path / "page.html"
    other = tmp_path / "other.txt"
    other.write_text(text.read_text(encoding="utf-8") + "!", encoding="utf-8")
    result = call("diagnose", trial, "--out", out, "--data", other)
    assert result.exit_code == 2 and str(other) in result.stderr
    assert not out.exists()
    other.write_text(text.read_text(encoding="utf-8"), encoding="utf-8")
    assert call("diagnose", trial, "--out", out, "--data", other).exit_code == 0
    assert "adamw seed 0" in read(out).text


@pytest.mark.usefixtures("quick")
def test_a_run_that_was_interrupted_is_shown_as_far_as_it_went(run: Path, tmp_path: Path) -> None:
    copy = tmp_path / "run"
    shutil.copytree(run, copy)
    for path in copy.rglob("step-*.pt"):
        path.unlink()
    shutil.rmtree(copy / "muon")
    result = call("diagnose", copy)
    assert result.exit_code == 0, result.stderr
    text = read(copy / "diagnosis.html").text
    assert "has no checkpoint yet" in text
    assert "adamw seed 0" in text and "muon" not in text


@pytest.mark.usefixtures("quick")
def test_a_diverged_trial_says_so_seen_from_inside(
    run: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    copy = tmp_path / "run"
    shutil.copytree(run, copy)
    trial = copy / "muon" / "seed-0"
    for path in trial.glob("step-*.pt"):
        path.unlink()
    with (trial / "metrics.jsonl").open("a") as file:
        file.write('{"step": 13, "time": 0.0, "seconds": 1.0, "loss": null, "lr": 1.0}\n')
    monkeypatch.chdir(trial)
    result = call("diagnose", ".")
    assert result.exit_code == 0, result.stderr
    text = read(trial / "diagnosis.html").text
    assert "muon seed 0" in text and "at step 13" in text
    assert "diverged before its first checkpoint" in text


def test_a_training_of_ones_own_may_have_files_of_the_same_names(tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text("{}", encoding="utf-8")
    (tmp_path / "metrics.jsonl").write_text('{"loss": 1.0}\n', encoding="utf-8")
    record = '{"step": 1, "out/grad_nuclear_rank": 1.0, "out/weight_sigmas": [2.0]}\n'
    (tmp_path / "monitor.jsonl").write_text(f'{{"other": 1}}\n{record}', encoding="utf-8")
    result = call("diagnose", tmp_path)
    assert result.exit_code == 0, result.stderr
    assert "all ranks are 1" in read(tmp_path / "diagnosis.html").text


def test_a_seed_and_optimizers_can_be_chosen(run: Path) -> None:
    (subject,) = find(run, optimizers=["adamw"], seed=0)
    assert subject.name == "adamw seed 0"
    assert [s.name for s in find(run, optimizers=[], seed=None)] == ["muon seed 0", "adamw seed 0"]


def test_ctrl_c_writes_nothing(run: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def interrupted(*_: object, **__: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(start, "measure", interrupted)
    result = call("diagnose", run, "--out", tmp_path / "page.html")
    assert result.exit_code == 130 and "No page has been written" in result.stdout
    assert list(tmp_path.iterdir()) == []


def test_ctrl_c_after_the_page_says_that_it_is_there(
    run: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, quick: None
) -> None:
    def interrupted(*_: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(start, "show", interrupted)
    result = call("diagnose", run, "--out", tmp_path / "page.html")
    assert result.exit_code == 130 and "The page has been written" in result.stdout
    assert (tmp_path / "page.html").read_bytes().endswith(b"</html>")


def test_what_would_take_for_ever_is_refused_before_it_begins(
    run: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(measure, "_gradient_seconds", lambda *_: 4.0)
    result = call("diagnose", run, "--windows", 40, "--out", tmp_path / "page.html")
    assert result.exit_code == 2 and list(tmp_path.iterdir()) == []
    assert re.search(
        r"--windows 40: it would take about [\d.]+ hours .* at most \d+", result.stderr
    )


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["nowhere"], ["nowhere", "there is no such file or folder"]),
        (["empty"], ["empty", "monitor.jsonl", "give the folder of a run"]),
        (["other.pt"], ["other.pt", "no checkpoint of steepest"]),
        (["RUN", "--optimizer", "sgd"], ["--optimizer sgd", "has only muon, adamw"]),
        (["RUN", "--seed", "3"], ["--seed 3", "has only 0"]),
        (["RUN/muon/seed-0", "--seed", "0"], ["only a run has"]),
        (["RUN", "--out", "empty"], ["--out empty", "give a file name"]),
        (["RUN", "--windows", "100000"], ["--windows 100000", "windows of 8 characters", "fewer"]),
        (["RUN", "--data", "short.txt"], ["short.txt", "not the text", "--data FILE"]),
        (["broken"], ["broken: config.json is damaged", "restore it"]),
        (["broken/muon/seed-0"], ["broken: config.json is damaged"]),
        (["cut.pt"], ["cut.pt", "cut off"]),
        (["RUN", "RUN"], ["they are the same", "two different runs"]),
        (["RUN", "RUN/muon/seed-0"], ["they are the same, or one is a part of the other"]),
        (["RUN", "RUN", "RUN"], ["give one run, or two to compare"]),
        (["RUN", "--data", "gone.txt"], ["--data", "gone.txt", "no such file"]),
    ],
    ids=lambda value: value[-1] if isinstance(value, list) else None,
)
def test_what_is_wrong_is_said_in_one_line(
    arguments: list[str],
    words: list[str],
    run: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.chdir(tmp_path)
    Path("empty").mkdir()
    torch.save({"weights": torch.ones(2)}, "other.pt")
    Path("short.txt").write_text("too short", encoding="utf-8")
    shutil.copytree(run, "broken")
    Path("broken/config.json").write_bytes((run / "config.json").read_bytes()[:300])
    checkpoint = next((run / "muon" / "seed-0").glob("step-*.pt"))
    Path("cut.pt").write_bytes(checkpoint.read_bytes()[:1000])
    result = call("diagnose", *(a.replace("RUN", str(run)) for a in arguments))
    assert result.exit_code == 2
    assert result.stderr.count("\n") == 1
    assert all(word in result.stderr for word in words), result.stderr
    # Flags of other commands, and the names that Python has for these.
    assert not re.search(r"--context|resume|(data|windows|path|seed)=", result.stderr)
    assert not list(tmp_path.rglob("*.html"))
