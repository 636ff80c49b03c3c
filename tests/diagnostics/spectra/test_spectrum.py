"""Spectra and ranks: the exact ones against their definitions, the others inside their errors."""

from __future__ import annotations

import math

import pytest
import torch

from steepest.diagnostics import (
    Spectrum,
    effective_rank,
    nuclear_rank,
    spectrum,
    stable_rank,
    svd_entropy,
)
from steepest.diagnostics.spectra._krylov import leading, quadrature, stretch, tangent
from steepest.diagnostics.spectra.spectrum import EXACT_SIZE, QUANTITIES
from tests.matrices import log_spaced, wide, with_spectrum
from tests.refusals import assert_refused

BATCHED = {
    "nuclear_rank": nuclear_rank,
    "stable_rank": stable_rank,
    "effective_rank": effective_rank,
    "entropy": svd_entropy,
}
COUNTS = (1, 2, 5, 12, 30)


def seeded(seed: int) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def naive(sigma: list[float]) -> dict[str, float]:
    """Every quantity as its definition says it, number by number."""
    total, energy = math.fsum(sigma), math.fsum(s * s for s in sigma)
    p = [s / total for s in sigma if s > 0]
    q = [s * s / energy for s in sigma if s > 0]
    return {
        "nuclear_rank": total**2 / energy,
        "stable_rank": energy / sigma[0] ** 2,
        "effective_rank": math.exp(-math.fsum(v * math.log(v) for v in p)),
        "entropy": -math.fsum(v * math.log(v) for v in q) / math.log(len(sigma)),
        "condition": sigma[0] / sigma[-1] if sigma[-1] else math.inf,
        "nuclear_norm": total,
        "frobenius_norm": math.sqrt(energy),
        "spectral_norm": sigma[0],
    }


def shapes_of_spectra(k: int) -> dict[str, torch.Tensor]:
    """Singular values with little in common, k of each."""
    order = torch.arange(1, k + 1, dtype=torch.float64)
    uniform = torch.rand(k, generator=seeded(0), dtype=torch.float64)
    few = torch.where(order <= 3, 1.0, 0.0).double()
    return {
        "flat": torch.ones(k, dtype=torch.float64),
        "log-uniform": (10 ** (-4 * uniform)).sort(descending=True).values,
        "spiked": torch.where(order <= 2, 30.0, 1.0).double(),
        "low rank": few,
        "nearly low rank": few + 1e-3,
        "power law": 1 / order,
        "slow power law": order**-0.5,
        "gaussian": torch.linalg.svdvals(
            torch.randn(k, k, generator=seeded(1), dtype=torch.float64)
        ),
    }


@pytest.mark.parametrize("complex", [False, True], ids=["real", "complex"])
def test_exact_numbers_are_their_definitions(complex):
    for m, n in ((7, 7), (5, 40), (40, 5)):
        for sigma in (log_spaced(100, 5), torch.ones(5).double()):
            kept = sigma if min(m, n) == 5 else torch.cat([sigma, sigma[-1:] / 2, sigma[-1:] / 4])
            found = spectrum(with_spectrum(kept, m, n, complex=complex))
            for name, true in naive(kept.tolist()).items():
                value, error = getattr(found, name), found.errors[name]
                assert value == pytest.approx(true, rel=1e-11), name
                # With the rounding of the matrix itself, which `with_spectrum` multiplied out.
                assert abs(value - true) <= 4 * error + 1e-15 and error <= 1e-8 * true, name
            assert found.confidence == 1 and found.shape == (m, n)
            assert torch.allclose(found.values, kept, rtol=1e-12)
            for k in (1, 3, 99):
                share = float((kept[:k] ** 2).sum() / (kept**2).sum())
                assert found.energy(k) == pytest.approx(share, rel=1e-12)
                assert found.energy_error(k) == 0


def assert_inside(found: Spectrum, true: dict[str, float], misses: dict[str, int]) -> None:
    """Count what is further off than it says; what is certain must be right."""
    for name in QUANTITIES:
        if name != "condition":
            off = abs(getattr(found, name) - true[name])
            misses[name] += not off <= found.errors[name] + 1e-13 * true[name]
    assert found.condition <= true["condition"] * (1 + 1e-9), "a lower bound"
    assert found.errors["condition"] == math.inf and found.values is None


def test_randomised_numbers_are_inside_their_errors():
    spectra = shapes_of_spectra(40)
    matrices = {
        name: with_spectrum(sigma, 40, 60, complex=name == "power law", seed=i)
        for i, (name, sigma) in enumerate(spectra.items())
    }
    misses = dict.fromkeys([*QUANTITIES, *COUNTS], 0)
    trials = 200 // len(matrices)
    for name, x in matrices.items():
        true = naive(spectra[name].tolist())
        shares = [float((spectra[name][:k] ** 2).sum()) for k in COUNTS]
        for seed in range(trials):
            tall = x if seed % 2 else x.mH
            found = spectrum(tall, method="randomised", probes=8, steps=12, generator=seeded(seed))
            assert_inside(found, true, misses)
            for k, share in zip(COUNTS, shares, strict=True):
                off = abs(found.energy(k) - share / true["frobenius_norm"] ** 2)
                misses[k] += not off <= found.energy_error(k) + 1e-13
    total = trials * len(matrices)
    assert max(misses.values()) <= 0.01 * total, misses  # 0.05 is asked for


def test_stated_errors_are_of_use():
    x = torch.randn(300, 500, generator=seeded(0))
    few = spectrum(x, method="randomised", probes=8)
    many = spectrum(x, method="randomised", probes=32)
    for name, worst in (("nuclear_rank", 0.15), ("stable_rank", 0.05), ("entropy", 0.01)):
        error = many.errors[name] / getattr(many, name)
        assert error < worst, name
        # A wider block is no longer, so that the top is known no better.
        assert name == "stable_rank" or many.errors[name] < few.errors[name]
    # Low rank: nothing is left to chance.
    low = spectrum(with_spectrum(torch.tensor([3.0, 2.0, 1.0]), 60, 90), method="randomised")
    for name in BATCHED:
        assert low.errors[name] <= 1e-5 * getattr(low, name)


@pytest.mark.parametrize("complex", [False, True], ids=["real", "complex"])
def test_each_quadratic_form_is_between_its_two_rules(complex):
    functions = (lambda s: s, lambda s: torch.xlogy(s**2, s**2), lambda s: torch.xlogy(s, s))
    for sigma in shapes_of_spectra(12).values():
        x = with_spectrum(sigma / sigma.norm(), 12, 20, complex=complex)
        u, s, _ = torch.linalg.svd(x, full_matrices=False)
        vectors = torch.randn(4, 12, generator=seeded(2), dtype=x.dtype)
        parts = (vectors.conj() @ u).abs() ** 2
        for steps in (1, 2, 4, 12):
            rules = quadrature(x, vectors, steps)
            for f in functions:
                lower, upper = rules(f)
                exact = parts @ f(s)
                slack = 1e-12 * parts.sum(dim=1)
                assert bool(((lower <= exact + slack) & (exact <= upper + slack)).all())
                if steps == 12:
                    assert torch.allclose(lower, exact, atol=1e-7)
            squares = rules(torch.square)
            assert torch.allclose(squares, (parts @ s**2).expand(2, -1), rtol=1e-11)


def test_ritz_values_are_below_and_stretched_ones_above():
    sigma = log_spaced(30, 40)
    x = with_spectrum(sigma, 40, 40)
    risk, depth, block, wrong = 0.05, 3, 6, [0] * 3
    for seed in range(100):
        start = torch.randn(block, 40, generator=seeded(seed), dtype=x.dtype)
        found = leading(x, start, depth)
        basis = found.vectors
        assert torch.allclose(basis @ basis.mT, torch.eye(len(basis)).double(), atol=1e-12)
        assert bool((found.values[:block] <= sigma[:block] ** 2 * (1 + 1e-12)).all())
        for j in range(3):
            bound = found.values[j] * stretch(tangent(40, block, j + 1, risk), depth)
            wrong[j] += bool(bound < sigma[j] ** 2)
    assert max(wrong) <= 2 * risk * 100


def test_the_scale_and_the_type_make_no_difference():
    x = torch.randn(20, 30, generator=seeded(0), dtype=torch.float64)
    for method in ("exact", "randomised"):
        unit = spectrum(x, method=method)
        for power in (-990, 990):
            found = spectrum(x * 2.0**power, method=method)
            assert found.spectral_norm == pytest.approx(unit.spectral_norm * 2.0**power, rel=1e-12)
            for name in BATCHED:
                assert getattr(found, name) == pytest.approx(getattr(unit, name), rel=1e-12)
    for dtype in (torch.float16, torch.bfloat16, torch.float32, torch.complex64):
        y = x.to(dtype)
        assert spectrum(y).nuclear_rank == spectrum(wide(y)).nuclear_rank


def test_the_ends_of_the_ranges():
    for method in ("exact", "randomised"):
        zero = spectrum(torch.zeros(3, 5), method=method)
        assert [getattr(zero, name) for name in BATCHED] == [0, 0, 0, 0]
        assert zero.condition == math.inf and zero.energy(1) == 0 == zero.nuclear_norm
        for shape in ((1, 9), (9, 1), (1, 1)):
            one = spectrum(2 * torch.ones(shape), method=method)
            for name in ("nuclear_rank", "stable_rank", "effective_rank"):
                assert getattr(one, name) == pytest.approx(1, abs=1e-6)
            assert one.entropy == pytest.approx(0, abs=1e-12)
            assert one.energy(1) == pytest.approx(1, abs=1e-12)
        rank_one = torch.outer(torch.arange(1.0, 31), torch.arange(1.0, 51))
        found = spectrum(rank_one, method=method)
        assert found.stable_rank == pytest.approx(1) and found.condition > 1e12
        assert found.effective_rank == pytest.approx(1, abs=1e-6)


def test_batches_are_their_members():
    x = torch.randn(2, 3, 4, 7, generator=seeded(0))
    x[0, 1] = 0
    for name, function in BATCHED.items():
        found = function(x)
        assert found.shape == (2, 3) and found.dtype == torch.float64
        for i, j in ((0, 0), (0, 1), (1, 2)):
            one = getattr(spectrum(x[i, j]), name)
            assert float(found[i, j]) == pytest.approx(one, rel=1e-13)


def test_nothing_is_changed_and_answers_repeat():
    x = torch.randn(40, 50, generator=seeded(0), requires_grad=True)
    before, state = x.detach().clone(), torch.get_rng_state()
    first, second = (spectrum(x, method="randomised", steps=6) for _ in range(2))
    assert first.nuclear_rank == second.nuclear_rank
    other = spectrum(x, method="randomised", steps=6, generator=seeded(1))
    assert other.nuclear_rank != first.nuclear_rank
    assert torch.equal(x, before) and torch.equal(torch.get_rng_state(), state)


def test_auto_is_exact_for_small_matrices():
    for size, exact in ((EXACT_SIZE, True), (EXACT_SIZE + 1, False)):
        low = torch.zeros(size, size + 2)
        low[:3, :3] = torch.randn(3, 3, generator=seeded(0))
        found = spectrum(low, probes=4, steps=4)
        assert (found.values is not None) == exact
        corner = spectrum(low[:3, :3])
        for name in BATCHED:
            if name != "entropy":  # which is relative to the size
                assert getattr(found, name) == pytest.approx(getattr(corner, name), rel=1e-6)


def test_how_it_prints():
    lines = str(spectrum(torch.diag(torch.tensor([3.0, 4.0])))).splitlines()
    assert lines[:3] == [
        "spectrum of 2×2, exact",
        "  nuclear rank    1.96",
        "  stable rank     1.562",
    ]
    x = torch.randn(30, 30, generator=seeded(0))
    text = str(spectrum(x, method="randomised", probes=4, confidence=0.9))
    assert "randomised, each to 0.9" in text
    assert " ± " in text and "condition       ≥ " in text


@pytest.mark.parametrize(
    ("x", "options", "value", "remedy"),
    [
        (torch.ones(3), {}, "x='3 torch.float32'", "one matrix"),
        (torch.ones(2, 3, 4), {}, "2×3×4", "MatrixView"),
        (torch.ones(0, 4), {}, "x='0×4'", "no singular values"),
        (torch.tensor([[1.0, math.nan]]), {}, "non-finite", "remove NaN"),
        (torch.tensor([[1.0, math.inf]]), {}, "non-finite", "remove NaN"),
        (torch.ones(2, 2), {"probes": 1}, "probes=1", "2 or more"),
        (torch.ones(2, 2), {"steps": 0}, "steps=0", "2 or more"),
        (torch.ones(2, 2), {"confidence": 1.0}, "confidence=1.0", "probability"),
    ],
    ids=["vector", "batch", "empty", "nan", "inf", "probes", "steps", "confidence"],
)
def test_refused(x, options, value, remedy):
    if x.ndim == 2:
        assert_refused(lambda: spectrum(x, **options), value, remedy)
    if not options and x.ndim >= 2 and x.ndim != 3:
        for function in BATCHED.values():
            assert_refused(lambda f=function: f(x), value, remedy)


def test_energy_of_no_values_is_refused():
    assert_refused(lambda: spectrum(torch.eye(2)).energy(0), "k=0", "1 or more")


def test_all_singular_values_together_have_all_the_energy() -> None:
    x = torch.randn(40, 90, generator=torch.Generator().manual_seed(0))
    for found in (spectrum(x, method="randomised", steps=4), spectrum(x)):
        assert found.energy(40) == found.energy(1000) == 1
        assert found.energy_error(40) == 0
    assert spectrum(torch.zeros(3, 4)).energy(3) == 0
