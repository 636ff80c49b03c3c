"""DCP's table of contents of a stranger: read as data, and held to the files and tensors there."""

from __future__ import annotations

import itertools
import os
import pickle
import random
import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from torch.distributed.checkpoint.filesystem import _StorageInfo
from torch.distributed.checkpoint.metadata import (
    ChunkStorageMetadata,
    Metadata,
    MetadataIndex,
    TensorProperties,
)

from steepest.apps.train import checkpoint
from steepest.apps.train.parallel import sharded_checkpoint
from steepest.apps.train.parallel.contents import CONTENTS, _are_apart, read_contents
from steepest.apps.train.parallel.pickled import Reading
from steepest.apps.train.parallel.sharded_checkpoint import METADATA, fingerprint
from steepest.apps.train.parallel.team import SINGLE
from steepest.apps.train.plain import tensors
from tests.apps.train.test_hostile import Harmful
from tests.apps.train.tiny import contents, same
from tests.planted import PLANTED

TREE: dict[str, Any] = {
    "model": {"w": torch.arange(12.0).view(3, 4), "half": torch.ones(2, dtype=torch.bfloat16)},
    "state": {0: {"step": torch.tensor(3.0), "none": torch.zeros(0, 4)}},
}


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A checkpoint in a folder, in the folder that the test works in."""
    monkeypatch.chdir(tmp_path)
    sharded_checkpoint.write(tmp_path / "a", TREE, SINGLE)
    return tmp_path / "a"


def read(folder: Path) -> Any:
    """Read with fingerprints that a stranger has mended."""
    marks = {p.name: fingerprint(p) if p.is_file() else "" for p in folder.iterdir()}
    empty = sharded_checkpoint.frame(TREE)
    return sharded_checkpoint.read(folder, empty, marks, like=lambda _: None, team=SINGLE)


def changed(change: Callable[[Metadata], Any]) -> Callable[[Path], None]:
    """Damage to the table by what torch itself would write."""

    def damage(path: Path) -> None:
        table = pickle.loads(path.read_bytes())
        change(table)
        path.write_bytes(pickle.dumps(table))

    return damage


def places(change: Callable[[_StorageInfo], Any]) -> Callable[[Path], None]:
    return changed(lambda table: [change(v) for v in table.storage_data.values()])


def of_w(**fields: Any) -> Callable[[Path], None]:
    return changed(
        lambda t: [setattr(t.state_dict_metadata["model.w"], *f) for f in fields.items()]
    )


def raw(content: bytes) -> Callable[[Path], None]:
    return lambda path: [path.write_bytes(content)][-1] and None


def part(*size: int, at: tuple[int, ...] = ()) -> ChunkStorageMetadata:
    return ChunkStorageMetadata(torch.Size(at or [0] * len(size)), torch.Size(size))


def in_parts(*parts: ChunkStorageMetadata) -> Callable[[Path], None]:
    """Damage: these parts for the 3 × 4 numbers of w, each with a place in the file."""

    def change(table: Metadata) -> None:
        table.state_dict_metadata["model.w"].chunks = list(parts)  # type: ignore[union-attr]
        place = table.storage_data.pop(MetadataIndex("model.w", (0, 0)))
        for one in parts:
            table.storage_data[MetadataIndex("model.w", one.offsets)] = replace(
                place, length=4 * one.sizes.numel()
            )

    return changed(change)


WORD = "torch.distributed.checkpoint.metadata\nMetadata\n"
TABLES: dict[str, tuple[Callable[[Path], None], str]] = {
    "code": (raw(pickle.dumps(Harmful())), "mkdir does not belong in a table"),
    "code in what nobody reads": (
        changed(lambda t: setattr(t, "planner_data", Harmful())),
        "mkdir does not belong",
    ),
    "code in the old way": (raw(b"cposix\nsystem\n(S'mkdir harm'\ntR."), "does not belong"),
    "an instance in the old way": (raw(b"(S'harm'\niposix\nmkdir\n."), "does not belong"),
    "code by a name with dots": (
        raw(b"\x80\x04\x8c\x05torch\x8c\x12serialization.load\x93."),
        "does not belong",
    ),
    "attributes of a class": (
        raw(f"c{WORD}N}}X\x0c\x00\x00\x00planner_dataK\x05s\x86b.".encode("latin-1")),
        "no pickle of plain objects",
    ),
    "an object from outside": (raw(b"\x80\x04\x8c\x01aQ."), "BINPERSID does not belong"),
    "a registered class": (raw(b"\x80\x02\x82\x01."), "EXT1 does not belong"),
    "a set": (raw(pickle.dumps({1, 2})), "does not belong"),
    "nested keys": (raw(b"}" + b")" + b"\x85" * 50 + b"K\x01s."), "no pickle of plain objects"),
    "a memory without end": (raw(b"\x80\x02Nr\xff\xff\xff\x7f0."), "does not belong"),
    "a text without end": (raw(b"\x80\x04\x8d" + b"\xff" * 7 + b"\x7fabc."), "expected|many bytes"),
    "what was never kept": (raw(b"\x80\x02h\x07."), "no pickle of plain objects"),
    "an end at once": (raw(b"."), "no pickle of plain objects"),
    "nothing": (raw(b""), "exhausted|STOP"),
    "a list that holds itself": (raw(b"\x80\x02]q\x00h\x00a."), "no Metadata where one belongs"),
    "another kind": (raw(pickle.dumps(5)), "no Metadata where one belongs"),
    "no places": (changed(lambda t: setattr(t, "storage_data", None)), "no dictionary"),
    "content that is no tensor": (
        changed(lambda t: t.state_dict_metadata.update(b=_bytes())),
        "BytesStorageMetadata does not belong",
    ),
    "a file outside": (places(lambda v: setattr(v, "relative_path", "/etc/passwd")), "no file of"),
    "a file above": (places(lambda v: setattr(v, "relative_path", "../x")), "no file of this"),
    "a device": (places(lambda v: setattr(v, "relative_path", "/dev/zero")), "no file of this"),
    "the table itself": (places(lambda v: setattr(v, "relative_path", METADATA)), "no file of"),
    "a number for a file": (places(lambda v: setattr(v, "relative_path", 1)), "no file of this"),
    "a place beyond": (places(lambda v: setattr(v, "offset", 2**40)), "beyond the end"),
    "a length beyond": (places(lambda v: setattr(v, "length", 2**40)), "beyond the end"),
    "a place before": (places(lambda v: setattr(v, "offset", -1)), "no size"),
    "a place of another kind": (places(lambda v: setattr(v, "offset", 0.5)), "no size"),
    "one place for all": (places(lambda v: setattr(v, "offset", 0)), "mismatch sizes"),
    "an unknown form": (
        places(lambda v: setattr(v, "transform_descriptors", ["zip"])),
        "a form that is not read",
    ),
    "no tensors": (changed(lambda t: t.state_dict_metadata.clear()), "other tensors"),
    "one tensor more": (
        changed(lambda t: t.state_dict_metadata.update(x=t.state_dict_metadata["model.w"])),
        "other tensors",
    ),
    "an absurd size": (of_w(size=torch.Size([2**40, 2**20])), "another shape"),
    "another type": (of_w(properties=TensorProperties(torch.float64)), "another shape or type"),
    "no parts": (of_w(chunks=[]), "not whole"),
    "a part that is missing": (of_w(chunks=[part(2, 4)]), "not whole"),
    "a part beyond": (of_w(chunks=[part(4, 4)]), "beyond its end"),
    "a part with other axes": (of_w(chunks=[part(12)]), "beyond its end"),
    "a part twice": (
        changed(lambda t: t.state_dict_metadata["model.w"].chunks.append(part(3, 4))),
        "not whole",
    ),
    "parts that overlap, and a gap": (
        in_parts(part(2, 3), part(2, 3, at=(0, 1))),
        "lie upon each other",
    ),
    "a part twice, and a gap": (in_parts(part(3, 2), part(3, 2)), "lie upon each other"),
    "a part within another": (
        in_parts(part(3, 3), part(1, 1, at=(1, 1)), part(2, 1, at=(1, 3))),
        "lie upon each other",
    ),
    "a part in no file": (
        changed(lambda t: t.storage_data.pop(MetadataIndex("model.w", (0, 0)))),
        "in no file",
    ),
    "parts of words": (of_w(chunks="abc"), "no ChunkStorageMetadata"),
    "no list of parts": (of_w(chunks=7), "parts missing"),
}


def _bytes() -> Any:
    from torch.distributed.checkpoint.metadata import BytesStorageMetadata

    return BytesStorageMetadata()


@pytest.mark.parametrize("kind", TABLES)
def test_a_hostile_table_is_refused(
    folder: Path, capfd: pytest.CaptureFixture[str], kind: str
) -> None:
    damage, said = TABLES[kind]
    classes = [dict(vars(c)) for c in (Metadata, MetadataIndex, _StorageInfo)]
    damage(folder / METADATA)
    with pytest.raises((ValueError, AssertionError), match=said) as error:
        read(folder)
    assert len(str(error.value).splitlines()) == 1
    assert not Path("harm").exists()
    assert [dict(vars(c)) for c in (Metadata, MetadataIndex, _StorageInfo)] == classes
    shown = capfd.readouterr()
    assert shown.out == shown.err == "", "torch prints a traceback of its own"


def _cut(size: tuple[int, ...], cuts: list[list[int]]) -> list[ChunkStorageMetadata]:
    """The cells of a grid: the tensor as ranks cut it, with these cuts of each axis."""
    bounds = [sorted({0, n, *at}) for n, at in zip(size, cuts, strict=True)]
    axes = [list(itertools.pairwise(ends)) for ends in bounds]
    return [
        ChunkStorageMetadata(torch.Size([a for a, _ in cell]), torch.Size([b - a for a, b in cell]))
        for cell in itertools.product(*axes)
    ]


@pytest.mark.parametrize("seed", range(20))
def test_parts_are_apart_as_a_count_of_each_number_says(seed: int) -> None:
    """A cut of every axis is accepted; with parts moved, if each number is in one of them."""
    draw = random.Random(seed)
    size = tuple(draw.randint(1, 6) for _ in range(draw.randint(1, 3)))
    cuts = [[draw.randint(0, n) for _ in range(draw.randint(0, 2))] for n in size]
    parts = _cut(size, cuts)
    assert _are_apart(parts, size)
    for _ in range(30):
        k, other = draw.randrange(len(parts)), draw.randrange(len(parts))
        at = [draw.randint(0, n - s) for n, s in zip(size, parts[k].sizes, strict=True)]
        changed = [*parts]
        changed[k] = ChunkStorageMetadata(torch.Size(at), parts[k].sizes)
        changed[other] = draw.choice([changed[other], changed[k], parts[k]])
        if sum(p.sizes.numel() for p in changed) != torch.Size(size).numel():
            continue
        count = torch.zeros(size, dtype=torch.int64)
        for p in changed:
            count[tuple(slice(o, o + s) for o, s in zip(p.offsets, p.sizes, strict=True))] += 1
        assert _are_apart(changed, size) == bool((count == 1).all())


def test_no_numbers_and_one_number_are_whole() -> None:
    assert _are_apart([], (0, 4))
    assert _are_apart([part()], ())


def test_every_name_that_torch_writes_is_known(folder: Path) -> None:
    """And nothing else is: what is known has no use but here."""
    found = Reading(CONTENTS).read((folder / METADATA).read_bytes())
    assert found.name.endswith(".Metadata")
    assert same(read(folder), TREE)


def test_the_table_is_what_torch_reads(folder: Path) -> None:
    raw = (folder / METADATA).read_bytes()
    theirs, sizes = pickle.loads(raw), {p.name: p.stat().st_size for p in folder.iterdir()}
    ours = read_contents(raw, files=sizes, tensors=tensors(TREE))
    assert ours.state_dict_metadata == theirs.state_dict_metadata
    assert ours.storage_data == theirs.storage_data


@pytest.mark.parametrize("protocol", [2, 3, 4, 5])
def test_every_protocol_that_torch_may_write_is_read(folder: Path, protocol: int) -> None:
    table = pickle.loads((folder / METADATA).read_bytes())
    (folder / METADATA).write_bytes(pickle.dumps(table, protocol))
    assert same(read(folder), TREE)


def test_references_make_no_work(folder: Path) -> None:
    """A list of parts that many tensors name stays as cheap as it is small."""
    table = pickle.loads((folder / METADATA).read_bytes())
    shared = table.state_dict_metadata["model.w"].chunks * 5000
    for entry in table.state_dict_metadata.values():
        entry.chunks = shared
    (folder / METADATA).write_bytes(pickle.dumps(table))
    with pytest.raises(ValueError, match="more parts"):
        read(folder)


@pytest.mark.parametrize("kind", PLANTED)
@pytest.mark.parametrize("name", [METADATA, "__0_0.distcp"])
def test_what_is_no_file_is_refused_at_once(folder: Path, kind: str, name: str) -> None:
    (folder / name).unlink()
    PLANTED[kind](folder / name)
    with pytest.raises((ValueError, OSError), match=name):
        read(folder)


@pytest.mark.parametrize("name", ["../b", "/etc/passwd", ".."])
def test_a_fingerprint_of_another_folder_is_refused(folder: Path, name: str) -> None:
    shutil.copy(folder / METADATA, folder.parent / "b")
    marks = {p.name: fingerprint(p) for p in folder.iterdir()}
    marks[name] = fingerprint(folder.parent / "b")
    with pytest.raises(ValueError, match="is damaged"):
        sharded_checkpoint.read(
            folder, sharded_checkpoint.frame(TREE), marks, like=lambda _: None, team=SINGLE
        )


def test_a_part_with_code_does_not_run(folder: Path) -> None:
    (data,) = folder.glob("*.distcp")
    data.write_bytes(pickle.dumps(Harmful()) + bytes(data.stat().st_size))
    with pytest.raises(Exception, match=r".") as error:
        read(folder)
    assert not isinstance(error.value, KeyboardInterrupt)
    assert not Path("harm").exists()


def test_a_folder_is_written_through_no_link(tmp_path: Path) -> None:
    """Nor is one dropped through it: the link goes, and what it leads to stays."""
    victim = tmp_path / "victim"
    victim.mkdir()
    (victim / "precious").write_bytes(b"x")
    before = contents(victim)
    (tmp_path / "run").mkdir()
    (tmp_path / "run" / "a").symlink_to(victim)
    sharded_checkpoint.write(tmp_path / "run" / "a", TREE, SINGLE)
    assert contents(victim) == before and not (tmp_path / "run" / "a").is_symlink()
    for step in (1, 2):
        (tmp_path / "run" / f"step-{step:06d}.dcp").symlink_to(victim)
    for step in (3, 4):
        checkpoint.save(tmp_path / "run", step, {"step": step}, belongs={})
    assert [p.name for p in checkpoint.checkpoints(tmp_path / "run")] == [
        "step-000003.pt",
        "step-000004.pt",
    ]
    assert contents(victim) == before


def test_a_whole_checkpoint_of_a_folder_is_data(folder: Path) -> None:
    """The file beside the tensors holds nothing else either, and no tensor with content."""
    for content in ({"tree": torch.ones(1)}, {"tree": torch.nn.Linear(1, 1)}, [1]):
        torch.save(content, folder / checkpoint.STATE)
        with pytest.raises(ValueError, match="no checkpoint of steepest"):
            checkpoint.identity(folder)
    os.mkfifo(folder / "fifo")
    (folder / "fifo").rename(folder / checkpoint.STATE)
    with pytest.raises(OSError, match="is no regular file"):
        checkpoint.identity(folder)
