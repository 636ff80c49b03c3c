"""`steepest train` under torchrun itself, and single runs, as processes that a test can kill."""

from __future__ import annotations

import os
import re
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path

from tests.apps.train.tiny import TINY, words

ROOT = Path(__file__).resolve().parents[3]
ABORTED = "terminate called without an active exception"
"""The words of the C++ library before it ends a process with SIGABRT."""

LIMIT = 300.0
"""Seconds for a run of a tiny model; one that hangs fails after them."""


def environment() -> dict[str, str]:
    """The environment of a run: one thread, and this checkout."""
    before = os.environ.get("PYTHONPATH")
    paths = [str(ROOT / "src"), str(ROOT), *([before] if before else [])]
    return {**os.environ, "PYTHONPATH": os.pathsep.join(paths), "OMP_NUM_THREADS": "1"}


def command(*flags: object, world: int = 0, restarts: int = 0) -> list[str]:
    """The call of `steepest`, under torchrun if it is for a number of processes."""
    launcher: list[object] = []
    if world:
        launcher = ["-m", "torch.distributed.run", "--standalone", "--nproc-per-node", world]
        launcher += ["--max-restarts", restarts] if restarts else []
    return [str(word) for word in (sys.executable, *launcher, "-m", "steepest", *flags)]


def children(pid: int) -> list[int]:
    """The processes that a process has started and that are still there, and theirs."""
    try:
        own = Path(f"/proc/{pid}/task/{pid}/children").read_text(encoding="ascii").split()
    except OSError:
        return []
    return [found for child in map(int, own) for found in (child, *children(child))]


def kill(process: subprocess.Popen[str]) -> None:
    """End a process and all that it has started, at once and without a word."""
    for pid in (*children(process.pid), process.pid):
        with suppress(ProcessLookupError):
            os.kill(pid, signal.SIGKILL)


@contextmanager
def running(call: list[str], folder: Path) -> Iterator[tuple[subprocess.Popen[str], Path]]:
    """A process whose output goes to a file; it and all that it has started end with the block."""
    handle, name = tempfile.mkstemp(prefix="output-", dir=folder)
    log = Path(name)
    with (
        os.fdopen(handle, "w") as output,
        subprocess.Popen(
            call, cwd=folder, env=environment(), stdout=output, stderr=output, text=True
        ) as process,
    ):
        try:
            yield process, log
        finally:
            kill(process)
            process.wait()


@dataclass(frozen=True, kw_only=True)
class Ended:
    """The end of a launched run.

    Args:
        code: the exit code of torchrun.
        codes: those of its processes that torchrun names, which are not 0.
        text: the output.
    """

    code: int
    codes: tuple[int, ...]
    text: str


def recorded(run: Path) -> int:
    """The lines that a run has recorded, over all its trials."""
    return sum(path.read_bytes().count(b"\n") for path in run.glob("*/*/metrics.jsonl"))


def launched(
    folder: Path,
    *flags: object,
    world: int = 2,
    at: int = 0,
    number: signal.Signals = signal.SIGINT,
    largest: int = 0,
) -> Ended:
    """Carry out `torchrun … -m steepest train` with a tiny model to its end.

    Args:
        folder: the folder for the text, the output and the run, which is `run` in it.
        flags: further flags.
        world: the number of processes.
        at: the number of records after which the last process gets a signal; 0 for none.
        number: that signal.
        largest: the most bytes of a file, so that writing fails as on a full disk; 0 for no limit.
    """
    (folder / "words.txt").write_text(words(4000), encoding="utf-8")
    given = ("train", *TINY, "--data", folder / "words.txt", "--out", folder / "run", *flags)
    call = command(*given, world=world)
    if largest:
        # Python puts bytecode that was cut off in its place, and the next process ends with it.
        limit = f'ulimit -f {largest // 1024}; PYTHONDONTWRITEBYTECODE=1 exec "$@"'
        call = ["bash", "-c", limit, "bash", *call]
    with running(call, folder) as (process, log):
        if at:
            wait_for(lambda: recorded(folder / "run") > at, process)
            workers = Path(f"/proc/{process.pid}/task/{process.pid}/children").read_text().split()
            os.kill(int(workers[-1]), number)
        code = process.wait(LIMIT)
        text = log.read_text(encoding="utf-8", errors="replace")
    found = re.findall(r"exitcode\s*:\s*(-?\d+)", text)
    return Ended(code=code, codes=tuple(map(int, found)), text=text)


def wait_for(happened: Callable[[], bool], process: subprocess.Popen[str]) -> None:
    """Wait until something has happened in a process that still runs."""
    end = time.monotonic() + LIMIT
    while not happened() and process.poll() is None and time.monotonic() < end:
        time.sleep(0.005)
