"""Warnings of torch about its own code. Any other warning fails the test in which it appears.

Each has the module to which torch ascribes it: where that is the caller, the same call in this
project still fails.
"""

from __future__ import annotations

import warnings

# (beginning of the message, category, module), as regular expressions where they are text.
OF_TORCH: tuple[tuple[str, type[Warning], str], ...] = (
    # torch.func.jvp, when it is first called. A FutureWarning from 2.14 on, so no one category. It
    # is ascribed to the function itself, so tests/test_warned.py asks that nothing here calls it.
    ("`torch.jit.script` is deprecated", Warning, r"torch\.jit\._script"),
    # torch 2.10, when it writes a distributed checkpoint.
    ("TypedStorage is deprecated", UserWarning, r"torch\.distributed\.checkpoint"),
)


def for_pytest() -> list[str]:
    """The lines of pytest's option `filterwarnings`."""
    return [
        f"ignore:{message}:{category.__name__}:{module}" for message, category, module in OF_TORCH
    ]


def ignore() -> None:
    """Ignore them in this process, whatever the filters so far say."""
    for message, category, module in OF_TORCH:
        warnings.filterwarnings("ignore", message, category, module)
