"""Runs of a script in two gloo processes, as torchrun starts them, with an end to every wait."""

from __future__ import annotations

import json
import os
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from datetime import timedelta
from pathlib import Path
from typing import Any, NoReturn

ROOT = Path(__file__).resolve().parent.parent.parent

RANKS = 2
WAIT = timedelta(seconds=60)
"""How long one collective may take."""

LIMIT = 240.0
"""Seconds for a whole script."""

GRACE = 2.0
"""Seconds that the others have once one rank has failed: they may be waiting for it."""


def free_port() -> int:
    """A port that nobody listens on."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def start(
    script: str, words: Sequence[str], common: dict[str, str], folder: Path, rank: int
) -> subprocess.Popen[bytes]:
    """Start one rank, whose output goes to a file."""
    env = {**os.environ, **common, "RANK": str(rank), "LOCAL_RANK": str(rank)}
    command = [sys.executable, "-m", f"tests.frameworks.scripts.{script}", *words]
    with (folder / f"rank{rank}.log").open("wb") as log:
        return subprocess.Popen(command, cwd=ROOT, env=env, stdout=log, stderr=subprocess.STDOUT)


def wait(running: Sequence[subprocess.Popen[bytes]]) -> None:
    """Wait until all have ended; once one has failed, the others have little time left."""
    end = time.monotonic() + LIMIT
    while time.monotonic() < end and any(process.poll() is None for process in running):
        if any(process.poll() for process in running):
            end = min(end, time.monotonic() + GRACE)
        time.sleep(0.05)


def run(script: str, *words: str) -> list[dict[str, Any]]:
    """What each rank of a script reported.

    Args:
        script: The name of a file in scripts/.
        words: Its arguments.
    """
    common = {"WORLD_SIZE": str(RANKS), "LOCAL_WORLD_SIZE": str(RANKS), "NODE_RANK": "0"}
    common |= {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(free_port())}
    with tempfile.TemporaryDirectory() as folder:
        common["FRAMEWORKS_FOLDER"] = folder
        running = [start(script, words, common, Path(folder), rank) for rank in range(RANKS)]
        try:
            wait(running)
        finally:
            for process in running:
                process.kill()
                process.wait()
        results = []
        for rank, process in enumerate(running):
            out = (Path(folder) / f"rank{rank}.log").read_text(encoding="utf-8", errors="replace")
            assert process.returncode == 0, f"rank {rank} of {script}:\n{out[-6000:]}"
            path = Path(folder) / f"rank{rank}.json"
            results.append(json.loads(path.read_text(encoding="utf-8")))
        return results


def folder() -> Path:
    """The folder of this run, the same for all of its processes."""
    return Path(os.environ["FRAMEWORKS_FOLDER"])


def report(result: dict[str, Any]) -> NoReturn:
    """Hand the result of this rank over, and end the process.

    The process ends without Python's own ending: a thread of gloo that still runs would wait there
    for an interpreter that is gone, and abort.
    """
    import torch.distributed as dist

    rank = os.environ["RANK"]
    (folder() / f"rank{rank}.json").write_text(json.dumps(result), encoding="utf-8")
    if dist.is_initialized():
        dist.destroy_process_group()
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(0)
