"""The settings of a run: model, optimizers and length, as frozen values that go to JSON."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass, field, fields
from typing import Any

from steepest._common.errors import invalid
from steepest._common.norm_names import norm_words
from steepest.apps.train.parallel.mesh import NONE, check_parallel

TYPES = ("float32", "bfloat16", "float64")
SCHEDULES = ("linear", "cosine", "constant")


def positive(name: str, value: int) -> None:
    """Raise unless `value` is a whole number of at least 1."""
    if value < 1:
        raise invalid(name, value, "give a whole number >= 1")


def not_negative(name: str, value: float) -> None:
    """Raise unless `value` is a finite number of at least 0."""
    if not (math.isfinite(value) and value >= 0):
        raise invalid(name, value, "give a finite number >= 0")


def choose(name: str, value: str, known: Iterable[str]) -> None:
    """Raise unless `value` is one of the known ones."""
    if value not in known:
        raise invalid(name, value, f"choose from {', '.join(known)}")


@dataclass(frozen=True, kw_only=True)
class ModelConfig:
    """The size of the GPT.

    Args:
        layers: transformer blocks.
        width: length of the residual stream, a multiple of `heads`.
        heads: attention heads in each block.
        context: characters that a prediction may look back on.

    Raises:
        ValueError: a size below 1, or a width that the heads do not divide.
    """

    layers: int = 4
    width: int = 128
    heads: int = 4
    context: int = 128

    def __post_init__(self) -> None:
        for f in fields(self):
            positive(f.name, getattr(self, f.name))
        if self.width % self.heads:
            raise invalid("width", self.width, f"give a multiple of heads={self.heads}")


@dataclass(frozen=True, kw_only=True)
class OptimizerConfig:
    """The settings of one optimizer that a user tunes.

    Args:
        lr: peak learning rate; for Muon the spectral norm of an update before its shape factor.
        weight_decay: the decoupled decay; a step shrinks a weight by 1 − lr·weight_decay.
        adamw_lr: peak learning rate of AdamW on embeddings, head and gains, for the optimizers
            that treat only the matrices themselves; None for the others.
        norm: name of the norm, for the optimizer that takes any; None for the others.

    Raises:
        ValueError: a setting that is negative, infinite or NaN, or an unknown norm.
    """

    lr: float
    weight_decay: float
    adamw_lr: float | None = None
    norm: str | None = None

    def __post_init__(self) -> None:
        for name in ("lr", "weight_decay", "adamw_lr"):
            value = getattr(self, name)
            if value is not None:
                not_negative(name, value)
        if self.norm is not None:
            norm_words(self.norm)


@dataclass(frozen=True, kw_only=True)
class Config:
    """Everything that fixes the result of a run; a run folder stores it as JSON.

    Args:
        optimizers: the optimizers to compare, in order, each with its settings.
        seeds: the seeds with each of which every optimizer is trained once; a seed fixes the first
            weights and the order of the data.
        model: the size of the GPT.
        data: absolute path of a text file or folder; None for the text that comes with the
            package.
        batch: windows of text in a step.
        steps: optimizer steps.
        warmup: the number of steps of linear warm-up; None for 20, or a tenth of a run shorter than
            200 steps.
        schedule: the way of the learning rate after the warm-up, one of `SCHEDULES`.
        device: a torch device, such as "cpu" or "cuda:0".
        dtype: one of `TYPES`. With bfloat16 the forward pass is autocast, and parameters and
            optimizer state stay in float32.
        eval_every: the number of steps from one evaluation to the next.
        eval_windows: the number of fixed validation windows, spread evenly.
        checkpoint_every: the number of steps from one checkpoint to the next.
        spectra: whether evaluations show the balls of weight decay, at the price of SVDs.
        monitor_every: steps from one look of the monitor at every layer to the next; 0 for none.
        parallel: the way in which the processes of torchrun share the work, one of `PARALLEL`. No
            loss depends on it beyond rounding, and a run may go on in another way.

    Raises:
        ValueError: a value out of its range; the message names it and its remedy.
    """

    optimizers: Mapping[str, OptimizerConfig]
    seeds: tuple[int, ...] = (0,)
    model: ModelConfig = field(default_factory=ModelConfig)
    data: str | None = None
    batch: int = 16
    steps: int = 500
    warmup: int | None = None
    schedule: str = "linear"
    device: str = "cpu"
    dtype: str = "float32"
    eval_every: int = 25
    eval_windows: int = 256
    checkpoint_every: int = 100
    spectra: bool = True
    monitor_every: int = 100
    parallel: str = NONE

    def __post_init__(self) -> None:
        for name in ("batch", "steps", "eval_every", "eval_windows", "checkpoint_every"):
            positive(name, getattr(self, name))
        if self.monitor_every < 0:
            raise invalid("monitor_every", self.monitor_every, "give a whole number >= 0")
        if not self.optimizers:
            raise invalid("optimizers", dict(self.optimizers), "name at least one")
        distinct = len(set(self.seeds)) == len(self.seeds) > 0
        if not distinct or not all(0 <= s < 2**63 for s in self.seeds):
            raise invalid("seed", self.seeds, "give whole numbers from 0 to 2^63 - 1, each once")
        if self.warmup is not None and not 0 <= self.warmup <= self.steps:
            raise invalid("warmup", self.warmup, f"give 0…{self.steps}, the number of steps")
        choose("schedule", self.schedule, SCHEDULES)
        choose("dtype", self.dtype, TYPES)
        check_parallel(self.parallel)

    @property
    def warmup_steps(self) -> int:
        """The warm-up in steps, with the default filled in."""
        return min(20, self.steps // 10) if self.warmup is None else self.warmup

    def to_json(self) -> dict[str, Any]:
        """Plain data, the inverse of `from_json`."""
        return asdict(self)

    @classmethod
    def from_json(cls, data: Mapping[str, Any]) -> Config:
        """The configuration that `to_json` wrote.

        Raises:
            KeyError, TypeError, ValueError: `data` is something else.

        Examples:
            >>> config = Config(optimizers={"sgd": OptimizerConfig(lr=0.1, weight_decay=0.0)})
            >>> Config.from_json(config.to_json()) == config
            True
        """
        nested = {
            "model": ModelConfig(**data["model"]),
            "optimizers": {k: OptimizerConfig(**v) for k, v in data["optimizers"].items()},
            "seeds": tuple(data["seeds"]),
        }
        return cls(**{**data, **nested})
