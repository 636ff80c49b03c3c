"""The pictures of the derivation: the trace chain, Newton–Schulz, the ball of decay, the grid."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence

import torch
from torch import Tensor

import steepest
from steepest import norms, polar
from steepest.apps import _figures as figures

SIZE = 4
SPECTRUM = (4.0, 2.0, 1.0, 0.5)
"""The singular values of the gradient in the picture of the trace chain."""
SCHEDULES: Mapping[str, polar.Schedule] = {
    "classic": polar.CLASSIC,
    "Jordan": polar.JORDAN,
    "Polar Express": polar.POLAR_EXPRESS,
}
SHOWN = {1: figures.GREEN, 3: figures.SKY, 5: figures.ORANGE}
"""The numbers of steps whose polynomials are drawn."""
DECAY = 1.0
ALPHA, GRID_STEPS = 0.05, 200


def _normal(*shape: int) -> Tensor:
    """Normal numbers, the same in each call."""
    source = torch.Generator().manual_seed(0)
    return torch.randn(*shape, dtype=torch.float64, generator=source)


def gains(count: int) -> Tensor:
    """⟨Q, G⟩/‖G‖_* of random orthogonal Q: extreme points of the spectral ball."""
    sigma = torch.tensor(SPECTRUM, dtype=torch.float64)
    q, r = torch.linalg.qr(_normal(count, SIZE, SIZE))
    # Signs of the diagonal make the distribution uniform.
    q = q * r.diagonal(dim1=-2, dim2=-1).sign().unsqueeze(-2)
    gain: Tensor = q.diagonal(dim1=-2, dim2=-1) @ sigma / sigma.sum()
    return gain


def draw_trace() -> bytes:
    """Gains of steps of spectral norm 1, and their shares of each direction, as PNG."""
    figure = figures.new_figure(3.6)
    left, right = figure.subplots(1, 2)
    sigma = torch.tensor(SPECTRUM, dtype=torch.float64)
    left.hist(gains(20_000).tolist(), bins=60, color=figures.SKY)
    left.axvline(1.0, color=figures.ORANGE, linewidth=2)
    place = left.get_xaxis_transform()
    left.text(0.97, 0.93, "UVᵀ", ha="right", color=figures.ORANGE, transform=place)
    left.set_xticks([-1, -0.5, 0, 0.5, 1])
    left.set_xlabel("gain ⟨Q, G⟩/‖G‖∗ of a random orthogonal Q")
    left.set_ylabel("matrices of 20 000")
    # In the basis of G's singular vectors: what each direction adds to ⟨ΔW, G⟩.
    steps = {"UVᵀ": torch.ones(SIZE), "G/‖G‖₂": sigma / sigma[0], "u₁v₁ᵀ": torch.eye(SIZE)[0]}
    colours = (figures.ORANGE, figures.BLUE, figures.GREEN)
    for number, ((name, shares), colour) in enumerate(zip(steps.items(), colours, strict=True)):
        gain = shares.double() * sigma
        at = [i + 1 + 0.27 * (number - 1) for i in range(SIZE)]
        right.bar(at, gain.tolist(), 0.25, color=colour, label=f"{name}: {float(gain.sum()):.2f}")
    right.set_xticks(range(1, SIZE + 1))
    right.set_xlabel("singular direction i")
    right.set_ylabel("share of the gain, σᵢ·uᵢᵀΔWvᵢ")
    right.legend(title="step ΔW, and its gain")
    for axes in (left, right):
        figures.graph(axes)
    return figures.png(figure)


def after(schedule: polar.Schedule, sigma: Tensor) -> list[Tensor]:
    """Singular values after 1, 2, … steps of a schedule."""
    out = []
    for a, b, c in schedule.folded:
        sigma = a * sigma + b * sigma**3 + c * sigma**5
        out.append(sigma)
    return out


def draw_newton_schulz() -> bytes:
    """Compositions of the polynomials of three schedules, as PNG."""
    figure = figures.new_figure(3.7)
    panels = figure.subplots(1, len(SCHEDULES), sharey=True)
    sigma = torch.logspace(-3, 0, 1000, dtype=torch.float64)
    for axes, (name, schedule) in zip(panels, SCHEDULES.items(), strict=True):
        axes.axhline(1, color=figures.GREY, linewidth=1, linestyle=(0, (4, 3)))
        curves = after(schedule, sigma)
        for steps, colour in SHOWN.items():
            out = curves[steps - 1].tolist()
            axes.semilogx(sigma.tolist(), out, color=colour, linewidth=1.3, label=str(steps))
        axes.set_title(name)
        axes.set_xlabel("singular value before")
        figures.graph(axes)
    panels[0].set_ylabel("singular value after")
    panels[0].legend(title="steps", loc="upper left")
    return figures.png(figure)


def decayed(steps: int) -> tuple[Tensor, Tensor]:
    """Singular values through Muon's training on ½‖W − T‖², and those of T.

    Returns:
        (steps + 1, 4) values, and the 4 of the target T, two of which are outside the ball.
    """
    u, _, vh = torch.linalg.svd(_normal(SIZE, SIZE))
    inside = torch.tensor([3.0, 2.0, 0.6, 0.3], dtype=torch.float64)
    target = u @ inside.diag() @ vh
    weight = torch.nn.Parameter(u @ torch.linspace(2.5, 1.5, SIZE).double().diag() @ vh)
    exact = polar.Svd()
    muon = steepest.Muon([weight], lr=0.1, weight_decay=DECAY, momentum=0.0, polar=exact)
    values = [torch.linalg.svdvals(weight.detach())]
    for step in range(steps):
        (group,) = muon.param_groups
        group["lr"] = 0.1 / (1 + step / 20)
        weight.grad = weight.detach() - target
        muon.step()
        values.append(torch.linalg.svdvals(weight.detach()))
    return torch.stack(values), inside


def draw_ball() -> bytes:
    """Singular values that decay brings into the ball, as PNG."""
    figure = figures.new_figure(3.8)
    axes = figure.subplots()
    values, target = decayed(150)
    colours = (figures.BLUE, figures.GREEN, figures.PURPLE, figures.YELLOW)
    ends = [min(float(t), 1 / DECAY) for t in target]
    for number, colour in enumerate(colours):
        label = f"σ{'₁₂₃₄'[number]}, of the target {float(target[number]):g}"
        axes.plot(values[:, number].tolist(), color=colour, linewidth=1.8, label=label)
        axes.plot(len(values) - 1, ends[number], "o", color=colour, clip_on=False)
    axes.axhline(1 / DECAY, color=figures.ORANGE, linewidth=1.6, linestyle=(0, (5, 3)))
    axes.text(len(values) - 1, 1.08 / DECAY, "radius of the ball", ha="right", color=figures.ORANGE)
    axes.set_xlim(0, len(values) - 1)
    axes.set_ylim(0, None)
    axes.set_xlabel("steps")
    axes.set_ylabel("singular values of W")
    axes.legend(title="dots: the constrained solution", alignment="left")
    figures.graph(axes)
    return figures.png(figure)


def grid_losses(size: int = 16) -> tuple[Mapping[str, Sequence[float]], float]:
    """½‖W‖² through the steps of four rules from one start, and the floor of the grid."""
    start = _normal(size, size) / math.sqrt(size)
    exact, jordan = polar.Svd(), polar.NewtonSchulz(polar.JORDAN)
    rules: Mapping[str, Callable[[Tensor, int], Tensor]] = {
        "exact": lambda w, _: ALPHA * exact(w),
        "Jordan": lambda w, _: ALPHA * jordan(w),
        "scaled by ‖G‖∗/n": lambda w, _: norms.Spectral().sharp(w) / size,
        "exact, vanishing rate": lambda w, t: ALPHA * (1 - t / GRID_STEPS) * exact(w),
    }
    losses = {}
    for name, rule in rules.items():
        w, found = start, []
        for t in range(GRID_STEPS):
            found.append(float(w.square().sum() / 2))
            w = w - rule(w, t)
        losses[name] = found
    sigma = torch.linalg.svdvals(start)
    off = sigma - (sigma / ALPHA).round() * ALPHA
    return losses, float(off.square().sum() / 2)


def draw_grid() -> bytes:
    """The losses of four step rules on half the squared norm, as PNG."""
    figure = figures.new_figure(3.9)
    axes = figure.subplots()
    losses, floor = grid_losses()
    colours = (figures.ORANGE, figures.BLUE, figures.GREEN, figures.PURPLE)
    for (name, values), colour in zip(losses.items(), colours, strict=True):
        axes.semilogy(values, color=colour, linewidth=1.6, label=name)
    axes.axhline(floor, color=figures.INK, linewidth=1.2, linestyle=(0, (4, 3)))
    axes.text(14, 0.7 * floor, "floor of the grid", va="top")
    axes.set_ylim(1e-8, None)
    axes.set_xlim(0, GRID_STEPS)
    axes.set_xlabel("steps")
    axes.set_ylabel("loss ½‖W‖²")
    axes.minorticks_off()
    axes.legend(title="step", ncols=2, alignment="left")
    figures.graph(axes)
    return figures.png(figure)
