"""Kill runs of `steepest train` at random moments, and resume them: bit for bit, or not.

    python tools/kill_resume.py [N] [--parallel NAME] [--seed SEED] [--out FILE]

A run of a tiny model that writes a checkpoint after every step gets `kill -9` at a random moment,
is resumed, killed again, and so on until it is done; then the next one begins, until there were N
(100) kills. With --parallel, two processes of torchrun train, and torchrun is killed with both.
Every run must end with the records, the weights and the state of one that nobody has disturbed, and
with the same files. The exit code is 1 if one does not; FILE gets the counts as JSON.
"""

from __future__ import annotations

import argparse
import json
import random
import sys
import tempfile
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parent.parent
sys.path[:0] = [str(ROOT), str(ROOT / "src")]

from steepest.apps.train.checkpoint import checkpoints, load  # noqa: E402
from tests.apps.train.launched import LIMIT, command, kill, recorded, running, wait_for  # noqa: E402
from tests.apps.train.tiny import TINY, contents, history, same, words  # noqa: E402

EVERY_STEP = ("--checkpoint-every", 1, "--eval-every", 10, "--optimizer", "muon")
STEPS = {False: 150, True: 60}
"""Steps of a run of one process, and of one of several: some seconds either way."""


@dataclass(frozen=True, kw_only=True)
class Runs:
    """Runs with the same flags below one folder.

    Args:
        folder: the folder, with the text in it.
        parallel: the value of `--parallel`; None for one process.
    """

    folder: Path
    parallel: str | None

    def call(self, run: str, *, resume: bool) -> list[str]:
        """The command that begins a run, or goes on with it."""
        world = 2 if self.parallel else 0
        shared = ("--parallel", self.parallel) if self.parallel else ()
        if resume:
            return command("train", "--resume", run, *shared, world=world)
        steps = ("--steps", STEPS[bool(self.parallel)])
        flags = (*TINY, *EVERY_STEP, *steps, "--data", "words.txt", *shared)
        return command("train", *flags, "--out", run, world=world)

    def finish(self, run: str, *, resume: bool) -> float:
        """Carry a run out undisturbed; the seconds from its first record to its end."""
        with running(self.call(run, resume=resume), self.folder) as (process, log):
            before = recorded(self.folder / run)
            wait_for(lambda: recorded(self.folder / run) > before, process)
            start = time.monotonic()
            if process.wait(LIMIT):
                raise RuntimeError(f"it has not ended well: {log.read_text(encoding='utf-8')}")
            return time.monotonic() - start

    def kill(self, run: str, *, resume: bool, after: float) -> bool:
        """Kill a run some seconds after its next record; False if it had ended by then."""
        with running(self.call(run, resume=resume), self.folder) as (process, log):
            before = recorded(self.folder / run)
            wait_for(lambda: recorded(self.folder / run) > before, process)
            end = time.monotonic() + after
            while time.monotonic() < end and process.poll() is None:
                time.sleep(0.001)
            if process.poll() is None:
                kill(process)
                return True
            if process.returncode:
                raise RuntimeError(f"it has not gone on: {log.read_text(encoding='utf-8')}")
            return False

    def differences(self, run: str, whole: str) -> list[str]:
        """What tells a run from one that nobody has disturbed; nothing is right."""
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
        span = runs.finish("whole", resume=False)
        while kills < number:
            run, own = f"run-{count}", 0
            # The more kills a run has behind it, the less is left of it: the next is soon.
            while kills < number and runs.kill(
                run, resume=own > 0, after=draw.uniform(0, span / 4)
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
