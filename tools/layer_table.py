"""The table of the norms of layers in docs/choosing.md, from `LAYER_NORMS` of steepest.routing.

python tools/layer_table.py          print it
python tools/layer_table.py --write  put it into the page
"""

from __future__ import annotations

import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
PAGE = ROOT / "docs" / "choosing.md"
BEGIN, END = "<!-- layers: tools/layer_table.py -->", "<!-- end of layers -->"

sys.path[:0] = [str(ROOT / "tools")]
from preset_table import between, print_or_write  # noqa: E402

from steepest.routing.layer_norms import LAYER_NORMS, LayerNorms, User  # noqa: E402

USERS: tuple[User, ...] = ("scion", "modular", "monitor")


def _norm(row: LayerNorms, user: User) -> str:
    """The norm of a user as an expression; of a kernel for 3 × 3 taps."""
    norm = row.norm(user, row.example)
    return "–" if norm is None else f"`{norm}`".replace("'", '"')


def table() -> str:
    """The rows as Markdown."""
    lines = [
        "| layer | `Scion` | `modular` | `Monitor` | a step of `Scion` | why they differ |",
        "| --- | --- | --- | --- | --- | --- |",
    ]
    for row in LAYER_NORMS.values():
        cells = (row.layer, *(_norm(row, user) for user in USERS), row.step, row.why)
        lines.append(f"| {' | '.join(cells)} |")
    return "\n".join(lines)


def replaced(text: str) -> str:
    """`text` with the present table between its two marks."""
    return between(text, BEGIN, END, table())


if __name__ == "__main__":
    print_or_write(table(), BEGIN, END, [PAGE])
