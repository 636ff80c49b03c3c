"""What a stranger may plant where a file is expected, and texts that a terminal would act on."""

from __future__ import annotations

import os
import socket
from collections.abc import Callable
from pathlib import Path

ESC, CSI = "\x1b", "\x9b"
HOSTILE = (
    f"{ESC}[31mred{ESC}[2J{ESC}]0;title\x07{ESC}]8;;http://evil.test\x07link{CSI}5m\rover\x08\x7f"
    "\u202egnp\u202c\u2066x\u2069\u200e[bold red][link=http://evil.test]a[/link][/red]:smile:"
    "$x^$ $\\frac$ <script>alert(1)</script>{{7*7}}\ud800"
)
"""A name with everything at once: codes, marks of direction, markup, formulas, half a character."""
ACTING = [ESC, CSI, *"\r\x07\x08\x7f\u202e\u202c\u2066\u2069\u200e\ud800"]
"""The characters of it that must reach no terminal."""


def _socket(path: Path) -> None:
    with socket.socket(socket.AF_UNIX) as bound:
        bound.bind(os.path.relpath(path))  # an address is short


PLANTED: dict[str, Callable[[Path], None]] = {
    "a FIFO": os.mkfifo,
    "a folder": lambda path: path.mkdir(),
    "a socket": _socket,
    "a link to a FIFO": lambda path: (os.mkfifo(f"{path}.fifo"), path.symlink_to(f"{path}.fifo"))[
        1
    ],
    "a link to /dev/zero": lambda path: path.symlink_to("/dev/zero"),
    "a link to itself": lambda path: path.symlink_to(path),
}
"""Puts something that is no regular file in a place."""


def quiet(text: str) -> bool:
    """Whether a text does nothing to a terminal."""
    return not [c for c in ACTING if c in text]
