"""The balls of weight decay during a trial: figures for the metrics, spectra for the picture."""

from __future__ import annotations

import io
import math
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np
import torch
from numpy.typing import NDArray
from torch.optim import Optimizer

import steepest
from steepest._common.archives import whole_archive
from steepest._common.errors import invalid
from steepest._common.files import Record, open_file, write_atomic
from steepest._common.records import number
from steepest.diagnostics import ConstraintReport, ConstraintSpectrum

SPECTRA = "spectra.npz"
HEADERS = {
    (1, 0): np.lib.format.read_array_header_1_0,
    (2, 0): np.lib.format.read_array_header_2_0,
}
PREFIX, SUFFIX = "constraint/", "/norm_over_radius"

# Ours: what a panel of the picture can show, and less than a checkpoint holds.
KEPT = 256
"""The most magnitudes of a parameter that are kept, evenly spaced in their order."""


def layer(name: str) -> str:
    """The name of a layer in figures: its parameter without the word that all have.

    Examples:
        >>> layer("blocks.0.mlp.fc.weight"), layer("blocks.0.ln1.bias")
        ('blocks.0.mlp.fc', 'blocks.0.ln1.bias')
    """
    return name.removesuffix(".weight")


def has_ball(optimizer: Optimizer) -> bool:
    """Whether weight decay keeps any parameter in a ball."""
    return isinstance(optimizer, steepest.optim.SteepestOptimizer) and any(
        not view.why_none for view in optimizer.parameter_views()
    )


def figures(report: ConstraintReport) -> Record:
    """‖W‖/radius of each layer with a ball, and the worst distance and KKT score of all.

    A score needs a gradient, and one that is infinite is None.
    """
    balls = [row for row in report if not math.isinf(row.radius)]
    record: Record = {f"{PREFIX}{layer(r.name)}{SUFFIX}": number(r.filled) for r in balls}
    record[f"{PREFIX}distance"] = number(max(r.distance for r in balls))
    scores = [row.kkt for row in balls if row.kkt is not None]
    if scores:
        record[f"{PREFIX}kkt"] = number(max(scores))
    return record


def largest(records: Sequence[Record]) -> tuple[float, str] | None:
    """The largest ‖W‖/radius in the last record that has any, and its layer.

    Examples:
        >>> largest([{"constraint/a/norm_over_radius": 0.5}, {"step": 2}])
        (0.5, 'a')
    """
    for record in reversed(records):
        found = [
            (value, key.removeprefix(PREFIX).removesuffix(SUFFIX))
            for key, value in record.items()
            if key.startswith(PREFIX) and key.endswith(SUFFIX) and value is not None
        ]
        if found:
            return max(found)
    return None


@dataclass
class Spectra:
    """The magnitudes of every layer with a ball at each evaluation, as they go to `spectra.npz`.

    Args:
        steps: the steps of the evaluations.
        names: the names of the layers.
        kinds: the kind of the magnitudes of each layer.
        limits: the largest magnitude in the ball of each layer.
        values: one row per evaluation for each layer, in falling order.
    """

    steps: list[int] = field(default_factory=list)
    names: list[str] = field(default_factory=list)
    kinds: list[str] = field(default_factory=list)
    limits: list[float] = field(default_factory=list)
    values: list[list[NDArray[np.float32]]] = field(default_factory=list)

    def add(self, step: int, found: Sequence[ConstraintSpectrum]) -> None:
        """Append the magnitudes of an evaluation: NaN for a layer that has none any more."""
        if not self.steps:
            self.names = [layer(s.name) for s in found]
            self.kinds = [s.kind for s in found]
            self.limits = [s.limit for s in found]
            self.values = [[] for _ in found]
        self.steps.append(step)
        now = {layer(s.name): s for s in found}
        for i, (name, rows) in enumerate(zip(self.names, self.values, strict=True)):
            if name in now:
                self.limits[i] = now[name].limit
                rows.append(_thinned(now[name].values))
            else:
                rows.append(np.full_like(rows[0], np.nan))

    def save(self, folder: Path) -> None:
        """Write the file of a trial, if there is anything to write.

        Raises:
            OSError: it could not be written; the older one is still there.
        """
        if not self.names:
            return
        arrays: dict[str, Any] = {
            "steps": np.array(self.steps),
            "names": np.array(self.names),
            "kinds": np.array(self.kinds),
            "limits": np.array(self.limits),
            **{f"values{i}": np.stack(rows) for i, rows in enumerate(self.values)},
        }
        buffer = io.BytesIO()
        np.savez(buffer, **arrays)
        write_atomic(folder / SPECTRA, buffer.getvalue())

    @classmethod
    def load(cls, folder: Path, *, step: float = math.inf) -> Spectra:
        """Read the file of a trial up to a step; nothing without the file.

        Raises:
            ValueError: the file is damaged; it is left alone.
        """
        path = folder / SPECTRA
        if not path.exists():
            return cls()
        try:
            return cls._read(path, step)
        except OSError:
            raise
        except Exception:  # zipfile, zlib and numpy raise nearly anything for a damaged file
            raise invalid(
                "file",
                str(path),
                "is cut off or damaged; move it away and resume: the picture then begins there",
            ) from None

    @classmethod
    def _read(cls, path: Path, step: float) -> Spectra:
        with open_file(path) as file:
            content = _arrays(file)
        every = content["steps"].tolist()
        if any(type(s) is not int or s < 0 for s in every) or every != sorted(set(every)):
            raise ValueError("its steps are no steps in order")
        steps = [s for s in every if s <= step]
        names = [str(name) for name in content["names"].tolist()]
        rows = [content[f"values{i}"][: len(steps)] for i in range(len(names))]
        kinds, limits = content["kinds"].tolist(), content["limits"].tolist()
        forms = {(row.ndim, len(row), row.dtype.kind) for row in rows}
        if not len(names) == len(kinds) == len(limits) or forms - {(2, len(steps), "f")}:
            raise ValueError("its arrays do not belong together")
        return cls(
            steps=steps,
            names=names,
            kinds=[str(kind) for kind in kinds],
            limits=[float(limit) for limit in limits],
            values=[list(row) for row in rows],
        )


def _arrays(file: BinaryIO) -> dict[str, NDArray[Any]]:
    """The arrays of a file that NumPy has written, none of them larger than it is there.

    Raises:
        Exception: of any kind, for a damaged file.
    """
    archive = whole_archive(file)
    for entry in archive.infolist():
        with archive.open(entry) as member:
            version = np.lib.format.read_magic(member)
            shape, _, dtype = HEADERS[version](member)
        if math.prod(shape) * dtype.itemsize > entry.file_size:
            raise ValueError("an array has more numbers than its file")
    file.seek(0)
    with np.load(file, allow_pickle=False) as arrays:
        return dict(arrays)


def _thinned(values: torch.Tensor) -> NDArray[np.float32]:
    """Thin to at most `KEPT` of sorted values, the first and the last among them."""
    places = torch.linspace(0, len(values) - 1, min(len(values), KEPT)).round().long()
    kept: NDArray[np.float32] = values[places].to(torch.float32).numpy()
    return kept


def matrices(report: ConstraintReport) -> tuple[ConstraintSpectrum, ...]:
    """The spectra of a report that a picture shows: of matrices, and not of gains."""
    flat = {row.name for row in report if len(row.shape) < 2}
    return tuple(s for s in report.spectra if s.name not in flat)
