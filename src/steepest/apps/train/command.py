"""`steepest train`: its flags."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Annotated, Any

from steepest._common.errors import invalid
from steepest._common.norm_names import KNOWN, norm_words
from steepest.apps._flags import Number, OneOf, Place, Whole, Words, flag, start
from steepest.apps.train.given import DEFAULT, apply
from steepest.apps.train.norms import WRITTEN
from steepest.apps.train.parallel.mesh import PARALLEL, TIMEOUT, check_parallel
from steepest.apps.train.settings import SCHEDULES, TYPES
from steepest.apps.train.tuned import TUNED

LOWER = "--batch, --width, --layers or --context"
EXAMPLES = (
    ("train", "Muon, then AdamW, 500 steps each."),
    ("train --optimizer muon --steps 100 --lr 0.02", "One optimizer, with its learning rate."),
    ("train --lr muon=0.04 --lr adamw=0.001", "Two optimizers, each with its own."),
    ("train --norm schatten:4 --seed 0 --seed 1", "Descent in another norm, means over two seeds."),
    ("train --data book.txt --width 256 --layers 6", "Your own text, a larger model."),
    ("train --resume runs/2026-01-31-120000", "Go on with a run that was interrupted."),
)
# gloo counts in milliseconds, and torch in 64 bits; four months are enough.
SECONDS = Number("a number of seconds > 0, at most 10000000", lambda x: 0 < x <= 1e7)

RUN, MODEL, DATA = "Run", "Model", "Data"
OPTIMIZER, SCHEDULE, SEVERAL = "Optimizer", "Schedule", "Several processes"


def device_text(text: str) -> None:
    """Raise for what is not a device of torch's; whether this machine has it is seen later."""
    if text.partition(":")[0] not in ("auto", "cpu", "cuda", "mps", "xpu"):
        raise invalid("device", text, "choose from auto, cpu, cuda, cuda:1, mps, xpu")


def setting(text: str) -> Any:
    """A flag that each optimizer has for itself."""
    text = f"{text}; with several optimizers NAME=VALUE (repeatable)."
    known = tuple(f"{name}=" for name in TUNED)
    values = Words(known=known)
    return flag(text, kind=values, default="tuned", metavar="[NAME=]VALUE", group=OPTIMIZER)


def whole(text: str, group: str, default: object, least: int = 1) -> Any:
    """A flag for a whole number."""
    return flag(text, kind=Whole(least), default=default, group=group)


Optimizers = Annotated[
    list[str] | None,
    flag(
        f"Optimizer to train with (repeatable): {', '.join(TUNED)}.",
        "--optimizer",
        kind=OneOf(TUNED, several=True),
        default=", ".join(DEFAULT.optimizers),
        group=OPTIMIZER,
    ),
]
Lr = Annotated[list[str] | None, setting("Peak learning rate")]
WeightDecay = Annotated[list[str] | None, setting("Decoupled weight decay")]
AdamwLr = Annotated[
    list[str] | None,
    setting("Peak learning rate of AdamW for the parameters that the optimizer does not train"),
]
NormName = Annotated[
    str | None,
    flag(
        f"Norm of the optimizer descent: {', '.join(KNOWN)}.",
        kind=Words(norm_words, WRITTEN),
        default="spectral",
        group=OPTIMIZER,
        metavar="NORM",
    ),
]
Layers = Annotated[int | None, whole("Transformer blocks.", MODEL, DEFAULT.model.layers)]
Width = Annotated[
    int | None,
    whole("Width of the residual stream, a multiple of --heads.", MODEL, DEFAULT.model.width),
]
Heads = Annotated[int | None, whole("Attention heads per block.", MODEL, DEFAULT.model.heads)]
Context = Annotated[
    int | None, whole("Context length in characters.", MODEL, DEFAULT.model.context)
]
Dtype = Annotated[
    str | None,
    flag(
        f"{', '.join(TYPES)}; bfloat16 is autocast.",
        kind=OneOf(TYPES),
        default=DEFAULT.dtype,
        group=MODEL,
    ),
]
Data = Annotated[
    str | None,
    flag(
        "A text file, or a folder of them.",
        default="the King James Bible",
        group=DATA,
        metavar="PATH",
    ),
]
Batch = Annotated[int | None, whole("Windows of text per step.", DATA, DEFAULT.batch)]
Seeds = Annotated[
    list[int] | None,
    flag(
        "Fixes first weights and data (repeatable, for means over seeds).",
        "--seed",
        kind=Whole(0, 2**63 - 1),
        default=0,
        group=DATA,
    ),
]
EvalWindows = Annotated[
    int | None,
    whole("Validation windows, spread evenly over the text.", DATA, DEFAULT.eval_windows),
]
Steps = Annotated[int | None, whole("Optimizer steps.", SCHEDULE, DEFAULT.steps)]
Warmup = Annotated[
    int | None,
    whole("Steps of linear warm-up.", SCHEDULE, "20, at most a tenth of the steps", least=0),
]
Schedule = Annotated[
    str | None,
    flag(
        f"Learning rate after the warm-up: {', '.join(SCHEDULES)}.",
        kind=OneOf(SCHEDULES),
        default=DEFAULT.schedule,
        group=SCHEDULE,
    ),
]
Device = Annotated[
    str | None,
    flag(
        "auto, cpu, cuda, cuda:1, …",
        kind=Words(device_text, ("auto", "cpu", "cuda", "mps")),
        default="auto",
        group=RUN,
        metavar="DEVICE",
    ),
]
EvalEvery = Annotated[int | None, whole("Steps between evaluations.", RUN, DEFAULT.eval_every)]
CheckpointEvery = Annotated[
    int | None, whole("Steps between checkpoints.", RUN, DEFAULT.checkpoint_every)
]
MonitorEvery = Annotated[
    int | None,
    whole(
        "Steps between observations by the monitor; 0 for none.",
        RUN,
        DEFAULT.monitor_every,
        least=0,
    ),
]
WithSpectra = Annotated[
    bool | None,
    flag(
        "At evaluations, show how far weights are from the bound that weight decay puts on them, "
        "by an SVD of every matrix.",
        "--spectra/--no-spectra",
        default="spectra",
        group=RUN,
    ),
]
Out = Annotated[
    Path | None,
    flag(
        "Folder to make for the run.",
        kind=Place(),
        default="runs/DATE-TIME",
        group=RUN,
        metavar="FOLDER",
    ),
]
Resume = Annotated[
    Path | None,
    flag(
        "Go on with the run in this folder, with its own flags.",
        kind=Place(),
        group=RUN,
        metavar="FOLDER",
    ),
]
Parallel = Annotated[
    str | None,
    flag(
        f"Share the work among torchrun's processes: {', '.join(PARALLEL)}.",
        kind=Words(check_parallel, PARALLEL[:-1]),
        default=DEFAULT.parallel,
        group=SEVERAL,
        metavar="NAME",
    ),
]
Timeout = Annotated[
    float | None,
    flag(
        "Seconds that a process waits for the others.",
        kind=SECONDS,
        default=f"{TIMEOUT:g}",
        group=SEVERAL,
        metavar="SECONDS",
    ),
]


def train(
    optimizer: Optimizers = None,
    lr: Lr = None,
    weight_decay: WeightDecay = None,
    adamw_lr: AdamwLr = None,
    norm: NormName = None,
    layers: Layers = None,
    width: Width = None,
    heads: Heads = None,
    context: Context = None,
    dtype: Dtype = None,
    data: Data = None,
    batch: Batch = None,
    seed: Seeds = None,
    eval_windows: EvalWindows = None,
    steps: Steps = None,
    warmup: Warmup = None,
    schedule: Schedule = None,
    device: Device = None,
    eval_every: EvalEvery = None,
    checkpoint_every: CheckpointEvery = None,
    monitor_every: MonitorEvery = None,
    spectra: WithSpectra = None,
    out: Out = None,
    resume: Resume = None,
    parallel: Parallel = None,
    timeout: Timeout = None,
) -> None:
    """Train a character GPT with each optimizer and compare them."""
    given = {name: value for name, value in locals().items() if value not in (None, [])}
    # Of several processes the first speaks for all, which `start` sees to.
    if resume is None and "RANK" not in os.environ:
        apply(given, DEFAULT)
    start("train", **given)
