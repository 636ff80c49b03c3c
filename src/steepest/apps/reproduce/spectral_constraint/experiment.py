"""Does weight decay keep every matrix in the ball that belongs to the map of the optimizer?

Lion-K with weight decay λ moves by the gradient of a convex map K and is said to minimise
F(X) + K*(λX)/λ. For K = the nuclear norm it is Muon, and the problem is min F in the ball
‖X‖₂ ≤ 1/λ. Looked at are

- a quadratic in 20 × 30 matrices, whose optimum is outside the ball, outside in some directions
  only, or inside: loss, norm, KKT score and Lyapunov function against time;
- small steps with a smooth K, along which the Lyapunov function should never rise;
- six maps from a start outside, with the three kinds of decay, against the exponential bound;
- the same maps on a convolutional network and on a GPT; see `constraint_nets`.
"""

from __future__ import annotations

from dataclasses import dataclass
from itertools import product

from steepest._common.files import Record
from steepest.apps.reproduce.framework.experiment import Cell, Reproduction, says_its_scale
from steepest.apps.reproduce.names import TITLES
from steepest.apps.reproduce.spectral_constraint import networks as nets
from steepest.apps.reproduce.spectral_constraint import toy as toy
from steepest.apps.reproduce.spectral_constraint.claims import OUTSIDE, QUADRATIC
from steepest.apps.reproduce.spectral_constraint.network_claims import NETWORKS
from steepest.apps.reproduce.spectral_constraint.pictures import (
    draw_approach,
    draw_networks,
    draw_small_steps,
    draw_spectra,
    draw_toy,
)
from steepest.apps.reproduce.spectral_constraint.tables import (
    APPROACH,
    NETWORK,
    SMALL,
    TOY,
    approaches,
    networks,
    small_steps,
    spectra,
    toys,
    trained,
)


@dataclass(frozen=True, kw_only=True)
class ConstraintSettings(nets.NetSettings):
    """Lengths and step sizes of all parts; see `NetSettings`.

    Args:
        toy_steps: the steps on the quadratic, with η = 0.02/√(1 + t/50).
        small_steps: the steps of the runs with a smooth K.
        small_lr: their η.
        far_steps: the steps of the runs from outside.
        far_lr: their η.
    """

    toy_steps: int = 4000
    small_steps: int = 6000
    small_lr: float = 1e-3
    far_steps: int = 400
    far_lr: float = 0.02


def cells(settings: ConstraintSettings) -> list[Cell]:
    """Every run on the quadratic, and every network, map, rate and kind of decay."""
    found = []
    for seed in settings.seeds:
        # A step with a Lyapunov function takes about twice as long as one without.
        parts: list[tuple[Record, float]] = [
            ({"experiment": TOY, "case": case}, settings.toy_steps) for case in toy.OPTIMA
        ]
        parts += [({"experiment": SMALL}, 2 * settings.small_steps)]
        parts += [
            ({"experiment": APPROACH, "map": name, "decay": decay}, settings.far_steps)
            for name, decay in product(toy.MAPS, ("explicit", "implicit", "cautious"))
        ]
        # And one of a network about twelve times.
        parts += [
            (
                {"experiment": NETWORK, "network": n, "map": m, "decay": d, "rate": r},
                12 * settings.steps,
            )
            for n, m, d, r in product(
                ("images", "text"), nets.MAPS, ("explicit", "none"), settings.rates
            )
        ]
        found += [Cell(key={**key, "seed": seed}, cost=cost) for key, cost in parts]
    return found


@says_its_scale
def measure(settings: ConstraintSettings, cell: Record) -> Record:
    """Carry out one run."""
    seed, every = cell["seed"], settings.every
    if cell["experiment"] == TOY:
        return toy.constrained(cell["case"], seed=seed, steps=settings.toy_steps, every=4 * every)
    if cell["experiment"] == SMALL:
        steps, lr = settings.small_steps, settings.small_lr
        return toy.small_steps(seed=seed, steps=steps, lr=lr, every=4 * every)
    if cell["experiment"] == APPROACH:
        steps, lr = settings.far_steps, settings.far_lr
        return toy.approach(cell["map"], cell["decay"], seed=seed, steps=steps, lr=lr, every=every)
    return nets.measure(settings, cell)


SPECTRAL_CONSTRAINT = Reproduction(
    name="spectral-constraint",
    title=TITLES["spectral-constraint"],
    full=ConstraintSettings(),
    quick=ConstraintSettings(
        seeds=(0,),
        steps=4,
        batch=32,
        windows=4,
        layers=1,
        rates=(0.12,),
        toy_steps=1600,
        small_steps=100,
        far_steps=400,
    ),
    cells=cells,
    measure=measure,
    claims=(*QUADRATIC, *OUTSIDE, *NETWORKS),
    tables={
        "toy": toys,
        "small-steps": small_steps,
        "approach": approaches,
        "networks": networks,
        "spectra": spectra,
        "trained": trained,
    },
    pictures={
        "toy": draw_toy,
        "small-steps": draw_small_steps,
        "approach": draw_approach,
        "networks": draw_networks,
        "spectra": draw_spectra,
    },
)
