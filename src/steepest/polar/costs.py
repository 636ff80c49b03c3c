"""The costs of the building blocks of the polar methods, measured or shipped, and back to JSON."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import asdict, dataclass, fields
from typing import Any

from steepest._common.checks import positive
from steepest._common.errors import invalid
from steepest._common.text import fingerprint

Costs = tuple[tuple[int, float], ...]
"""(m, seconds) for one m × m matrix, m ascending; in between, powers are interpolated."""


@dataclass(frozen=True, kw_only=True, repr=False)
class CostTable:
    """Seconds that the building blocks of the polar methods take on one kind of device.

    `steepest bench --calibrate` measures one and writes it as JSON.

    Args:
        product: one float32 product of two m × m matrices, within a batch.
        bfloat16: the same in bfloat16; empty where no method may compute in it.
        float16: the same in float16; empty likewise.
        inverse: one float32 inverse of a positive definite matrix, by blocks; empty where it must
            not be used.
        eigh: one float64 `torch.linalg.eigh`; empty where it must not be used (it synchronises
            an accelerator with the host).
        svd: one float32 `torch.linalg.svd`; empty likewise.
        wide: how many times longer a float64 product takes.
        source: their origin: what was measured, where, when and by which command, or that none was.

    Raises:
        ValueError: a list of costs with a single entry, not ascending in m, or with a size or a
            time that is not positive; a ratio that is not positive; a source that is not text.

    Examples:
        >>> table = CostTable(product=((64, 3e-6), (128, 2e-5)))
        >>> CostTable.from_json(table.to_json()) == table
        True
    """

    product: Costs
    bfloat16: Costs = ()
    float16: Costs = ()
    inverse: Costs = ()
    eigh: Costs = ()
    svd: Costs = ()
    wide: float = 2.0
    source: str = ""

    def __post_init__(self) -> None:
        positive("wide", self.wide)
        if not isinstance(self.source, str):
            raise invalid("source", self.source, "give a text that says where the costs are from")
        for name, value in vars(self).items():
            if not isinstance(value, tuple):
                continue
            sizes = [m for m, _ in value]
            if len(sizes) == 1 or sizes != sorted(set(sizes)):
                raise invalid(name, value, "give two or more sizes, ascending")
            if not all(m > 0 and math.isfinite(s) and s > 0 for m, s in value):
                raise invalid(name, value, "give positive sizes and seconds")

    def __repr__(self) -> str:
        """The blocks that it has, and the sizes of products; `to_json` has all of it."""
        blocks = [name for name, value in vars(self).items() if value and isinstance(value, tuple)]
        sizes = f"{self.product[0][0]}…{self.product[-1][0]} rows, " if self.product else ""
        return f"CostTable({', '.join(blocks)}: {sizes}#{fingerprint(tuple(vars(self).values()))})"

    def to_json(self) -> dict[str, Any]:
        """Plain data, the inverse of `from_json`: a list of [m, seconds] for each block."""
        return {
            name: [list(pair) for pair in value] if isinstance(value, tuple) else value
            for name, value in asdict(self).items()
        }

    @classmethod
    def from_json(cls, data: Any) -> CostTable:
        """The table that `to_json` wrote.

        Raises:
            ValueError: `data` is something else, or holds costs that no table can have.
        """
        known = [f.name for f in fields(cls)]
        remedy = f"give an object of {', '.join(known)}, as `steepest bench --calibrate` writes it"
        if not isinstance(data, Mapping):
            raise invalid("table", data, remedy)
        if unknown := sorted(set(data) - set(known)):
            raise invalid("table", unknown, remedy)
        try:
            values = {name: _read(name, value) for name, value in data.items()}
        except (TypeError, ValueError):
            raise invalid("table", dict(data), remedy) from None
        if "product" not in values:
            raise invalid("table", dict(data), remedy)
        return cls(**values)


def _read(name: str, value: Any) -> Any:
    """A field as `CostTable` holds it: pairs of a size and seconds, one number, or a text."""
    if name == "source":
        return value
    if name == "wide":
        return float(value)
    return tuple((int(m), float(seconds)) for m, seconds in value)


def seconds_at(costs: Costs, m: int) -> float:
    """Cost at m: a power law through the two nearest entries, cubic beyond the last one."""
    last, seconds = costs[-1]
    if m > last:
        return seconds * (m / last) ** 3
    right = next((k for k, (size, _) in enumerate(costs) if size >= m), len(costs) - 1)
    right = max(1, right)
    (x0, y0), (x1, y1) = costs[right - 1], costs[right]
    return float(y0 * (m / x0) ** (math.log(y1 / y0) / math.log(x1 / x0)))
