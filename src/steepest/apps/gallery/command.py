"""`steepest gallery`: its flags."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

from steepest.apps._flags import OneOf, Place, Whole, flag, start

NAMES = (
    *("balls", "sharpness", "steps", "spectra"),
    *("derivation-trace", "derivation-newton-schulz", "derivation-ball", "derivation-grid"),
)
EXAMPLES = (
    ("gallery", "All pictures, into the folder gallery."),
    ("gallery --only balls --out pictures", "One of them."),
)

Out = Annotated[
    Path,
    flag("Folder for the pictures; made if it is missing.", kind=Place(), metavar="FOLDER"),
]
Only = Annotated[
    list[str] | None,
    flag(
        f"Draw this one only (repeatable): {', '.join(NAMES)}.",
        kind=OneOf(NAMES, several=True),
        default="all",
    ),
]
Seed = Annotated[
    int,
    flag("Fixes weights and data of the run that spectra looks at.", kind=Whole(0, 2**63 - 1)),
]


def gallery(out: Out = Path("gallery"), only: Only = None, seed: Seed = 0) -> None:
    """Draw norms, their duals and their duality maps as pictures."""
    start("gallery", out=out, only=only or NAMES, seed=seed)
