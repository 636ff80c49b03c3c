"""`steepest gallery`: draw the pictures of the documentation."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Annotated

import typer

from steepest._common.errors import invalid
from steepest._common.files import write_atomic
from steepest.apps import _figures as figures
from steepest.apps._terminal import fail, os_text
from steepest.apps.gallery import balls, derivation, descent, spectra

PICTURES: Mapping[str, Callable[[int], bytes]] = {
    "balls": lambda _: balls.draw(),
    "sharpness": lambda _: descent.draw_sharpness(),
    "steps": lambda _: descent.draw_steps(),
    "spectra": spectra.draw,
    "derivation-trace": lambda _: derivation.draw_trace(),
    "derivation-newton-schulz": lambda _: derivation.draw_newton_schulz(),
    "derivation-ball": lambda _: derivation.draw_ball(),
    "derivation-grid": lambda _: derivation.draw_grid(),
}
"""Each picture as PNG, given a seed."""

Out = Annotated[Path, typer.Option(help="Folder for the pictures; made if it is missing.")]
Only = Annotated[
    list[str] | None,
    typer.Option(
        help=f"Draw this one only (repeatable): {', '.join(PICTURES)}.",
        metavar="NAME",
        show_default="all",
    ),
]
Seed = Annotated[
    int, typer.Option(help="Fixes weights and data of the training that spectra looks at.", min=0)
]


def chosen(only: list[str]) -> list[str]:
    """The pictures to draw, in the order of the table; all of them if none is named.

    Raises:
        ValueError: there is no such picture.
    """
    for name in only:
        if name not in PICTURES:
            raise invalid("only", name, f"choose from {', '.join(PICTURES)}")
    return [name for name in PICTURES if name in only or not only]


def gallery(out: Out = Path("gallery"), only: Only = None, seed: Seed = 0) -> None:
    """Draw norms, their duals and their duality maps as pictures."""
    try:
        names = chosen(only or [])
        out.mkdir(parents=True, exist_ok=True)
        for name in names:
            path = out / f"{name}.png"
            with figures.plot_style():
                content = PICTURES[name](seed)
            write_atomic(path, content)
            print(path)
    except ValueError as error:
        raise fail(error) from None
    except OSError as error:
        raise fail(os_text(error)) from None
