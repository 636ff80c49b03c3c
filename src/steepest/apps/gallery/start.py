"""Draw the pictures of the documentation."""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping
from pathlib import Path

from steepest._common.files import write_atomic
from steepest.apps import _figures as figures
from steepest.apps._console import Terminal
from steepest.apps._folder import held
from steepest.apps._terminal import say
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


def start(*, out: Path, only: Collection[str], seed: int) -> None:
    """Carry out `steepest gallery`.

    Args:
        out: the folder for the pictures.
        only: the names of those to draw, which are drawn in the order of the table.
        seed: the seed of the run that one of them looks at.

    Raises:
        ValueError: another process is at work in the folder.
        OSError: a file could not be written.
    """
    console = Terminal()
    with held(out):
        for name, draw in PICTURES.items():
            if name in only:
                path = out / f"{name}.png"
                with figures.plot_style():
                    content = draw(seed)
                write_atomic(path, content)
                say(console, str(path))
