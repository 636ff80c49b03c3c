"""Types of the values that optimizers take: what options may be, what a closure returns."""

from __future__ import annotations

from typing import Literal

from torch import Tensor

Loss = float | Tensor
"""The result of a closure: a tensor of one number, or a number."""

Scale = Literal["unit", "dual", "linesearch"]
"""Length of a step of `SteepestDescent`: "unit", of norm `lr`; "dual", the dual norm of the average
over the sharpness; "linesearch", found by evaluating the loss."""

Sharpness = float | Literal["estimate"]
"""The smoothness constant λ > 0 of the loss in the norm, or "estimate", from the last steps."""

Decay = Literal["explicit", "implicit", "cautious"]
"""Kind of decoupled weight decay: "explicit", before the step; "implicit", a division after it;
"cautious", only of entries that the step moves towards zero."""

DECAYS: tuple[Decay, ...] = ("explicit", "implicit", "cautious")

Constraint = Literal["project"] | None
"""Whether weights are projected after each step on the ball that their decay leads to: "project";
None leaves that to the decay."""

NonFinite = Literal["skip", "raise"]
"""Answer to NaN or inf in a gradient: "skip" leaves the parameter as it is, "raise" names it."""

Unrouted = Literal["adamw"] | None
"""Reading of parameters without names: "adamw", by their shapes, with AdamW for what is not a
matrix; None makes a parameter that is not a matrix an error."""

ShapeRule = Literal["original", "match_rms_adamw", "spectral_unclamped"] | None
"""Factor of Muon's learning rate for an m × n matrix: "original" or None, √max(1, m/n);
"match_rms_adamw", 0.2·√max(m, n); "spectral_unclamped", √(m/n)."""

SLOTS = ("before", "after", "retraction")
"""Keys of a group whose values are maps beside the duality map, and the way in which weights take
a step; they are there only if they are used."""

SHAPE_RULES: tuple[ShapeRule, ...] = ("original", "match_rms_adamw", "spectral_unclamped", None)

Convention = Literal["original", "match_rms_adamw", "spectral_unclamped", "scion", "modular"]
"""Meaning of a learning rate: that of `Muon` under its `adjust_lr_fn`, of `Scion`, or of a step in
the modular norm."""

DecayScaling = Literal["1/width", "1/width²", "1/tokens", "constant"]
"""The number that `lr·weight_decay` is proportional to, at one size of the batch."""

AdamWScaling = Literal["muP", "1/√width"]
"""How the learning rates of AdamW follow the width: "muP", of output heads alone, as 1/width;
"1/√width", of heads and embeddings."""
