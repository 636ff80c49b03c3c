"""The options that every optimizer takes, and the keys that its parameter groups hold."""

from __future__ import annotations

from collections.abc import Mapping
from difflib import get_close_matches
from inspect import Parameter, signature
from typing import Any, TypedDict

import torch
from torch import Tensor

from steepest._common.errors import invalid
from steepest.optim.choices import (
    SLOTS,
    Constraint,
    Decay,
    NonFinite,
    Scale,
    ShapeRule,
    Sharpness,
    Unrouted,
)
from steepest.retractions import Retraction
from steepest.routing.rules import Kind
from steepest.transforms import Transform

# KellerJordan/Muon, muon.py: learning rate and betas of the AdamW half of MuonWithAuxAdam.
ADAMW_LR = 3e-4
ADAMW_BETAS = (0.9, 0.95)
ADAMW_EPS = 1e-8


KINDS: tuple[Kind, ...] = ("embedding", "head", "vector")


class StepOptions(TypedDict, total=False):
    """The options that every optimizer of the library takes by keyword.

    Attributes:
        decay: The kind of decoupled decay, for directions d and steps of length lr·length:
            "explicit", W ← (1 − lr·weight_decay)·W − lr·length·d; "implicit",
            W ← (W − lr·length·d)/(1 + lr·weight_decay); or "cautious", which decays only entries
            with d·W ≥ 0, and has no ball. "explicit" by default.
        before: A map of the momentum average before the duality map, of
            `steepest.transforms`; for matrices, and steps of a length of their own. None,
            the default, is no map.
        after: A map of the direction after the duality map, likewise.
        retraction: The way in which weights take a step, of `steepest.retractions`; None, the
            default, is decay and a sum.
        constraint: "project" projects every parameter on the ball that its decay leads to after
            each step, exactly, one by one; None, the default, leaves that to the decay, which gets
            there exponentially: the distance shrinks by 1 − lr·weight_decay.
        nonfinite: The answer to NaN or inf in a gradient. "skip", the default, leaves the parameter
            as it is, without waiting for the device; "raise" names it, waiting in every step.
        maximize: Whether to ascend instead of descend.
        momentum_dtype: Type of the momentum buffers; None, the default, means the parameter's. Use
            torch.float32 with bfloat16 parameters for an average that does not stall. torch.int8
            keeps the averages of large parameters in 8 bits between steps, with a unit for each
            block of a row, and computes in single precision at least. AdamW's buffers have the type
            of their parameter, as torch's have.
        exchange_dtype: Type in which averages and directions travel between ranks, where one rank
            computes the direction of a matrix for all. None, the default, rounds nothing that one
            process does not round: directions travel in single precision at least, and so do
            averages, unless they are momentum in half precision as it is kept. torch.bfloat16
            halves the bytes, and rounds the entries of a step to 2⁻⁹. It has no effect on one
            process or on complex numbers, and is no part of `state_dict`, as the number of ranks
            is none.
        max_batch_bytes: Bound on one stack of matrices, in bytes; a single parameter may exceed it.
            None, the default, means 16 MiB in the memory of the host and 512 MiB on an accelerator.
            Over the parameters, their momentum and AdamW's state a step needs at most ten times its
            largest stack, with the default polar method.
        overrides: Assignments of parameters of a module by pattern, as in `steepest.route`.
        heads: Numbers of attention heads of a module, as in `steepest.route`.
        strict: Whether a guess of the routing is an error, as in `steepest.route`.
        unrouted: "adamw" for a framework that gives parameters without their module and without
            names: two axes are taken as a matrix, four or five as a convolution kernel, and AdamW
            gets everything else. Embeddings and output heads are not told by their shapes. None,
            the default, makes a parameter that is not a matrix an error. Names always route.
        embedding_lr: Learning rate of the embeddings of a module; None, the default, is `adamw_lr`.
        head_lr: Learning rate of its output heads; None, the default, is `adamw_lr`.
        vector_lr: Learning rate of its biases, gains and other vectors; None is `adamw_lr`.
        adamw_lr: Learning rate of AdamW for groups with `adamw=True`; None, the default, is 3e-4.
        adamw_betas: AdamW's betas; (0.9, 0.95) by default.
        adamw_eps: AdamW's eps; 1e-8 by default.
        adamw_weight_decay: AdamW's decoupled decay for embeddings, heads and your `adamw` groups; 0
            by default. A module's biases, gains and other vectors are never decayed.
    """

    decay: Decay
    before: Transform | None
    after: Transform | None
    retraction: Retraction | None
    constraint: Constraint
    nonfinite: NonFinite
    maximize: bool
    momentum_dtype: torch.dtype | None
    exchange_dtype: torch.dtype | None
    max_batch_bytes: int | None
    overrides: Mapping[str, Any]
    heads: Any
    strict: bool
    unrouted: Unrouted
    embedding_lr: float | Tensor | None
    head_lr: float | Tensor | None
    vector_lr: float | Tensor | None
    adamw_lr: float | Tensor | None
    adamw_betas: tuple[float, float]
    adamw_eps: float
    adamw_weight_decay: float


class Group(TypedDict, total=False):
    """The keys of a parameter group; an optimizer's own keys are in its groups alone.

    Their values are plain data beside the parameters: numbers, text, tensors of one number, and
    types. A group that is given to an optimizer may also hold `views`, which it keeps for itself.

    Attributes:
        params: The parameters.
        param_names: Their names, if they were given.
        adamw: Whether AdamW steps the group.
        lr: The learning rate.
        first_lr: The learning rate with which the group was made.
        weight_decay: The decoupled decay.
        momentum: Weight of the past in the average.
        nesterov: Whether the average looks one step ahead.
        betas: The two weights of the average; AdamW's in a group of AdamW.
        eps: AdamW's eps; in a group of `Muon` torch's, which has no use.
        decay: The kind of decay.
        before: The text of the map before the duality map, if there is one; an object may be put in
            its place.
        after: The text of the map after it, in the same way.
        retraction: The text of the way in which weights take a step, in the same way.
        constraint: "project" or None.
        nonfinite: "skip" or "raise".
        maximize: Whether to ascend.
        momentum_dtype: Type of the momentum buffers; None means the parameter's, and torch.int8
            blocks of 8 bits.
        norm: The text of the norm, for `SteepestDescent`; an object may be put in its place.
        scale: The scale of a step, for `SteepestDescent`.
        sharpness: The sharpness λ, for `SteepestDescent`.
        estimate: The estimated sharpness, or the last length of a line search.
        known: Whether the estimate rests on a measured ratio.
        K: The text of the convex map, for `LionK`; an object may be put in its place.
        polar: The text of the polar method of `Muon`, in whose place an object may be put; None for
            the Newton–Schulz iteration of `ns_*`.
        ns_coefficients: The quintic of torch's Newton–Schulz iteration.
        ns_steps: The number of its steps.
        adjust_lr_fn: The factor of `Muon`'s learning rate.
        lora_scale: The factor of the product of two factors, for `LoRAMuon`.
        cross_term: Whether its metric counts the product of both changes.
    """

    params: list[Tensor]
    param_names: list[str]
    adamw: bool
    lr: float | Tensor
    first_lr: float | Tensor
    weight_decay: float | Tensor
    momentum: float
    nesterov: bool
    betas: tuple[float, float]
    eps: float
    decay: Decay
    before: Any
    after: Any
    retraction: Any
    constraint: Constraint
    nonfinite: NonFinite
    maximize: bool
    momentum_dtype: torch.dtype | None
    norm: Any
    scale: Scale
    sharpness: Sharpness | None
    estimate: Any
    known: Any
    K: Any
    polar: Any
    ns_coefficients: tuple[float, float, float]
    ns_steps: int
    adjust_lr_fn: ShapeRule
    lora_scale: float
    cross_term: bool


RENAMED = {
    "past": "betas",
    "rest": "adamw",
    **{f"rest_{key}": f"adamw_{key}" for key in ("lr", "betas", "eps", "weight_decay")},
}
"""Arguments and keys of a group that have another name now: ignored, one would change training."""


def check_options(optimizer: type, options: Mapping[str, object], known: Any) -> None:
    """Raise for a keyword that an optimizer does not take.

    Args:
        optimizer: The class of the optimizer.
        options: The keywords that were given.
        known: The typed dictionary of those that it takes.

    Raises:
        TypeError: there is another one.
    """
    for name in options:
        if name not in known.__optional_keys__:
            kinds = (Parameter.POSITIONAL_OR_KEYWORD, Parameter.KEYWORD_ONLY)
            parameters = signature(optimizer).parameters.values()
            own = [p.name for p in parameters if p.kind in kinds]
            near = get_close_matches(name, [*own, *known.__optional_keys__], n=1, cutoff=0.6)
            told = f"it is called {RENAMED[name]} now" if name in RENAMED else ""
            meant = f"did you mean {near[0]}? " if near else ""
            takes = ", ".join([*own, *sorted(known.__optional_keys__ - {*own})])
            raise TypeError(
                f"{optimizer.__name__}() got an unexpected keyword argument {name!r}: "
                f"{told or f'{meant}it takes {takes}'}"
            )


EXCHANGED = (torch.bfloat16, torch.float32)
"""Types in which tensors may travel."""


def check_exchange(dtype: torch.dtype | None) -> torch.dtype | None:
    """The `exchange_dtype` that is asked for.

    Raises:
        ValueError: a type of a smaller range than the numbers have, or wider than they are.
    """
    if dtype is not None and dtype not in EXCHANGED:
        raise invalid(
            "exchange_dtype",
            dtype,
            "give torch.bfloat16, or None to round nothing on the way; torch.float32 is for "
            "parameters in double precision, and other types overflow or save nothing",
        )
    return dtype


def routing_options(options: StepOptions) -> dict[str, Any]:
    """The options that `steepest.route` takes with a module."""
    given: dict[str, Any] = dict(options)
    return {key: given[key] for key in ("overrides", "heads", "strict") if key in given}


def kind_rates(options: StepOptions) -> dict[Kind, float | Tensor]:
    """The learning rates of kinds of parameters, of those that have their own."""
    given: dict[str, Any] = dict(options)
    rates = {kind: given.get(f"{kind}_lr") for kind in KINDS}
    return {kind: rate for kind, rate in rates.items() if rate is not None}


def group_defaults(options: StepOptions) -> dict[str, Any]:
    """The values of the options that a group of matrices holds."""
    given: dict[str, Any] = dict(options)
    return {
        "decay": options.get("decay", "explicit"),
        "constraint": options.get("constraint"),
        "nonfinite": options.get("nonfinite", "skip"),
        "maximize": options.get("maximize", False),
        "momentum_dtype": options.get("momentum_dtype"),
        **{key: given[key] for key in SLOTS if given.get(key) is not None},
    }


def adamw_defaults(options: StepOptions) -> dict[str, Any]:
    """The values of a group with `adamw=True` that differ from the optimizer's own."""
    lr = options.get("adamw_lr")
    return {
        "lr": ADAMW_LR if lr is None else lr,
        "betas": options.get("adamw_betas", ADAMW_BETAS),
        "eps": options.get("adamw_eps", ADAMW_EPS),
        "weight_decay": options.get("adamw_weight_decay", 0.0),
    }
