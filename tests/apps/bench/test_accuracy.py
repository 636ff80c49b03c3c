"""The error of a polar factor, on factors whose error is known."""

from __future__ import annotations

import math

import pytest
import torch

from steepest import polar, polar_factor
from steepest.apps.bench.accuracy import CONDITION, gradient_probe, spectrum_probe

SHAPES = [(12, 12), (6, 20), (20, 6), (1, 5)]


def generator() -> torch.Generator:
    return torch.Generator().manual_seed(3)


@pytest.mark.parametrize("shape", SHAPES, ids=str)
def test_a_matrix_with_a_spectrum(shape: tuple[int, int]) -> None:
    probe = spectrum_probe(shape, generator())
    assert probe.x.shape == shape and probe.x.dtype == torch.float32
    s = torch.linalg.svdvals(probe.x.double())
    expected = torch.logspace(0, -math.log10(CONDITION), min(shape), dtype=torch.float64)
    torch.testing.assert_close(s, expected, rtol=1e-4, atol=1e-7)
    # The factor is that of the decomposition, which was not computed.
    assert probe.error(polar_factor(probe.x.double())) < 1e-4
    assert torch.equal(probe.x, spectrum_probe(shape, generator()).x)


@pytest.mark.parametrize("shape", SHAPES, ids=str)
def test_known_errors(shape: tuple[int, int]) -> None:
    probe = spectrum_probe(shape, generator())
    q = polar_factor(probe.x.double())
    assert probe.error(1.25 * q) == pytest.approx(0.25, rel=1e-3)
    assert probe.error(0 * q) == pytest.approx(1.0)
    assert probe.error(-q) == pytest.approx(2.0, rel=1e-3)
    noise = torch.randn(shape, dtype=torch.float64)
    if shape[0] <= shape[1]:  # the left singular vectors of a tall one do not see all of the noise
        expected = float(noise.norm()) * 0.01 / math.sqrt(min(shape))
        assert probe.error(q + 0.01 * noise) == pytest.approx(expected, rel=2e-2)


@pytest.mark.parametrize("tall", [False, True])
def test_below_the_resolution_nothing_counts(tall: bool) -> None:
    u, _ = torch.linalg.qr(torch.randn(8, 8, dtype=torch.float64))
    v, _ = torch.linalg.qr(torch.randn(20, 8, dtype=torch.float64))
    sigma = torch.tensor([1.0, 0.5, 0.1, 0.02, 4e-3, 2e-3, 1e-4, 1e-5], dtype=torch.float64)

    def put_together(values: torch.Tensor) -> torch.Tensor:
        x = (u * values) @ v.mT
        return x.mT if tall else x

    probe = gradient_probe(put_together(sigma).float(), 3e-3)
    assert probe.left.shape == (8, 5) and probe.right.shape == (20, 5)
    ones = torch.ones(8, dtype=torch.float64)
    wrong_below, wrong_above = ones.clone(), ones.clone()
    wrong_below[5:] = 0
    wrong_above[4] = 0.5
    assert probe.error(put_together(ones)) < 1e-3
    assert probe.error(put_together(wrong_below)) < 1e-3
    assert probe.error(put_together(wrong_above)) == pytest.approx(0.5 / math.sqrt(5), rel=1e-2)
    assert gradient_probe(put_together(sigma).float(), 1e-2).left.shape == (8, 4)


def test_methods_keep_their_promise_under_this_measure() -> None:
    probe = spectrum_probe((16, 48), generator())
    for error in (0.05, 1e-3):
        method = polar.Auto(error=error)
        assert probe.error(method(probe.x)) <= error
    jordan = polar.NewtonSchulz(polar.JORDAN, torch.bfloat16)
    assert 0.1 < probe.error(jordan(probe.x)) < 0.5
