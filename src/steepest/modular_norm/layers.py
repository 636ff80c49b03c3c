"""The norms and sensitivities of torch's modules that are known by their type."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any, TypeAlias

from torch import nn

from steepest._common.errors import invalid
from steepest._common.torch_modules import CONVS, EMBEDDINGS, NORMALIZATIONS
from steepest.norms import Norm
from steepest.routing.layer_norms import LAYER_NORMS, layer_kind

# A layer: what Modula, the code of Large et al., arXiv 2405.14813, gives a Linear, an Embedding and
# a Conv2d.
LAYER_MASS = 1.0
# A bias or a gain: a tenth of a layer. This library's choice: the networks of the papers have
# neither. All of those of a network together then take less than a tenth of what its layers move.
VECTOR_MASS = 0.1

# A number, or how to read it off the module.
Told: TypeAlias = float | Callable[[Any], float | None]

# The largest |f'| of a function of single entries, which is its sensitivity in every norm of
# entries. A test finds each of them again numerically.
_ENTRYWISE: dict[type[nn.Module], Told] = {
    **dict.fromkeys(
        (nn.Identity, nn.ReLU, nn.ReLU6, nn.Tanh, nn.Softplus, nn.Softsign, nn.Hardtanh), 1.0
    ),
    **dict.fromkeys((nn.LogSigmoid, nn.Tanhshrink, nn.Softshrink, nn.CELU), 1.0),
    nn.Sigmoid: 1 / 4,
    nn.Hardsigmoid: 1 / 6,
    nn.Hardswish: 1.5,
    nn.LeakyReLU: lambda m: max(1.0, abs(m.negative_slope)),
    nn.ELU: lambda m: max(1.0, abs(m.alpha)),
    # Scale times alpha (Klambauer et al., arXiv 1706.02515): the slope left of 0.
    nn.SELU: 1.0507009873554805 * 1.6732632423543772,
    # Φ(x) + x·φ(x) is largest at √2; the approximation with tanh has its maximum near 1.4185.
    nn.GELU: lambda m: (
        (1 + math.erf(1)) / 2 + 1 / (math.e * math.sqrt(math.pi))
        if m.approximate == "none"
        else 1.128994
    ),
    # σ(x)·(1 + x·(1 − σ(x))) is largest near 2.3994.
    nn.SiLU: 1.09984,
    nn.Mish: 1.088499,
    # A gain of its own for x < 0, in norm at most 1.
    nn.PReLU: 1.0,
}

# What moves entries or averages them cannot amplify the largest RMS of a position. The largest of a
# window does not amplify the largest entry; in RMS over channels it may, by at most √window, if
# every channel takes another place. Dropout is counted as in evaluation.
_MOVING: dict[type[nn.Module], Told] = {
    **dict.fromkeys((nn.Flatten, nn.Dropout, nn.Dropout1d, nn.Dropout2d, nn.Dropout3d), 1.0),
    **dict.fromkeys(
        (nn.AvgPool1d, nn.AdaptiveAvgPool1d, nn.AdaptiveAvgPool2d, nn.AdaptiveAvgPool3d), 1.0
    ),
    # With a divisor of its own it is not a mean.
    **dict.fromkeys(
        (nn.AvgPool2d, nn.AvgPool3d), lambda m: 1.0 if m.divisor_override is None else None
    ),
    **dict.fromkeys((nn.MaxPool1d, nn.MaxPool2d, nn.MaxPool3d), 1.0),
    **dict.fromkeys((nn.AdaptiveMaxPool1d, nn.AdaptiveMaxPool2d, nn.AdaptiveMaxPool3d), 1.0),
}

# With weights of norm at most 1: the norms below are operator norms. The derivative of x/RMS(x) is
# a projection over RMS(x), so a normalisation has sensitivity 1 for inputs of RMS 1 (without their
# mean), and less for larger ones.
_WEIGHTED: dict[type[nn.Module], Told] = dict.fromkeys(
    (nn.Linear, *CONVS, *EMBEDDINGS, *NORMALIZATIONS), 1.0
)

SENSITIVITIES: dict[type[nn.Module], Told] = {**_ENTRYWISE, **_MOVING, **_WEIGHTED}
"""The sensitivity of a module by its type, or a function that reads it off the module."""


def is_a(module: nn.Module, *types: type[nn.Module]) -> bool:
    """Whether a module computes what a type does: a subclass with its own forward may not."""
    return any(isinstance(module, t) and type(module).forward is t.forward for t in types)


def sensitivity_of(module: nn.Module) -> float | None:
    """The sensitivity that the type tells, None for an unknown one."""
    for kind, given in SENSITIVITIES.items():
        if is_a(module, kind):
            return given(module) if callable(given) else given
    return None


def atom_of(module: nn.Module, leaf: str, name: str) -> tuple[Norm, float] | None:
    """Norm and mass of a module's own parameter, None where the type does not tell.

    The norms are those of `steepest.routing.layer_norms.LAYER_NORMS`.

    Raises:
        ValueError: the type is known, its setting is not covered.
    """
    known = is_a(module, nn.Linear, nn.PReLU, *CONVS, *EMBEDDINGS, *NORMALIZATIONS)
    if leaf not in ("weight", "bias") or not known:
        return None
    shape = getattr(module, leaf).shape
    kind = layer_kind(module, leaf, shape)
    mode = getattr(module, "mode", "mean")
    if kind == "embedding" and mode != "mean":
        raise invalid(
            "flow",
            name,
            f"an EmbeddingBag with mode={mode!r} puts several rows into one: give their largest "
            f"number k, flow={{{name!r}: Atom('weight', norms.Scaled(norms.RowNorm(), "
            "norms.ShapeFactor(numerator=k, cols=-0.5)))}",
        )
    if kind == "grouped":
        raise invalid(
            "flow",
            name,
            f"a convolution with groups={module.groups} of several channels has no norm here: pass "
            f"flow={{{name!r}: Chain(Atom('weight', a norm), …)}} or masses={{'{name}.*': 0}}",
        )
    norm = LAYER_NORMS[kind].norm("modular", shape)
    mass = VECTOR_MASS if kind in ("bias", "gain") else LAYER_MASS
    return None if norm is None else (norm, mass)
