"""The pictures of the derivation: what they draw is what the mathematics says."""

from __future__ import annotations

import pytest
import torch

from steepest import polar
from steepest.apps import _figures as figures
from steepest.apps.gallery import derivation
from tests.apps.gallery.pictures import size


def test_no_random_matrix_gains_as_much_as_the_polar_factor() -> None:
    gains = derivation.gains(2000)
    assert gains.max() < 1 and gains.min() > -1
    # Uniform on the orthogonal group: the mean is 0, an entry's variance 1/n.
    sigma = torch.tensor(derivation.SPECTRUM, dtype=torch.float64)
    spread = float(sigma.norm() / sigma.sum()) / derivation.SIZE**0.5
    assert abs(float(gains.mean())) < 4 * spread / 2000**0.5
    assert float(gains.std()) == pytest.approx(spread, rel=0.1)


@pytest.mark.parametrize("schedule", derivation.SCHEDULES.values(), ids=lambda s: s.name)
def test_the_last_curve_is_the_whole_schedule(schedule: polar.Schedule) -> None:
    sigma = torch.logspace(-3, 0, 50, dtype=torch.float64)
    curves = derivation.after(schedule, sigma)
    assert len(curves) == max(derivation.SHOWN)
    torch.testing.assert_close(curves[-1], schedule(sigma))
    assert not torch.allclose(curves[0], curves[-1])


def test_decay_ends_at_the_clipped_target() -> None:
    values, target = derivation.decayed(400)
    assert values[0].max() > 2
    end = target.clamp(max=1 / derivation.DECAY)
    torch.testing.assert_close(values[-1], end, atol=0.02, rtol=0)


def test_exact_steps_stay_above_the_floor_and_the_others_do_not() -> None:
    losses, floor = derivation.grid_losses()
    smallest = {name: min(values) for name, values in losses.items()}
    exact = smallest.pop("exact")
    assert exact >= floor * (1 - 1e-9)
    assert len(smallest) == 3 and all(v < floor for v in smallest.values())


@pytest.mark.parametrize("name", ["trace", "newton_schulz", "ball", "grid"])
def test_it_draws(name: str) -> None:
    with figures.plot_style():
        assert size(getattr(derivation, f"draw_{name}")())[0] == 1170
