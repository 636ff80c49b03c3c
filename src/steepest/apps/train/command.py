"""`steepest train`: its flags, and the way from their strings to a `Config`."""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.console import Console

from steepest._common.errors import invalid
from steepest.apps._terminal import USAGE, fail, os_text
from steepest.apps.train.config import (
    DTYPES,
    SCHEDULES,
    Config,
    ModelConfig,
    OptimizerConfig,
    resolve_device,
)
from steepest.apps.train.execute import execute, resume_command
from steepest.apps.train.norms import NORMS, TUNED, parse_norm
from steepest.apps.train.optimizers import RECIPES, recipe
from steepest.apps.train.parallel.mesh import NONE, PARALLEL, grid
from steepest.apps.train.parallel.team import (
    TIMEOUT,
    Launch,
    is_lost,
    launch,
    launched_workers,
    take_device,
)
from steepest.apps.train.run import CONFIG, begun, new_run, old_run, read_config

DEFAULT = Config(optimizers={name: recipe(name).tuned for name in ("muon", "adamw")})
ANY_NORM = "descent"
GRACE = 5.0
"""Seconds that other processes leave the first to say what is wrong."""
SETTINGS = ("lr", "weight_decay", "adamw_lr")
MODEL = ("layers", "width", "heads", "context")
PLAIN = (
    "batch",
    "steps",
    "warmup",
    "schedule",
    "dtype",
    "eval_every",
    "eval_windows",
    "checkpoint_every",
    "spectra",
    "monitor_every",
    "parallel",
)


def flag(default: object, text: str, *names: str, metavar: str | None = None) -> Any:
    """A flag whose absence can be seen: its value is None then, and `default` is only shown."""
    return typer.Option(*names, help=text, show_default=str(default), metavar=metavar)


def setting(text: str) -> Any:
    """A flag that each optimizer has for itself."""
    text = f"{text}; with several optimizers name one (repeatable)."
    return flag("tuned", text, metavar="[NAME=]VALUE")


Optimizers = Annotated[
    list[str] | None,
    flag(
        ", ".join(DEFAULT.optimizers),
        f"Train with it (repeatable): {', '.join(RECIPES)}.",
        "--optimizer",
        metavar="NAME",
    ),
]
Data = Annotated[str | None, flag("the King James Bible", "A text file, or a folder of them.")]
Layers = Annotated[int | None, flag(DEFAULT.model.layers, "Transformer blocks.")]
Width = Annotated[int | None, flag(DEFAULT.model.width, "Length of the residual stream.")]
Heads = Annotated[int | None, flag(DEFAULT.model.heads, "Attention heads in a block.")]
Context = Annotated[
    int | None, flag(DEFAULT.model.context, "Characters that a prediction looks back on.")
]
Batch = Annotated[int | None, flag(DEFAULT.batch, "Windows of text in a step.")]
Steps = Annotated[int | None, flag(DEFAULT.steps, "Optimizer steps.")]
Lr = Annotated[list[str] | None, setting("Peak learning rate")]
WeightDecay = Annotated[list[str] | None, setting("Decoupled weight decay")]
NormName = Annotated[
    str | None,
    typer.Option(
        help=f"Norm of the optimizer `descent`: {', '.join(k + w for k, (w, _) in NORMS.items())}.",
        metavar="NORM",
        show_default="spectral",
    ),
]
AdamwLr = Annotated[list[str] | None, setting("Learning rate of AdamW on what Muon leaves")]
Warmup = Annotated[int | None, flag("20, at most a tenth of the steps", "Steps of linear warm-up.")]
Schedule = Annotated[
    str | None, flag(DEFAULT.schedule, f"After the warm-up: {', '.join(SCHEDULES)}.")
]
Seeds = Annotated[
    list[int] | None,
    flag(0, "Fixes first weights and data (repeatable, for means over seeds).", "--seed"),
]
Device = Annotated[str | None, flag("auto", "auto, cpu, cuda, cuda:1, …")]
Dtype = Annotated[str | None, flag(DEFAULT.dtype, f"{', '.join(DTYPES)}; bfloat16 is autocast.")]
EvalEvery = Annotated[
    int | None, flag(DEFAULT.eval_every, "Steps from one evaluation to the next.")
]
EvalWindows = Annotated[
    int | None, flag(DEFAULT.eval_windows, "Validation windows, spread evenly.")
]
CheckpointEvery = Annotated[
    int | None, flag(DEFAULT.checkpoint_every, "Steps from one checkpoint to the next.")
]
WithSpectra = Annotated[
    bool | None,
    flag(
        "spectra",
        "At evaluations show the balls of weight decay, by SVDs of every matrix.",
        "--spectra/--no-spectra",
    ),
]
MonitorEvery = Annotated[
    int | None,
    flag(DEFAULT.monitor_every, "Steps from one look at every layer to the next; 0 for none."),
]
Parallel = Annotated[
    str | None,
    flag(DEFAULT.parallel, f"Share the work among torchrun's processes: {', '.join(PARALLEL)}."),
]
Timeout = Annotated[
    float | None, flag(TIMEOUT, "Seconds that a process waits for the others, with --parallel.")
]
Out = Annotated[Path | None, flag("runs/DATE-TIME", "Folder to make for the run.")]
Resume = Annotated[
    Path | None, typer.Option(help="Go on with the run in this folder, with its own flags.")
]


def _number(name: str, text: str) -> float:
    try:
        return float(text)
    except ValueError:
        raise invalid(name, text, "give a number") from None


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
        if not equals:
            if len(names) > 1:
                raise invalid(flag, value, f"say for which optimizer: {flag} {names[0]}={value}")
            name = names[0]
        if name not in names:
            raise invalid(flag, value, f"this run has only {', '.join(names)}")
        found[name] = _number(flag, number)
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
        changes["data"] = str(Path(given["data"]).expanduser().resolve())
    if "seed" in given:
        changes["seeds"] = tuple(given["seed"])
    changes["optimizers"] = _optimizers(given, base)
    if "device" in given:
        dtype = given.get("dtype", base.dtype)
        changes["device"] = resolve_device(given["device"], dtype)
    return replace(base, **changes)


def _optimizers(given: Mapping[str, Any], base: Config) -> dict[str, Any]:
    names = list(dict.fromkeys(given.get("optimizer", base.optimizers)))
    if "norm" in given and "optimizer" not in given and ANY_NORM not in names:
        names = [ANY_NORM, "adamw"]
    chosen = {n: base.optimizers[n] if n in base.optimizers else recipe(n).tuned for n in names}
    for flag in SETTINGS:
        for name, value in per_optimizer(flag, given.get(flag, ()), names).items():
            if getattr(chosen[name], flag) is None:
                raise invalid(flag, value, f"{name} has none: it treats all parameters alike")
            changed: dict[str, Any] = {flag: value}
            chosen[name] = replace(chosen[name], **changed)
    if "norm" in given:
        if ANY_NORM not in chosen:
            raise invalid(
                "norm", given["norm"], f"only {ANY_NORM} takes a norm: add --optimizer {ANY_NORM}"
            )
        chosen[ANY_NORM] = _in_norm(given["norm"], given.get("lr", ()), names, chosen[ANY_NORM])
    return chosen


def _in_norm(
    norm: str, lrs: Sequence[str], names: Sequence[str], settings: OptimizerConfig
) -> OptimizerConfig:
    """The settings in this norm, at the learning rate that was given or tuned for it."""
    if norm == settings.norm or ANY_NORM in per_optimizer("lr", lrs, names):
        return replace(settings, norm=norm)
    if norm not in TUNED:
        parse_norm(norm)
        raise invalid("norm", norm, f"no learning rate is known for it: add --lr {ANY_NORM}=VALUE")
    return replace(settings, norm=norm, lr=TUNED[norm])


def _resumed(given: Mapping[str, Any], folder: Path, started: Launch) -> Config:
    """The run to go on with; a flag that says something else than the folder is an error.

    Only the number of processes and the way they share the work may change.
    """
    if "out" in given:
        raise invalid("out", str(given["out"]), "a resumed run stays in its folder; leave it out")
    stored, _ = read_config(folder)
    free = ("resume", "parallel")
    for flag, value in given.items():
        if flag not in free and apply({flag: value}, stored) != stored:
            raise invalid(
                flag, value, f"{folder} was started otherwise; leave it out, or start a new run"
            )
    parallel = given.get("parallel", stored.parallel if started.started else NONE)
    return replace(stored, parallel=parallel)


def _prepared(given: Mapping[str, Any], started: Launch) -> tuple[Config, Path | None]:
    """The settings, and the folder to go on in; None for a new run."""
    folder = given.get("resume") or begun(given.get("out"), started)
    if folder is None:
        config = apply({"device": "auto", **given}, DEFAULT)
    else:
        # Processes that torchrun has started again have their first flags.
        again = {k: v for k, v in given.items() if k != "out" or "resume" in given}
        config = _resumed(again, folder, started)
    started.check(config.parallel)
    if config.parallel != NONE:
        shape = grid(config.parallel, world=started.world)
        shape.check(batch=config.batch, heads=config.model.heads)
    return config, folder


def _carried_out(given: Mapping[str, Any], started: Launch, timeout: float) -> int:
    """Prepare the run and execute it, with all processes of the launch; the exit code."""
    console = Console(quiet=started.rank > 0)
    take_device(started)
    config, folder = _prepared(given, started)
    with launched_workers(
        config.parallel, device=config.device, started=started, timeout=timeout
    ) as team:
        if folder is None:
            run = new_run(config, given.get("out"), team=team)
        else:
            run = old_run(folder, parallel=config.parallel, team=team)
        resume = resume_command(run.folder, started, config.parallel)
        try:
            return execute(run, console, resume=resume)
        except OSError as error:
            made = (run.folder / CONFIG).exists()
            hint = f"; mend that, then go on with: {resume}" if made else ""
            raise OSError(os_text(error) + hint) from None


def _text(error: Exception) -> str:
    if isinstance(error, RuntimeError):
        return (
            "another process of this run is gone or did not answer in time; torchrun with "
            "--max-restarts starts all of them again, from the newest checkpoint "
            f"({str(error).splitlines()[0]})"
        )
    return os_text(error) if isinstance(error, OSError) else str(error)


def _left(started: Launch, error: Exception) -> typer.Exit:
    """Leave all processes, of which one says why; raise the result."""
    if started.rank and isinstance(error, RuntimeError):
        return typer.Exit(USAGE)
    if started.rank:
        # torchrun ends all as soon as one has ended, and the first may still be importing. It ends
        # this one in its sleep; otherwise the first has said nothing.
        time.sleep(GRACE)
    return fail(_text(error))


def train(
    optimizer: Optimizers = None,
    data: Data = None,
    layers: Layers = None,
    width: Width = None,
    heads: Heads = None,
    context: Context = None,
    batch: Batch = None,
    steps: Steps = None,
    lr: Lr = None,
    weight_decay: WeightDecay = None,
    adamw_lr: AdamwLr = None,
    norm: NormName = None,
    warmup: Warmup = None,
    schedule: Schedule = None,
    seed: Seeds = None,
    device: Device = None,
    dtype: Dtype = None,
    eval_every: EvalEvery = None,
    eval_windows: EvalWindows = None,
    checkpoint_every: CheckpointEvery = None,
    spectra: WithSpectra = None,
    monitor_every: MonitorEvery = None,
    parallel: Parallel = None,
    timeout: Timeout = None,
    out: Out = None,
    resume: Resume = None,
) -> None:
    """Train a character GPT with each optimizer and compare them."""
    given = {name: value for name, value in locals().items() if value not in (None, [])}
    seconds = given.pop("timeout", TIMEOUT)
    started = launch()
    try:
        code = _carried_out(given, started, seconds)
    except (ValueError, OSError, RuntimeError) as error:
        if isinstance(error, RuntimeError) and not is_lost(error):
            raise
        raise _left(started, error) from None
    raise typer.Exit(code)
