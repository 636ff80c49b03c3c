"""The top eigenvalue of an operator, against a dense decomposition."""

from __future__ import annotations

import math

import pytest
import torch

from steepest.diagnostics.curvature._lanczos import lanczos
from tests.matrices import with_spectrum


def operator(shift):
    """A symmetric matrix 12 × 12 with the eigenvalues shift + (0.1, …, 1)."""
    sigma = torch.linspace(1, 0.1, 12, dtype=torch.float64)
    root = with_spectrum(sigma.sqrt(), 12, 12, seed=3)
    return root @ root.mT + shift * torch.eye(12, dtype=torch.float64)


def drawn(n, seed=0):
    return torch.randn(n, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


@pytest.mark.parametrize("basis", [None, 4, 20])
@pytest.mark.parametrize("shift", [-2.0, -0.9, -0.5, 0.0, 1.0])
@pytest.mark.parametrize("which", ["LM", "LA"])
def test_the_top_of_an_operator(which, shift, basis):
    h = operator(shift)
    values = torch.linalg.eigvalsh(h)
    want = float(values[values.abs().argmax()] if which == "LM" else values[-1])
    count = 0

    def product(v):
        nonlocal count
        count += 1
        return h @ v

    rough = lanczos(product, drawn(12), which=which, steps=3, tolerance=0.0, basis=basis)
    assert rough.products == count == 3 and not rough.converged
    assert abs(rough.value) < abs(want) if which == "LM" else rough.value < want
    assert float((values - rough.value).abs().min()) <= rough.residual
    fine = lanczos(product, drawn(12), which=which, steps=200, tolerance=1e-9, basis=basis)
    assert fine.converged and fine.products == count - 3 < 200
    assert fine.value == pytest.approx(want, rel=1e-9)
    assert (fine.vector is None) == (basis is None)
    if fine.vector is not None:
        assert float(torch.linalg.vector_norm(fine.vector)) == pytest.approx(1)
        rest = torch.linalg.vector_norm(h @ fine.vector - fine.value * fine.vector)
        assert float(rest) == pytest.approx(fine.residual, abs=1e-12)
        assert float(rest) <= 1e-9 * abs(want)


@pytest.mark.parametrize("basis", [None, 20])
def test_an_invariant_space_ends_at_once(basis):
    once = lanczos(lambda v: v, drawn(12), which="LA", steps=40, tolerance=1e-9, basis=basis)
    assert once.value == pytest.approx(1.0, rel=1e-12)
    assert once.residual < 1e-9 and once.converged and once.products == 1


@pytest.mark.parametrize("basis", [None, 20])
def test_what_is_not_finite_is_no_eigenvalue(basis):
    top = lanczos(
        lambda v: v * math.inf, drawn(4), which="LM", steps=9, tolerance=1e-9, basis=basis
    )
    assert math.isnan(top.value) and not top.converged and top.products == 1
