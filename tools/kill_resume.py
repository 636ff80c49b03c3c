"""Kill runs of `steepest train` at random moments, and resume them: bit for bit, or not.

    python tools/kill_resume.py [N] [--parallel NAME] [--seed SEED] [--out FILE]

A run of a tiny model that writes a checkpoint after every step gets `kill -9` after a random number
of steps and a random part of one, is resumed, killed again, and so on until it is done; then the
next one begins, until there were N (100) kills. One process is a fork of this one, which has
imported everything; with --parallel, two processes of torchrun train, and torchrun is killed with
both. Every run must end with the records, the weights and the state of one that nobody has
disturbed, and with the same files. The exit code is 1 if one does not; FILE gets the counts as
JSON.
"""

from __future__ import annotations

import argparse
import json
import multiprocessing
import os
import random
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parent.parent
sys.path[:0] = [str(ROOT), str(ROOT / "src")]

import steepest.apps.train.start  # noqa: E402, F401  # before a process is forked
from steepest.apps.cli import main as main_of_steepest  # noqa: E402
from steepest.apps.train.checkpoint import checkpoints, load  # noqa: E402
from tests.apps.train.launched import LIMIT, command, kill, recorded, running  # noqa: E402
from tests.apps.train.tiny import TINY, contents, history, same, words  # noqa: E402

EVERY_STEP = ("--checkpoint-every", 1, "--eval-every", 10, "--optimizer", "muon")
FORK = multiprocessing.get_context("fork")
STEPS = {False: 150, True: 60}
"""Steps of a run of one process, and of one of several: some seconds either way."""


@dataclass(frozen=True, kw_only=True)
class Started:
    """A run that is carried out.

    Args:
        code: its exit code so far.
        kill: ends it at once.
        text: its output so far.
    """

    code: Callable[[], int | None]
    kill: Callable[[], object]
    text: Callable[[], str]

    def wait_for(self, happened: Callable[[], bool]) -> None:
        """Wait until something has happened, or it has ended."""
        end = time.monotonic() + LIMIT
        while not happened() and self.code() is None and time.monotonic() < end:
            time.sleep(0.002)


def _carry_out(folder: Path, log: Path, arguments: list[str]) -> None:
    """Be the command line with these arguments, in a process that was forked for it."""
    os.chdir(folder)
    with log.open("w", encoding="utf-8") as output:
        for stream in (1, 2):
            os.dup2(output.fileno(), stream)
    sys.argv = ["steepest", *arguments]
    main_of_steepest()


def _text(log: Path) -> str:
    return log.read_text(encoding="utf-8", errors="replace")


@dataclass(frozen=True, kw_only=True)
class Runs:
    """Runs with the same flags below one folder.

    Args:
        folder: the folder, with the text in it.
        parallel: the value of `--parallel`; None for one process.
    """

    folder: Path
    parallel: str | None

    @property
    def steps(self) -> int:
        """The steps of a run."""
        return STEPS[self.parallel is not None]

    def call(self, run: str, *, resume: bool) -> list[str]:
        """The command that begins a run, or goes on with it."""
        world = 2 if self.parallel else 0
        shared = ("--parallel", self.parallel) if self.parallel else ()
        if resume:
            return command("train", "--resume", run, *shared, world=world)
        flags = (*TINY, *EVERY_STEP, "--steps", self.steps, "--data", "words.txt", *shared)
        return command("train", *flags, "--out", run, world=world)

    @contextmanager
    def started(self, run: str, *, resume: bool) -> Iterator[Started]:
        """A run that has been begun, or resumed; it ends with the block at the latest."""
        call = self.call(run, resume=resume)
        if self.parallel is not None:
            with running(call, self.folder) as (torchrun, log):
                yield Started(
                    code=torchrun.poll, kill=lambda: kill(torchrun), text=lambda: _text(log)
                )
            return
        log = self.folder / "output"
        process = FORK.Process(target=_carry_out, args=(self.folder, log, call[3:]))
        process.start()

        def code() -> int | None:
            process.join(0)
            return process.exitcode

        try:
            yield Started(code=code, kill=process.kill, text=lambda: _text(log))
        finally:
            process.kill()
            process.join()

    def finish(self, run: str, *, resume: bool) -> None:
        """Carry a run out undisturbed."""
        with self.started(run, resume=resume) as started:
            started.wait_for(lambda: False)
            if started.code() != 0:
                raise RuntimeError(f"it has not ended well: {started.text()}")

    def kill(self, run: str, *, resume: bool, records: int, part: float) -> bool:
        """Kill a run after further records and a part of the time of one; False if it had ended."""
        with self.started(run, resume=resume) as started:
            before = recorded(self.folder / run)
            started.wait_for(lambda: recorded(self.folder / run) > before)
            start, first = time.monotonic(), recorded(self.folder / run)
            started.wait_for(lambda: recorded(self.folder / run) >= first + records)
            time.sleep(part * (time.monotonic() - start) / records)
            if started.code() is None:
                started.kill()
                return True
            if started.code() != 0:
                raise RuntimeError(f"it has not gone on: {started.text()}")
            return False

    def differences(self, run: str, whole: str) -> list[str]:
        """The differences of a run from one that nobody has disturbed."""
        one, two = self.folder / run, self.folder / whole
        found = []
        if set(contents(one)) != set(contents(two)):
            found.append(f"files: {sorted(set(contents(one)) ^ set(contents(two)))}")
        trials = [folder / "muon" / "seed-0" for folder in (one, two)]
        if history(trials[0]) != history(trials[1]):
            found.append("metrics.jsonl")
        if not same(*map(_state, trials)):
            found.append("the last checkpoint")
        return found


def _state(trial: Path) -> dict[str, Any]:
    """The content of the last checkpoint without its times, of one process or of several."""
    content = load(checkpoints(trial)[-1], device="cpu", belongs={})
    return {key: value for key, value in content.items() if key != "seconds"}


def killed(number: int, *, parallel: str | None, seed: int) -> tuple[int, int, list[str]]:
    """Kills, runs that were killed, and what was different in them."""
    draw = random.Random(seed)
    wrong: list[str] = []
    kills = count = 0
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        (folder / "words.txt").write_text(words(4000), encoding="utf-8")
        runs = Runs(folder=folder, parallel=parallel)
        runs.finish("whole", resume=False)
        while kills < number:
            run, own = f"run-{count}", 0
            while kills < number and runs.kill(
                run,
                resume=own > 0,
                records=draw.randint(1, runs.steps // 8),
                part=draw.uniform(0, 2),
            ):
                own, kills = own + 1, kills + 1
            runs.finish(run, resume=(folder / run / "config.json").exists())
            found = runs.differences(run, "whole")
            word = "; ".join(found) or "bit for bit"
            wrong += [f"{run}, {own} kills: {word}"] if found else []
            count += 1
            print(f"{run}: {own} kills, {word}; {kills} of {number}", flush=True)
    return kills, count, wrong


def main(argv: Sequence[str] | None = None) -> int:
    """Kill and resume; 1 if a run came out differently."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n", maxsplit=1)[0])
    parser.add_argument("kills", nargs="?", type=int, default=100, metavar="N")
    parser.add_argument("--parallel", metavar="NAME")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--out", type=Path, metavar="FILE")
    given = parser.parse_args(argv)
    kills, runs, wrong = killed(given.kills, parallel=given.parallel, seed=given.seed)
    print(f"{kills} kills in {runs} runs, {runs - len(wrong)} of them bit for bit")
    for line in wrong:
        print(line)
    if given.out is not None:
        found = {"kills": kills, "runs": runs, "wrong": wrong, "parallel": given.parallel}
        given.out.write_text(json.dumps(found, indent=2) + "\n", encoding="utf-8")
    return int(bool(wrong))


if __name__ == "__main__":
    sys.exit(main())
