"""DCP's table of contents: which part of which tensor lies where, each entry held to its form."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from math import prod
from typing import Any

import torch
from torch import Tensor
from torch.distributed.checkpoint.filesystem import _StorageInfo
from torch.distributed.checkpoint.metadata import (
    ChunkStorageMetadata,
    Metadata,
    MetadataIndex,
    TensorProperties,
    TensorStorageMetadata,
)

from steepest.apps.train.parallel.pickled import Made, Reading

DCP = "torch.distributed.checkpoint"
TABLE, INDEX = f"{DCP}.metadata.Metadata", f"{DCP}.metadata.MetadataIndex"
ENTRY, PART = f"{DCP}.metadata.TensorStorageMetadata", f"{DCP}.metadata.ChunkStorageMetadata"
PROPERTIES, FORMAT = f"{DCP}.metadata.TensorProperties", f"{DCP}.metadata._MEM_FORMAT_ENCODING"
PLACE = f"{DCP}.filesystem._StorageInfo"
SIZE, LAYOUT = "torch.Size", "torch.serialization._get_layout"
TYPES = {f"torch.{n}": t for n, t in vars(torch).items() if isinstance(t, torch.dtype)}

# What DCP's writer pickles for tensors, by name; a test loads what torch saves. The mark of other
# content is left out: DCP would unpickle it.
CONTENTS = frozenset(
    {
        *("pathlib.PosixPath", "pathlib.WindowsPath"),
        *("pathlib._local.PosixPath", "pathlib._local.WindowsPath"),
        *(TABLE, INDEX, ENTRY, PART, PROPERTIES, FORMAT, PLACE, SIZE, LAYOUT),
        f"{DCP}.metadata.StorageMeta",
        *TYPES,
    }
)
LARGEST = 2**62
AXES = 64  # as many as torch lets a tensor have


def read_contents(
    raw: bytes, *, files: Mapping[str, int], tensors: Mapping[str, Tensor]
) -> Metadata:
    """The table of contents of a checkpoint that has these tensors in these files.

    Args:
        raw: the content of its file.
        files: the size in bytes of each file that it may name.
        tensors: the tensors by name, of which shape and type count.

    Raises:
        ValueError: it is damaged, or names other files, places or tensors.
    """
    try:
        return _checked(raw, files, tensors)
    except (KeyError, TypeError, IndexError):
        raise ValueError("has a table of contents with parts missing") from None


def _checked(raw: bytes, files: Mapping[str, int], tensors: Mapping[str, Tensor]) -> Metadata:
    table = _state(Reading(CONTENTS).read(raw), TABLE)
    places = _places(table["storage_data"], files)
    entries = _dict(table["state_dict_metadata"])
    if entries.keys() != tensors.keys():
        raise ValueError("has other tensors in its table of contents")
    # By references a small file may name one list of parts many times.
    parts = sum(len(_state(entry, ENTRY)["chunks"]) for entry in entries.values())
    if parts > len(raw):
        raise ValueError("has more parts in its table of contents than that can hold")
    found = {name: _entry(name, entry, tensors[name], places) for name, entry in entries.items()}
    return Metadata(state_dict_metadata=dict(found), storage_data=places)


def _places(data: Any, files: Mapping[str, int]) -> dict[MetadataIndex, _StorageInfo]:
    """The place of each part, in one of the files, where no two lie upon each other."""
    found: dict[MetadataIndex, _StorageInfo] = {}
    used = dict.fromkeys(files, 0)
    for key, value in _dict(data).items():
        index, place = _state(key, INDEX), _state(value, PLACE)
        name, offset, length = place["relative_path"], place["offset"], place["length"]
        if type(name) is not str or name not in files:
            raise ValueError(f"names {str(name)[:200]!r}, which is no file of this checkpoint")
        if place.get("transform_descriptors"):
            raise ValueError("has parts in a form that is not read here")
        used[name] += _whole(length)
        if _whole(offset) + length > files[name] or used[name] > files[name]:
            raise ValueError(f"names a place beyond the end of {name}")
        where = MetadataIndex(_text(index["fqn"]), _sizes(index["offset"]))
        found[where] = _StorageInfo(name, offset, length)
    return found


def _entry(
    name: Any, entry: Any, tensor: Tensor, places: Mapping[MetadataIndex, _StorageInfo]
) -> TensorStorageMetadata:
    """A tensor of the table, which must be as the tree has it, whole and in files."""
    fields = _state(entry, ENTRY)
    size = _sizes(fields["size"])
    dtype = TYPES.get(str(_made(fields["properties"], PROPERTIES).state[0]))
    if dtype is None or size != tensor.shape or dtype != tensor.dtype:
        raise ValueError(f"{name} has another shape or type in the table of contents")
    parts = [_part(chunk) for chunk in fields["chunks"]]
    for part in parts:
        ends = [o + s for o, s in zip(part.offsets, part.sizes, strict=True)]
        if len(ends) != len(size) or any(e > s for e, s in zip(ends, size, strict=True)):
            raise ValueError(f"{name} has a part beyond its end")
        place = places.get(MetadataIndex(_text(name), part.offsets))
        if place is None or place.length < prod(part.sizes) * dtype.itemsize:
            raise ValueError(f"{name} has a part that is in no file")
    if sum(prod(part.sizes) for part in parts) != prod(size):
        raise ValueError(f"{name} is not whole")
    if not _are_apart([part for part in parts if prod(part.sizes)], size):
        raise ValueError(f"{name} has parts that lie upon each other, and gaps")
    return TensorStorageMetadata(TensorProperties(dtype=dtype), size, parts)


def _are_apart(parts: Sequence[ChunkStorageMetadata], size: Sequence[int]) -> bool:
    """Whether parts, which have as many numbers as their tensor, make it up without an overlap.

    Ranks cut each axis all the way through. So there are as many parts as cells of a grid: where
    each begins in another corner of it, each fills one cell, or together they would be too large.
    """
    cells = 1
    for axis, length in enumerate(size):
        starts = {part.offsets[axis] for part in parts}
        cells *= len({0, length, *starts, *(p.offsets[axis] + p.sizes[axis] for p in parts)}) - 1
    return not parts or len({tuple(part.offsets) for part in parts}) == len(parts) == cells


def _part(chunk: Any) -> ChunkStorageMetadata:
    fields = _state(chunk, PART)
    return ChunkStorageMetadata(_sizes(fields["offsets"]), _sizes(fields["sizes"]))


def _made(value: Any, name: str) -> Made:
    """An object of a class."""
    if type(value) is not Made or value.name != name:
        raise ValueError(f"has no {name.rpartition('.')[2]} where one belongs")
    return value


def _state(value: Any, name: str) -> dict[Any, Any]:
    """The fields of an object of a dataclass."""
    return _dict(_made(value, name).state)


def _dict(value: Any) -> dict[Any, Any]:
    if type(value) is not dict:
        raise ValueError("has no dictionary where one belongs")
    return value


def _text(value: Any) -> str:
    if type(value) is not str:
        raise ValueError("has no name where one belongs")
    return value


def _whole(value: Any) -> int:
    """A size or a place, >= 0; its sums still fit into a machine's word."""
    if type(value) is not int or not 0 <= value < LARGEST:
        raise ValueError("has no size where one belongs")
    return value


def _sizes(value: Any) -> torch.Size:
    """A shape."""
    (found,) = _made(value, SIZE).args
    if type(found) is not tuple or len(found) > AXES:
        raise ValueError("has no shape where one belongs")
    return torch.Size([_whole(x) for x in found])
