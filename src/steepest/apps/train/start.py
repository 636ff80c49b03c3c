"""Start a run with the flags that were given, or go on with one, alone or with other processes."""

from __future__ import annotations

import time
from collections.abc import Mapping
from contextlib import ExitStack
from dataclasses import replace
from pathlib import Path
from typing import Any

import typer

from steepest._common.errors import invalid, refusal
from steepest.apps._console import Terminal
from steepest.apps._flags import FLAG
from steepest.apps._terminal import USAGE, fail, is_out_of_memory, os_text
from steepest.apps.train.config import resolve_device
from steepest.apps.train.execute import execute, resume_command
from steepest.apps.train.given import DEFAULT, apply
from steepest.apps.train.parallel.mesh import NONE, TIMEOUT, grid
from steepest.apps.train.parallel.team import (
    Launch,
    is_lost,
    launch,
    launched_workers,
    shared_token,
    take_device,
)
from steepest.apps.train.run import (
    CONFIG,
    begun,
    new_folder,
    new_run,
    old_folder,
    old_run,
    read_config,
)
from steepest.apps.train.settings import Config
from steepest.norms import parse_norm

GRACE = 5.0
"""Seconds that other processes leave the first to say what is wrong."""


def _placed(given: Mapping[str, Any], base: Config) -> Config:
    """`base` with the flags that were given, on a device that this machine has."""
    if "norm" in given:
        parse_norm(given["norm"])
    config = apply(given, base)
    if "device" not in given:
        return config
    return replace(config, device=resolve_device(given["device"], config.dtype))


def _resumed(given: Mapping[str, Any], folder: Path, started: Launch) -> Config:
    """The run to go on with; a flag that says something else than the folder is an error.

    Only the device, the number of processes and the way they share the work may change.
    """
    if "out" in given:
        raise invalid("out", str(given["out"]), "a resumed run stays in its folder; leave it out")
    stored, _ = read_config(folder, argument="resume")
    free = ("resume", "parallel", "device")
    for flag, value in given.items():
        if flag not in free and _placed({flag: value}, stored) != stored:
            raise invalid(
                flag, value, f"{folder} was started otherwise; leave it out, or start a new run"
            )
    parallel = given.get("parallel", stored.parallel if started.started else NONE)
    return replace(stored, parallel=parallel, device=_device(given, folder, stored))


def _device(given: Mapping[str, Any], folder: Path, stored: Config) -> str:
    """The device to go on with: that of the flag, or the one on which the run began."""
    if "device" in given:
        return resolve_device(given["device"], stored.dtype)
    try:
        return resolve_device(stored.device, stored.dtype)
    except ValueError:
        remedy = (
            f"{folder} began on it, and this machine cannot compute in {stored.dtype} there; to go "
            f"on here, add {FLAG} cpu"
        )
        raise invalid("device", stored.device, remedy) from None


def _prepared(given: Mapping[str, Any], started: Launch) -> tuple[Config, Path | None]:
    """The settings, and the folder to go on in; None for a new run."""
    folder = given.get("resume") or begun(given.get("out"), started)
    if folder is None:
        config = _placed({"device": "auto", **given}, DEFAULT)
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
    console = Terminal(quiet=started.rank > 0)
    take_device(started)
    started = replace(started, token=shared_token(started, timeout=timeout))
    config, folder = _prepared(given, started)
    with (
        launched_workers(
            config.parallel, device=config.device, started=started, timeout=timeout
        ) as team,
        ExitStack() as stack,
    ):
        if folder is None:
            asked: Path | None = given.get("out")
            run = new_run(config, asked, team=team)
            place = team.first(lambda: stack.enter_context(new_folder(asked)))
            run, device = replace(run, folder=place, token=started.token), config.device
        else:
            argument = "resume" if "resume" in given else "out"
            own = old_folder(folder, argument=argument, started=started)
            team.first(lambda: stack.enter_context(own))
            run = old_run(folder, parallel=config.parallel, device=config.device, team=team)
            device = read_config(folder)[0].device
        other = config.device if config.device != device else None
        resume = resume_command(run.folder, started, config.parallel, other)
        try:
            return execute(run, console, resume=resume)
        except OSError as error:
            made = (run.folder / CONFIG).exists()
            hint = f"; mend that, then go on with: {resume}" if made else ""
            raise OSError(os_text(error) + hint) from None
        except (MemoryError, RuntimeError) as error:
            if not is_out_of_memory(error):
                raise
            raise MemoryError(f"what is finished is kept in {run.folder}") from None


def _text(error: Exception) -> str:
    if isinstance(error, RuntimeError):
        return (
            "another process of this run is gone or did not answer in time; torchrun with "
            "--max-restarts starts all of them again, from the newest checkpoint "
            f"({str(error).splitlines()[0]})"
        )
    return os_text(error) if isinstance(error, OSError) else str(error)


def _left(started: Launch, error: Exception) -> Exception:
    """Leave all processes, of which one says why; raise the result."""
    if started.rank and isinstance(error, RuntimeError):
        return typer.Exit(USAGE)
    if started.rank:
        # torchrun ends all as soon as one has ended, and the first may still be importing. It ends
        # this one in its sleep; otherwise the first has said nothing.
        time.sleep(GRACE)
    if refusal(error) is not None or is_out_of_memory(error):
        return error  # the command names the flags
    return fail(_text(error))


def start(**given: Any) -> None:
    """Carry out `steepest train` with these flags.

    Raises:
        typer.Exit: with the exit code of the run.
        ValueError: a flag has a value that the run cannot take.
    """
    seconds = given.pop("timeout", TIMEOUT)
    started = launch()
    try:
        code = _carried_out(given, started, seconds)
    except (ValueError, OSError, RuntimeError, MemoryError) as error:
        memory = is_out_of_memory(error)
        if isinstance(error, RuntimeError) and not (is_lost(error) or memory):
            raise
        raise _left(started, error) from None
    raise typer.Exit(code)
