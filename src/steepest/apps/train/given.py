"""The settings of a run, made from the flags that were given without importing torch."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

from steepest._common.errors import invalid
from steepest._common.norm_names import norm_words
from steepest.apps._flags import FLAG
from steepest.apps._folder import user_path
from steepest.apps.train.norms import LEARNING_RATES
from steepest.apps.train.settings import Config, ModelConfig, OptimizerConfig
from steepest.apps.train.tuned import TUNED

DEFAULT = Config(optimizers={name: TUNED[name] for name in ("muon", "adamw")})
ANY_NORM = "descent"
SETTINGS = ("lr", "weight_decay", "adamw_lr")
MODEL = ("layers", "width", "heads", "context")
PLAIN = (
    "batch",
    "steps",
    "warmup",
    "schedule",
    "device",
    "dtype",
    "eval_every",
    "eval_windows",
    "checkpoint_every",
    "spectra",
    "monitor_every",
    "parallel",
)


def _number(flag: str, value: str, text: str, names: Sequence[str]) -> float:
    """The number in a value such as `muon=0.02`."""
    try:
        number = float(text)
    except ValueError:
        name, separator, rest = text.replace("=", ":").partition(":")
        if separator and name in names:
            raise invalid(flag, value, f"write {FLAG} {name}={rest or 'NUMBER'}") from None
        form = f"{FLAG} {names[0]}=0.01" if len(names) > 1 else f"{FLAG} 0.01"
        wrong = f"{text} is not a number" if text else "the number is missing"
        raise invalid(flag, value, f"{wrong}; write {form}") from None
    if not (math.isfinite(number) and number >= 0):
        raise invalid(flag, value, "give a finite number >= 0")
    return number


def per_optimizer(flag: str, values: Sequence[str], names: Sequence[str]) -> dict[str, float]:
    """The values of a flag that each optimizer has for itself.

    Raises:
        ValueError: a value without a name while there are several optimizers, a name that is not
            part of the run, or no number.

    Examples:
        >>> per_optimizer("lr", ["muon=0.02", "adamw=2e-3"], ["muon", "adamw"])
        {'muon': 0.02, 'adamw': 0.002}
        >>> per_optimizer("lr", ["0.1"], ["sgd"])
        {'sgd': 0.1}
    """
    found: dict[str, float] = {}
    for value in values:
        name, equals, number = value.rpartition("=")
        name = name.strip().lower()
        if not equals:
            given = _number(flag, value, number, names)
            if len(names) > 1:
                each = " or ".join(f"{FLAG} {name}={value}" for name in names)
                raise invalid(flag, value, f"say for which optimizer: write {each}")
            name = names[0]
        else:
            if name not in names:
                remedy = f"this run trains only {', '.join(names)}"
                if name in TUNED:
                    remedy += f"; add --optimizer {name}, or leave this out"
                raise invalid(flag, value, remedy)
            given = _number(flag, value, number, names)
        found[name] = given
    return found


def apply(given: Mapping[str, Any], base: Config) -> Config:
    """`base` with the flags that were given.

    Raises:
        ValueError: a flag has a value that the run cannot take.
    """
    changes: dict[str, Any] = {k: given[k] for k in PLAIN if k in given}
    if any(k in given for k in MODEL):
        sizes = {k: given.get(k, getattr(base.model, k)) for k in MODEL}
        changes["model"] = ModelConfig(**sizes)
    if "data" in given:
        changes["data"] = str(user_path(given["data"], argument="data"))
    if "seed" in given:
        changes["seeds"] = tuple(given["seed"])
    changes["optimizers"] = _optimizers(given, base)
    return replace(base, **changes)


def _optimizers(given: Mapping[str, Any], base: Config) -> dict[str, OptimizerConfig]:
    names = list(dict.fromkeys(given.get("optimizer", base.optimizers)))
    if "norm" in given and "optimizer" not in given and ANY_NORM not in names:
        names = [ANY_NORM, "adamw"]
    chosen = {n: base.optimizers[n] if n in base.optimizers else TUNED[n] for n in names}
    for flag in SETTINGS:
        for name, value in per_optimizer(flag, given.get(flag, ()), names).items():
            if getattr(chosen[name], flag) is None:
                raise invalid(
                    flag, f"{name}={value:g}", f"{name} has none: it treats all parameters alike"
                )
            changed: dict[str, Any] = {flag: value}
            chosen[name] = replace(chosen[name], **changed)
    if "norm" in given:
        if ANY_NORM not in chosen:
            raise invalid(
                "norm", given["norm"], f"only {ANY_NORM} takes a norm: add --optimizer {ANY_NORM}"
            )
        chosen[ANY_NORM] = _in_norm(given["norm"], given.get("lr", ()), names, chosen[ANY_NORM])
    for name, settings in chosen.items():
        if settings.lr * settings.weight_decay > 1:
            raise invalid(
                "weight_decay",
                f"{name}={settings.weight_decay:g}",
                f"with --lr {name}={settings.lr:g} a step would decay weights past zero: keep "
                f"their product at most 1, so this one at most {1 / settings.lr:g}",
            )
    return chosen


def _in_norm(
    norm: str, lrs: Sequence[str], names: Sequence[str], settings: OptimizerConfig
) -> OptimizerConfig:
    """The settings in this norm, at the learning rate that was given or tuned for it."""
    if norm == settings.norm or ANY_NORM in per_optimizer("lr", lrs, names):
        return replace(settings, norm=norm)
    if norm not in LEARNING_RATES:
        norm_words(norm)
        raise invalid("norm", norm, f"no learning rate is known for it: add --lr {ANY_NORM}=VALUE")
    return replace(settings, norm=norm, lr=LEARNING_RATES[norm])
