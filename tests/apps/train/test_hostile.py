"""Files of strangers: every kind is refused in one line, and nothing in them runs."""

from __future__ import annotations

import io
import json
import os
import pickle
import shutil
import struct
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from typer.testing import Result

from tests.apps.train.tiny import TINY, Invoke, contents
from tests.planted import HOSTILE, PLANTED, quiet

FLAGS = ("--optimizer", "muon", "--steps", "6", "--checkpoint-every", "3")


class Harmful:
    """Makes a folder wherever it is unpickled."""

    def __init__(self, place: str = "harm") -> None:
        self.place = place

    def __reduce__(self) -> tuple[Any, ...]:
        return (os.mkdir, (self.place,))


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run that was stopped in the middle, to be copied."""
    return tmp_path_factory.mktemp("whole") / "run"


@pytest.fixture
def run(whole: Path, tmp_path: Path, tiny: Invoke, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A copy of the run, in the folder that the test works in."""
    text = whole.with_name("words.txt")
    if not whole.exists():
        shutil.copy(tmp_path / "words.txt", text)
        result = tiny(*FLAGS, "--data", text, "--monitor-every", 2, "--out", whole)
        assert result.exit_code == 0, result.stderr
    monkeypatch.chdir(tmp_path)
    shutil.copytree(whole, tmp_path / "run")
    return tmp_path / "run"


def newest(run: Path) -> Path:
    return max((run / "muon" / "seed-0").glob("step-*.pt"))


def refused(result: Result, *named: str) -> None:
    """One line that names what is wrong; nothing has run, nothing reaches the terminal."""
    assert result.exit_code == 2, (result.exit_code, result.output, result.exception)
    assert len(result.stderr.splitlines()) == 1, result.stderr
    assert quiet(result.output) and "Traceback" not in result.output
    assert all(name in result.stderr for name in named), result.stderr
    assert not Path("harm").exists()


def saved(change: Callable[[dict[str, Any]], Any]) -> Callable[[Path], None]:
    """Damage by what a valid file holds."""

    def damage(path: Path) -> None:
        content = torch.load(path, weights_only=True)
        torch.save(change(content), path)

    return damage


def rewritten(change: Callable[[bytes], bytes]) -> Callable[[Path], None]:
    return lambda path: [path.write_bytes(change(path.read_bytes()))][-1] and None


def repacked(name: Callable[[zipfile.ZipInfo], bytes | None], kind: int) -> Callable[[Path], None]:
    """Damage to the zip file: entries with other content, or packed."""

    def damage(path: Path) -> None:
        buffer = io.BytesIO()
        with zipfile.ZipFile(path) as old, zipfile.ZipFile(buffer, "w", kind) as new:
            for entry in old.infolist():
                changed = name(entry)
                new.writestr(entry.filename, old.read(entry) if changed is None else changed)
        path.write_bytes(buffer.getvalue())

    return damage


def pickled(raw: bytes) -> Callable[[Path], None]:
    """Another pickle in a valid archive."""
    return repacked(lambda e: raw if e.filename.endswith("data.pkl") else None, zipfile.ZIP_STORED)


def nested(depth: int) -> Any:
    """A small file, a tree of 2^depth leaves."""
    tree: Any = [1.0]
    for _ in range(depth):
        tree = [tree, tree]
    return tree


def overlapping(path: Path) -> None:
    """Every entry of the directory of a zip file leads to the longest one."""
    raw = path.read_bytes()
    with zipfile.ZipFile(path) as archive:
        long = max(archive.infolist(), key=lambda e: e.file_size)
    packed = bytearray(raw)
    place, most = raw.find(b"PK\x01\x02"), struct.pack("<II", long.file_size, long.file_size)
    while place >= 0:
        packed[place + 20 : place + 28] = most
        place = raw.find(b"PK\x01\x02", place + 4)
    path.write_bytes(packed)


def with_state(change: Callable[[dict[str, Any]], Any]) -> Callable[[Path], None]:
    return saved(lambda content: [change(content)] and content)


CHECKPOINTS: dict[str, Callable[[Path], None]] = {
    "empty": rewritten(lambda raw: b""),
    "cut off": rewritten(lambda raw: raw[: len(raw) // 2]),
    "without its end": rewritten(lambda raw: raw[:-1]),
    "a flipped bit": rewritten(lambda raw: raw[:2000] + bytes([raw[2000] ^ 4]) + raw[2001:]),
    "noise": rewritten(lambda raw: bytes(range(256)) * 20),
    "a pickle": rewritten(lambda raw: pickle.dumps(Harmful())),
    "a pickle after a magic number": rewritten(
        lambda raw: (
            pickle.dumps(0x1950A86A20F9469CFC6C) + pickle.dumps(1001) + pickle.dumps(Harmful())
        )
    ),
    "a pickle in the archive": pickled(pickle.dumps(Harmful())),
    "a class of torch in the archive": pickled(pickle.dumps(torch.nn.Linear)),
    "a persistent id": pickled(
        b"\x80\x02(X\x07\x00\x00\x00storagecos\nmkdir\nX\x01\x00\x00\x000QQ."
    ),
    "an archive in the archive": repacked(lambda e: bytes(1000), zipfile.ZIP_STORED),
    "packed entries": repacked(lambda e: None, zipfile.ZIP_DEFLATED),
    "a bomb": repacked(lambda e: bytes(2**18), zipfile.ZIP_DEFLATED),
    "entries that overlap": overlapping,
    "no dictionary": saved(lambda content: [1, 2]),
    "without what it belongs to": saved(lambda content: {"model": content["model"]}),
    "without a model": with_state(lambda c: c.pop("model")),
    "another model": with_state(lambda c: c["model"].popitem()),
    "a model of another shape": with_state(
        lambda c: c["model"].update({k: v[..., :1] for k, v in c["model"].items()})
    ),
    "text for a step": with_state(lambda c: c.update(step="three")),
    "an infinite step": with_state(lambda c: c.update(step=float("inf"))),
    "an optimizer of text": with_state(lambda c: c.update(optimizer="all")),
    "a scheduler with another step": with_state(lambda c: c["scheduler"].update(step=5)),
    "a scheduler with another optimizer": with_state(lambda c: c["scheduler"].update(optimizer=1)),
    "a scheduler without a place": with_state(lambda c: c["scheduler"].pop("last_epoch")),
    "rates of text": with_state(lambda c: c["scheduler"].update(base_lrs=["high"] * 2)),
    "a sparse tensor": with_state(lambda c: c.update(more=torch.eye(3).to_sparse())),
    "a repeated tensor": with_state(lambda c: c.update(more=torch.zeros(1).expand(2**40))),
    "a tensor without content": with_state(
        lambda c: c.update(more=torch.empty(2**40, device="meta"))
    ),
    "a tree of 2^40 leaves": with_state(lambda c: c.update(more=nested(40))),
    "a thousand levels": with_state(lambda c: c.update(more=_deep(200))),
    "a tree that holds itself": with_state(lambda c: c.update(more=_own())),
    "keys that are no names": with_state(lambda c: c.update(more={(1, 2): 3})),
    "of another run": with_state(lambda c: c["belongs"].update(seed=5)),
    "of a run with a hostile name": with_state(lambda c: c["belongs"].update(optimizer=HOSTILE)),
}


def _deep(levels: int) -> Any:
    tree: Any = 1
    for _ in range(levels):
        tree = [tree]
    return tree


def _own() -> Any:
    tree: list[Any] = []
    tree.append(tree)
    return tree


@pytest.mark.parametrize("kind", CHECKPOINTS)
def test_a_hostile_checkpoint_is_one_line(run: Path, steepest: Invoke, kind: str) -> None:
    path = newest(run)
    CHECKPOINTS[kind](path)
    before = contents(run)
    refused(steepest("train", "--resume", "run"), "step-")
    if kind in (
        "cut off",
        "a pickle in the archive",
        "a bomb",
        "no dictionary",
        "an infinite step",
    ):
        refused(steepest("diagnose", "run", "--windows", 1), "step-")
    assert contents(run) == before, "left as it was found"


@pytest.mark.parametrize("kind", ["a FIFO", "a folder", "a link to /dev/zero"])
@pytest.mark.parametrize(
    "name",
    [
        *("config.json", "muon/seed-0/metrics.jsonl", "muon/seed-0/monitor.jsonl"),
        *("muon/seed-0/spectra.npz", "muon/seed-0/step-000006.pt"),
    ],
)
def test_what_is_no_file_is_refused_at_once(
    run: Path, steepest: Invoke, kind: str, name: str
) -> None:
    (run / name).unlink()
    PLANTED[kind](run / name)
    if name == "config.json" or (run / name).exists():
        command = (
            ("diagnose", "run") if name.endswith("monitor.jsonl") else ("train", "--resume", "run")
        )
        refused(steepest(*command), "run")


SPECTRA: dict[str, Callable[[Path], None]] = {
    "empty": rewritten(lambda raw: b""),
    "cut off": rewritten(lambda raw: raw[: len(raw) // 2]),
    "a flipped bit": rewritten(lambda raw: raw[:300] + bytes([raw[300] ^ 4]) + raw[301:]),
    "a pickle": rewritten(lambda raw: pickle.dumps(Harmful())),
    "an array of objects": lambda path: np.savez(path, steps=np.array([Harmful()], dtype=object)),
    "packed entries": repacked(lambda e: None, zipfile.ZIP_DEFLATED),
    "a bomb": repacked(lambda e: bytes(2**18), zipfile.ZIP_DEFLATED),
    "entries that overlap": overlapping,
    "an absurd shape": rewritten(lambda raw: raw.replace(b"'shape': (3,)", b"'shape': (9e9,)")),
    "a number for all arrays": lambda path: np.savez(path, steps=1, names=2, kinds=3, limits=4),
    "arrays that do not belong together": lambda path: np.savez(
        path, steps=[0, 3], names=["a"], kinds=["b"], limits=[1.0], values0=np.ones((1, 4))
    ),
}


@pytest.mark.parametrize("kind", SPECTRA)
def test_hostile_spectra_are_one_line(run: Path, steepest: Invoke, kind: str) -> None:
    path = run / "muon" / "seed-0" / "spectra.npz"
    before = path.read_bytes()
    SPECTRA[kind](path)
    assert path.read_bytes() != before
    refused(steepest("train", "--resume", "run"), "spectra.npz")


def test_an_array_is_not_made_before_its_size_is_known(
    run: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from steepest.apps.train.constraint import Spectra

    path = run / "muon" / "seed-0" / "spectra.npz"
    np.savez(path, steps=np.zeros(3, dtype=np.int64))
    with zipfile.ZipFile(path) as archive:
        raw = archive.read("steps.npy")
    header = raw.replace(b"(3,), }          ", b"(3000000000000,),}")
    assert len(header) == len(raw) + 1 or header != raw
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("steps.npy", header)
    monkeypatch.setattr(np, "load", lambda *_, **__: pytest.fail("it was read"))
    with pytest.raises(ValueError, match="damaged"):
        Spectra.load(path.parent)


CONFIGS = {
    "empty": "",
    "another kind": "[]",
    "nested": "[" * 100_000,
    "no JSON": HOSTILE.replace("\ud800", ""),
    "an empty object": "{}",
    "numbers for words": '{"config": {"model": 5, "optimizers": 7, "seeds": 1}, "text": 3}',
    "a number beyond all": '{"config": ' + "9" * 5000 + "}",
}


@pytest.mark.parametrize("kind", CONFIGS)
def test_a_hostile_configuration_is_one_line(run: Path, steepest: Invoke, kind: str) -> None:
    (run / "config.json").write_text(CONFIGS[kind])
    for arguments in (("train", "--resume", "run"), ("diagnose", "run", "--windows", 1)):
        refused(steepest(*arguments), "config.json")


@pytest.mark.parametrize("name", ["../../outside", HOSTILE.replace("\ud800", ""), "/etc", "a/b"])
def test_a_name_in_a_configuration_leads_nowhere(run: Path, steepest: Invoke, name: str) -> None:
    path = run / "config.json"
    data = json.loads(path.read_text())
    data["config"]["optimizers"] = {name: data["config"]["optimizers"]["muon"]}
    path.write_text(json.dumps(data))
    for arguments in (("train", "--resume", "run"), ("diagnose", "run", "--windows", 1)):
        refused(steepest(*arguments))


RECORDS = """
{"loss": 1.0, "time": 5}
{"step": 3, "loss": 1.0}
{"step": 3, "time": "noon", "loss": "low", "val_loss": [1], "lr": {}, "optimizer_ms": true}
{"step": 3, "time": 1e300, "loss": 1e999, "x/update_ratio": NUMBER, "x/weight_sigmas": [1, "a"]}
{"step": NUMBER, "loss": 1.0}
{"step": true, "loss": 1.0}
{"step": -5}
{"step": 2.5}
{"step": 3, "loss": NaN, "x/rms_out": -Infinity}
{"step": 3, "findings": [{"layer": 1, "cause": [], "text": {}, "badness": "very"}]}
{"step": 4, "findings": 7, "warnings": 5}
{"step": 5, "findings": ["a"], "warnings": [1]}
[1]
""".lstrip().replace("NUMBER", "9" * 400)


@pytest.mark.parametrize("name", ["metrics.jsonl", "monitor.jsonl"])
def test_hostile_records_are_left_out(run: Path, steepest: Invoke, name: str) -> None:
    """A run goes on, and a page is drawn, without what is no record."""
    path = run / "muon" / "seed-0" / name
    hostile = path.read_text() + RECORDS
    path.write_text(hostile)
    newest(run).unlink()  # something is left to train
    result = steepest("train", "--resume", "run")
    assert result.exit_code == 0, result.stderr
    path.write_text(hostile)
    for checkpoint in path.parent.glob("step-*.pt"):
        checkpoint.unlink()  # what is computed there takes its time, and reads no records
    result = steepest("diagnose", "run")
    assert result.exit_code == 0, result.stderr


def test_records_that_have_lost_their_figures_are_one_line(run: Path, steepest: Invoke) -> None:
    (run / "muon" / "seed-0" / "metrics.jsonl").write_text('{"step": 3}\n{"step": 6}\n')
    refused(steepest("train", "--resume", "run"), "metrics.jsonl")


@pytest.mark.parametrize("place", ["muon", "muon/seed-0", "tensorboard", "tensorboard/muon-seed-0"])
def test_a_run_does_not_go_on_through_a_link(
    run: Path, steepest: Invoke, tmp_path: Path, place: str
) -> None:
    """What it would write, and the checkpoints that it would drop, are somebody else's."""
    (run / place).rename(tmp_path / "elsewhere")
    (run / place).symlink_to(tmp_path / "elsewhere")
    before = contents(tmp_path / "elsewhere")
    refused(steepest("train", "--resume", "run"), "is a link", place)
    assert contents(tmp_path / "elsewhere") == before


def test_no_planted_link_is_written_through(run: Path, steepest: Invoke, tmp_path: Path) -> None:
    """In every place that a run writes to, and under every name that it once used before."""
    newest(run).unlink()
    victim = tmp_path / "victim"
    victim.write_bytes(b"precious")
    written = [
        *("summary.json", "runs.json", "table.md", "loss.png", "muon/spectra.png"),
        *("muon/seed-0/sample.txt", "muon/seed-0/step-000006.pt"),
        "tensorboard/muon-seed-0/events.out.tfevents.steepest",
    ]
    for name in [*written, "muon/seed-0/metrics.jsonl", "muon/seed-0/monitor.jsonl"]:
        place = run / name
        if name in written:
            place.unlink(missing_ok=True)
            place.parent.mkdir(parents=True, exist_ok=True)
            if not name.endswith(".pt"):  # that one would be read
                place.symlink_to(victim)
        place.with_name(f".{place.name}.tmp").symlink_to(victim)
    result = steepest("train", "--resume", "run")
    assert result.exit_code == 0, result.stderr
    assert victim.read_bytes() == b"precious"
    assert [n for n in written if not (run / n).is_file() or (run / n).is_symlink()] == []


@pytest.mark.usefixtures("drawn")
def test_a_new_run_has_no_harm_of_a_hostile_text(
    tiny: Invoke, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The alphabet of a text is printed in the sample, and the name of its file above it."""
    from steepest.apps.train import execute

    monkeypatch.setattr(execute, "READABLE", 1e9)
    name = HOSTILE.replace("\ud800", "").replace("/", "∕")[:80]
    text = tmp_path / f"{name}.txt"
    text.write_text(HOSTILE.replace("\ud800", "") * 40, newline="")
    result = tiny(*FLAGS, *TINY, "--data", text, "--out", tmp_path / "out" / name)
    assert result.exit_code == 0, result.stderr
    assert "Text by the model" in result.stdout and "\\x1b" in result.stdout
    assert quiet(result.output)
