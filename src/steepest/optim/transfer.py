"""Learning rates and weight decay for another size of a model, from those of a tuned one."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from steepest._common.checks import is_positive, not_negative, positive
from steepest._common.errors import invalid
from steepest._common.text import table
from steepest.optim.choices import SHAPE_RULES, AdamWScaling, Convention, DecayScaling
from steepest.optim.options import ADAMW_LR

Powers = dict[str, float]
"""The power of each ratio in a factor: of "width", "depth", "batch" and "tokens"."""

# Of the RMS → RMS norm of a step at one lr, for matrices of which both sides grow: the factors of
# `Muon` are √(out/in) and 0.2·√max(out, in), times √(in/out) for the norm.
STEP_BY_WIDTH: Mapping[Convention, float] = {
    "original": 0.0,
    "spectral_unclamped": 0.0,
    "match_rms_adamw": 0.5,
    "scion": 0.0,
    "modular": 0.0,
}

# (Embeddings, heads). Yang et al., arXiv 2203.03466, table 3, and the code of
# Qiu et al., arXiv 2512.05620: 1/in for Adam. karpathy/nanochat, gpt.py: (width/768)^-½ for both.
ADAMW_BY_WIDTH: Mapping[AdamWScaling, tuple[float, float]] = {
    "muP": (0.0, -1.0),
    "1/√width": (-0.5, -0.5),
}

# Of lr·weight_decay at one batch; the sources are those of `Transfer`.
DECAY: Mapping[DecayScaling, Powers] = {
    "1/width": {"width": -1.0},
    "1/width²": {"width": -2.0},
    "1/tokens": {"tokens": -1.0},
    "constant": {},
}

SIZES = ("width", "depth", "batch", "steps")
"""The sizes that may change, each a pair (from, to)."""

RULES: Mapping[str, Mapping[Any, Any]] = {
    "convention": STEP_BY_WIDTH,
    "decay": DECAY,
    "adamw": ADAMW_BY_WIDTH,
}


@dataclass(frozen=True, kw_only=True)
class Transfer:
    """Learning rates and decay for another width, depth, batch or number of steps.

        lr                × width^−p · depth^(branches − 1) · batch^½ · tokens^−horizon
        lr·weight_decay   × batch · decay
        embedding_lr      × batch^½ · tokens^−horizon
        head_lr           × width^−1 · batch^½ · tokens^−horizon
        vector_lr         × depth^(branches − 1) · batch^½ · tokens^−horizon

    where each word is a ratio, to/from, and tokens = batch·steps. p is ½ for "match_rms_adamw" and
    0 for every other convention, so that the RMS → RMS norm of a step stays. It is where to begin
    at the new size; the sources agree on little but the width:

    - Width. One lr serves all widths if a step has one RMS → RMS norm. It has for
      "spectral_unclamped" and "scion", and for "original" where both sides of a matrix grow, or
      its outputs. Under "match_rms_adamw" the norm grows like √width; Megatron-LM leaves lr alone
      there, and warns. Of a matrix whose inputs stay, such as a patch embedding, it does not grow.
      The start has to follow too: hidden weights of variance 1/inputs, up to a factor, and an
      output head that begins at 0 or with entries that fall like 1/width, not 1/√width.
    - Depth. `branches` is the power of 1/depth by which the model multiplies its residual branches.
      With 1, the default, lr stays. A network that normalises what enters its branches and its head
      can be read as such, up to the scale of its stream. With ½, lr falls like 1/√depth. The
      modular norm has the depth in it.
    - Decay. "1/width", the default, was nearly optimal with compute-optimal numbers of tokens.
      nanochat measured "1/width²", where depth grew with the width and tokens with the parameters,
      and has "1/tokens" now: weights are an average over one share of the run. "constant" is what
      CompleteP has at one number of tokens. With the batch, each keeps the tokens of that average.
    - Batch. √batch is derived for Adam, and for any norm while noise dominates; for Muon nanochat
      calls it an assumption.
    - Tokens. `horizon` 0, the default, leaves lr alone. 0.32 was measured for AdamW with one decay,
      and for Muon on a sphere, without decay. With "1/tokens" the same would count twice.
    - AdamW. "muP" leaves embeddings and vectors alone; nanochat has "1/√width" for embeddings and
      heads. If the model multiplies its logits by 1/width, the head needs no correction.

    Args:
        lr: The learning rate of the tuned model, in its convention.
        weight_decay: The decay of the tuned model.
        adamw_lr: AdamW's learning rate there; None means what `Muon` takes: 3e-4, or `lr` with
            "match_rms_adamw".
        width: The widths of the tuned model and of the new one, (from, to). What is not given does
            not change, here and below.
        depth: Their numbers of layers.
        batch: Their tokens or samples per step.
        steps: Their numbers of steps.
        convention: The meaning of `lr`: the `adjust_lr_fn` of `Muon`; "scion"; or "modular", for
            `SteepestDescent` in the modular norm.
        branches: The power of 1/depth that multiplies the residual branches of the model.
        decay: The number that lr·weight_decay is proportional to, at one batch.
        horizon: The power of the tokens by which learning rates fall.
        adamw: How AdamW's learning rates follow the width.

    Raises:
        ValueError: a value out of range, or a rule that there is not.

    Examples:
        >>> print(Transfer(lr=0.02, weight_decay=0.1, adamw_lr=4e-3, width=(256, 1024)))
        option         from     to  factor
        lr             0.02   0.02  stays
        weight_decay    0.1  0.025  width^-1
        embedding_lr  0.004  0.004  stays
        head_lr       0.004  0.001  width^-1
        vector_lr     0.004  0.004  stays
        >>> wider = Transfer(
        ...     lr=1e-3, weight_decay=0.1, width=(256, 1024), convention="match_rms_adamw"
        ... )
        >>> wider.options["lr"], wider.options["weight_decay"]
        (0.0005, 0.05)

    Sources:
        Width: Yang, Simon & Bernstein, arXiv 2310.17813; Large et al., arXiv 2405.14813; Qiu et
        al., arXiv 2512.05620, whose code multiplies Muon's lr by √(out/in) and AdamW's by 1/in; Xu,
        Li & Lu, arXiv 2603.09952, who find that the smoothness in Muon's norm can grow like √width
        in the worst case; NVIDIA/Megatron-LM, pull request 3715. AdamW: Yang et al., arXiv
        2203.03466; karpathy/nanochat. Depth: Dey et al., arXiv 2505.01618 (CompleteP), for AdamW;
        the code of Qiu et al., for Muon; NVIDIA/Megatron-LM, pull request 4999; Yang et al., arXiv
        2310.02244 (½). Decay: Qiu et al.; karpathy/nanochat, dev/LOG.md, 2026-01-10 (an exponent of
        1.97), and scripts/base_train.py; Wang & Aitchison, arXiv 2405.13698. Batch: Malladi et al.,
        arXiv 2205.10287; Cesista 2025, https://leloykun.github.io/ponder/steepest-descent-crit-bz/.
        Tokens: Bjorck et al., arXiv 2409.19913; Ren et al., arXiv 2603.28743.
    """

    lr: float
    weight_decay: float
    adamw_lr: float | None = None
    width: tuple[float, float] = (1, 1)
    depth: tuple[float, float] = (1, 1)
    batch: tuple[float, float] = (1, 1)
    steps: tuple[float, float] = (1, 1)
    convention: Convention = "original"
    branches: float = 1.0
    decay: DecayScaling = "1/width"
    horizon: float = 0.0
    adamw: AdamWScaling = "muP"

    def __post_init__(self) -> None:
        positive("lr", self.lr)
        not_negative("weight_decay", self.weight_decay)
        not_negative("horizon", self.horizon)
        if self.adamw_lr is not None:
            positive("adamw_lr", self.adamw_lr)
        if not 0 <= self.branches <= 1:
            raise invalid("branches", self.branches, "give a power in [0, 1]")
        for name, known in RULES.items():
            if getattr(self, name) not in known:
                names = ", ".join(f'"{rule}"' for rule in known)
                raise invalid(name, getattr(self, name), f"give one of {names}")
        for name in SIZES:
            pair = getattr(self, name)
            if len(pair) != 2 or not all(map(is_positive, pair)):
                raise invalid(name, pair, "give two positive numbers, (from, to)")

    @property
    def options(self) -> dict[str, Any]:
        """Keyword arguments for the optimizer at the new size.

        `Muon` takes all of them; of "scion" and "modular" they are `lr` and `weight_decay`.
        """
        ratios = self._ratios()
        values: dict[str, Any] = {
            name: value * math.prod(ratios[of] ** power for of, power in self._powers(name).items())
            for name, value in self._given().items()
        }
        return values | ({"adjust_lr_fn": self.convention} if self._is_muon else {})

    def _powers(self, name: str) -> Powers:
        """The power of each ratio in the factor of an option, those that are not 0."""
        common = {"batch": 0.5, "tokens": -self.horizon}
        deeper = self.branches - 1
        embedding, head = ADAMW_BY_WIDTH[self.adamw]
        rate = {
            "width": -STEP_BY_WIDTH[self.convention],
            "depth": 0.0 if self.convention == "modular" else deeper,
            **common,
        }
        product = {"batch": 1.0, **DECAY[self.decay]}
        found = {
            "lr": rate,
            "weight_decay": {
                of: product.get(of, 0.0) - rate.get(of, 0.0) for of in {**rate, **product}
            },
            "embedding_lr": {"width": embedding, **common},
            "head_lr": {"width": head, **common},
            "vector_lr": {"depth": deeper, **common},
        }[name]
        return {of: power for of, power in found.items() if power}

    @property
    def _is_muon(self) -> bool:
        return self.convention in SHAPE_RULES

    def _given(self) -> dict[str, float]:
        """The values of the tuned model, by option."""
        own = {"lr": self.lr, "weight_decay": self.weight_decay}
        if not self._is_muon:
            return own
        usual = self.lr if self.convention == "match_rms_adamw" else ADAMW_LR
        rate = usual if self.adamw_lr is None else self.adamw_lr
        return {**own, "embedding_lr": rate, "head_lr": rate, "vector_lr": rate}

    def _ratios(self) -> Powers:
        """The ratios to/from of the sizes, and that of the tokens."""
        pairs = {of: getattr(self, of) for of in SIZES}
        ratios = {of: to / start for of, (start, to) in pairs.items()}
        return {**ratios, "tokens": ratios["batch"] * ratios["steps"]}

    def __str__(self) -> str:
        """A line for each option: what it was, what it is, and the factor in between."""
        rows, ratios, options = [], self._ratios(), self.options
        for name, value in self._given().items():
            powers = {of: power for of, power in self._powers(name).items() if ratios[of] != 1}
            why = " · ".join(f"{of}^{power:g}" for of, power in powers.items()) or "stays"
            rows.append((name, f"{value:.3g}", f"{options[name]:.3g}", why))
        return table(("option", "from", "to", "factor"), rows, left={"option", "factor"})
