"""The costs of the building blocks of the polar methods, measured or shipped, and back to JSON."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import asdict, dataclass, fields
from typing import Any

from steepest._common.checks import positive
from steepest._common.errors import invalid

Costs = tuple[tuple[int, float], ...]
"""(m, seconds) for one m × m matrix, m ascending; in between, powers are interpolated."""


@dataclass(frozen=True, kw_only=True)
class CostTable:
    """Seconds that the building blocks of the polar methods take on one kind of device.

    `steepest bench --calibrate` measures one and writes it as JSON.

    Args:
        product: one float32 product of two m × m matrices, within a batch.
        inverse: one float32 inverse of a positive definite matrix, by blocks; empty where it must
            not be used.
        eigh: one float64 `torch.linalg.eigh`; empty where it must not be used (it synchronises
            an accelerator with the host).
        svd: one float32 `torch.linalg.svd`; empty likewise.
        wide: how many times longer a float64 product takes.
        half: the same for float16, in which a method may compute where this is below 1.

    Raises:
        ValueError: a list of costs with a single entry, not ascending in m, or with a size or a
            time that is not positive; a ratio that is not positive.

    Examples:
        >>> table = CostTable(product=((64, 3e-6), (128, 2e-5)))
        >>> CostTable.from_json(table.to_json()) == table
        True
    """

    product: Costs
    inverse: Costs = ()
    eigh: Costs = ()
    svd: Costs = ()
    wide: float = 2.0
    half: float = 1.0

    def __post_init__(self) -> None:
        for name, value in vars(self).items():
            if not isinstance(value, tuple):
                positive(name, value)
                continue
            sizes = [m for m, _ in value]
            if len(sizes) == 1 or sizes != sorted(set(sizes)):
                raise invalid(name, value, "give two or more sizes, ascending")
            if not all(m > 0 and math.isfinite(s) and s > 0 for m, s in value):
                raise invalid(name, value, "give positive sizes and seconds")

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
            values = {name: _costs(value) for name, value in data.items()}
        except (TypeError, ValueError):
            raise invalid("table", dict(data), remedy) from None
        if "product" not in values:
            raise invalid("table", dict(data), remedy)
        return cls(**values)


def _costs(value: Any) -> Any:
    """A field as `CostTable` holds it: pairs of a size and seconds, or one number."""
    if isinstance(value, list):
        return tuple((int(m), float(seconds)) for m, seconds in value)
    return float(value)


def seconds_at(costs: Costs, m: int) -> float:
    """Cost at m: a power law through the two nearest entries, cubic beyond the last one."""
    last, seconds = costs[-1]
    if m > last:
        return seconds * (m / last) ** 3
    right = next((k for k, (size, _) in enumerate(costs) if size >= m), len(costs) - 1)
    right = max(1, right)
    (x0, y0), (x1, y1) = costs[right - 1], costs[right]
    return float(y0 * (m / x0) ** (math.log(y1 / y0) / math.log(x1 / x0)))


# `steepest bench --calibrate`, torch 2.13, two x86-64 cores with AVX-512, 2026-11-22.
CPU = CostTable(
    product=(
        (8, 1.2e-07),
        (32, 6.7e-07),
        (64, 3.7e-06),
        (128, 2.7e-05),
        (256, 0.00017),
        (512, 0.0015),
        (768, 0.0048),
        (1024, 0.011),
    ),
    inverse=(
        (8, 1.7e-06),
        (32, 1.3e-05),
        (64, 5.5e-05),
        (128, 0.00016),
        (256, 0.00075),
        (512, 0.0038),
        (768, 0.0113),
        (1024, 0.024),
    ),
    eigh=(
        (8, 1e-05),
        (32, 0.00012),
        (64, 0.00036),
        (128, 0.0014),
        (256, 0.0056),
        (512, 0.034),
        (768, 0.077),
        (1024, 0.19),
    ),
    svd=(
        (8, 2e-05),
        (32, 0.0002),
        (64, 0.00062),
        (128, 0.0022),
        (256, 0.0098),
        (512, 0.05),
        (768, 0.13),
        (1024, 0.3),
    ),
    wide=1.8,
)
"""Two CPU cores."""

PRODUCTS_ONLY = CostTable(product=((64, 1e-5), (1024, 4e-5)), half=0.125)
"""Any accelerator: only matrix products, which never wait for the host. Not measured; data sheets
have float16 8 to 16 times as fast as float32."""
