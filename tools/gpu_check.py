"""Everything that is promised of a GPU, checked and timed on one in under eight minutes.

    pip install '.[bench]'        # from the checkout, with the packages to compare with
    python tools/gpu_check.py     # [--device cuda] [--budget 480] [--out docs/bench/gpu]

It looks at the accuracy of every polar method in every type, at steps under torch's guard against
synchronisation, in a CUDA graph and under torch.compile, the same for parameters that a process
group of one rank holds, at the memory of a step, and at the times
of whole steps and of polar methods beside torch.optim.Muon, the installed packages and AdamW. What
is found goes to `check.json`, `check.md`, `steps.png` and `methods.png` after each part, whole or
not at all. Once the budget is spent no part begins any more; those are named as left out.

The exit code is 1 if a check has failed and 2 for what cannot be done. `--device cpu --tiny` runs
what a CPU can, on matrices that say nothing about speed.
"""

from __future__ import annotations

import argparse
import subprocess
import sys
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

import torch

sys.path[:0] = [str(Path(__file__).resolve().parent)]
from gpu import checks as parts  # noqa: E402
from gpu import sharded, times  # noqa: E402
from gpu.checks import FAILED, Check  # noqa: E402
from gpu.report import Report  # noqa: E402

from steepest.apps.bench.execute import quiet_compiler  # noqa: E402
from steepest.apps.bench.floor import type_name  # noqa: E402
from steepest.apps.bench.machine import describe  # noqa: E402
from steepest.apps.bench.rounds import message  # noqa: E402
from steepest.apps.bench.sets import SETS, Shape, ShapeSet, transformer_block  # noqa: E402

OUT = Path(__file__).resolve().parent.parent / "docs" / "bench" / "gpu"
BUDGET = 480.0
LLAMA = ShapeSet(
    name="llama-8b",
    title="Llama 8B: two of its blocks",
    # Query, key, value and output; gate, up and down.
    block=(
        *((4096, 4096), (1024, 4096), (1024, 4096), (4096, 4096)),
        *((14336, 4096), (14336, 4096), (4096, 14336)),
    ),
    blocks=2,
    probed=1,
    rounds=7,
)
TINY = ShapeSet(
    name="tiny", title="a tiny set", block=transformer_block(8), blocks=2, probed=1, rounds=2
)


@dataclass(frozen=True, kw_only=True)
class Scale:
    """The matrices that are measured on.

    Args:
        shapes: those that accuracy is checked on.
        matrices: those of the parameters that are stepped in several ways.
        steps: the sets of the steps, the most telling ones first.
        methods: the sets of the polar methods.
        memory: the set of the memory of a step.
        rounds: turns of each contender, at most.
    """

    shapes: tuple[Shape, ...]
    matrices: tuple[Shape, ...]
    steps: tuple[ShapeSet, ...]
    methods: tuple[ShapeSet, ...]
    memory: ShapeSet
    rounds: int


FULL = Scale(
    shapes=((64, 64), (512, 128), (128, 512), (384, 384)),
    matrices=((8, 8), (8, 8), (12, 4), (4, 12), (64, 256), (256, 64), (512, 512)),
    steps=(SETS["gpt2-small"], LLAMA, *(SETS[n] for n in SETS if n != "gpt2-small")),
    methods=(SETS["gpt2-small"], LLAMA),
    memory=replace(LLAMA, blocks=1),
    rounds=15,
)
SMALL = Scale(
    shapes=((8, 8), (16, 5), (5, 16)),
    matrices=((8, 8), (4, 12)),
    steps=(TINY,),
    methods=(TINY,),
    memory=TINY,
    rounds=2,
)


def machine(device: torch.device) -> dict[str, Any]:
    """The machine, the GPU and the settings of torch that decide how it rounds."""
    found: dict[str, Any] = {**describe(device), "device": str(device), "gpu": None, "driver": None}
    if device.type == "cuda":
        about, matmul = torch.cuda.get_device_properties(device), torch.backends.cuda.matmul
        found |= {
            "gpu": about.name,
            "memory_gib": round(about.total_memory / 2**30, 1),
            "capability": f"{about.major}.{about.minor}",
            "cuda": torch.version.cuda,
            "float16_reduced_sums": matmul.allow_fp16_reduced_precision_reduction,
            "bfloat16_reduced_sums": matmul.allow_bf16_reduced_precision_reduction,
        }
        command = ["nvidia-smi", "--query-gpu=driver_version", "--format=csv,noheader"]
        with suppress(OSError, subprocess.SubprocessError):
            done = subprocess.run(command, capture_output=True, text=True, timeout=20, check=True)
            found["driver"] = done.stdout.splitlines()[0].strip()
    return found


Part = tuple[str, Callable[[], None]]


def accuracy(report: Report, device: torch.device, scale: Scale) -> None:
    """Every method in every type."""
    for name, method in parts.METHODS.items():
        for dtype in parts.DTYPES:
            find = partial(parts.accuracy, method, dtype, scale.shapes, device)
            short = type_name(dtype)
            report.add([parts.checked("accuracy", f"{name}, {short}", find)])


def each_optimizer(
    report: Report, part: str, names: Iterable[str], find: Callable[[parts.Make], parts.Finding]
) -> None:
    """One check for each of these optimizers."""
    for name in names:
        report.add([parts.checked(part, name, partial(find, parts.OPTIMIZERS[name]))])


def spread(report: Report, device: torch.device, scale: Scale) -> None:
    """Steps of parameters that a process group of this process alone holds."""
    where: dict[str, Any] = {"device": device, "shapes": scale.matrices}
    with sharded.one_rank(device):
        for name, make in sharded.SPREAD.items():
            found = [parts.checked("sharded", name, partial(sharded.as_alone, name, **where))]
            if device.type == "cuda":
                waits = partial(parts.waits_for_nothing, make, **where)
                found.append(parts.checked("sharded sync", name, waits))
                graph = partial(parts.same_steps, make, _wrapped_in_a_graph, **where)
                found.append(parts.checked("sharded graph", name, graph))
            report.add(found)
    if device.type != "cuda":
        for part in ("sharded sync", "sharded graph"):
            report.add(parts.elsewhere(part, sharded.SPREAD, "needs a CUDA GPU"))


def _wrapped_in_a_graph(stepped: Any) -> Callable[[], None]:
    return parts.Captured(stepped).step


def plan(report: Report, device: torch.device, scale: Scale) -> Iterator[Part]:
    """The parts in their order: what may be wrong comes first, then the times."""
    yield "accuracy", lambda: accuracy(report, device, scale)
    gpu, every = device.type == "cuda", parts.OPTIMIZERS
    where: dict[str, Any] = {"device": device, "shapes": scale.matrices}
    needs = "needs a CUDA GPU"
    if gpu:
        waits = partial(parts.waits_for_nothing, **where)
        yield "sync", lambda: each_optimizer(report, "sync", every, waits)
        graphs = partial(parts.same_steps, wrap=_wrapped_in_a_graph, **where)
        yield "graph", lambda: each_optimizer(report, "graph", every, graphs)
    else:
        yield "sync", lambda: report.add(parts.elsewhere("sync", every, needs))
        yield "graph", lambda: report.add(parts.elsewhere("graph", every, needs))
    yield "sharded", lambda: spread(report, device, scale)
    wrap = partial(parts.compiled, device=device)
    compiles = partial(parts.same_steps, wrap=wrap, **where)
    yield "compile", lambda: each_optimizer(report, "compile", parts.COMPILED, compiles)
    if gpu:
        for name in parts.RIVALS:
            find = partial(parts.memory, name, scale.memory, device)
            yield f"memory, {name}", partial(_one, report, "memory", name, find)
    else:
        yield "memory", lambda: report.add(parts.elsewhere("memory", parts.RIVALS, needs))
    for shapes in scale.steps:
        yield f"steps, {shapes.name}", partial(times.steps, report, device, scale.rounds, shapes)
    for shapes in scale.methods:
        yield (
            f"methods, {shapes.name}",
            partial(times.methods, report, device, scale.rounds, shapes),
        )


def _one(report: Report, part: str, name: str, find: Callable[[], parts.Finding]) -> None:
    report.add([parts.checked(part, name, find)])


def run(report: Report, every: Iterable[Part], budget: float) -> None:
    """Run the parts until the budget is spent; what they have found is written after each.

    Raises:
        OSError: the folder cannot be written.
    """
    begin = time.monotonic()
    for name, part in every:
        if time.monotonic() - begin > budget:
            report.left_out.append(name)
            continue
        with quiet_compiler():
            try:
                part()
            except Exception as error:
                text = message(error)
                report.add([Check(part=name, name="all", status=FAILED, reason=text, numbers={})])
        report.write()
    report.write()


def device_of(name: str, *, tiny: bool) -> torch.device:
    """The device to check.

    Raises:
        ValueError: it is not there, or takes far too long.
    """
    try:
        device = torch.device(name)
    except RuntimeError:
        raise ValueError(f"--device={name}: give cuda, cuda:1 or cpu") from None
    if device.type == "cuda" and not torch.cuda.is_available():
        raise ValueError(
            f"--device={name}: torch {torch.__version__} sees no CUDA GPU: install a CUDA build "
            "(https://pytorch.org/get-started/locally/), or give --device cpu --tiny"
        )
    if device.type == "cuda" and (device.index or 0) >= torch.cuda.device_count():
        raise ValueError(f"--device={name}: there are {torch.cuda.device_count()} GPUs, from 0 on")
    if device.type != "cuda" and not tiny:
        raise ValueError(f"--device={name}: the matrices are a GPU's: give --tiny as well")
    return device


def main(argv: Sequence[str] | None = None) -> int:
    """Check a device; 1 if a check has failed, 2 for what cannot be done."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n", maxsplit=1)[0])
    parser.add_argument("--device", default="cuda", help="cuda, cuda:1, …, or cpu with --tiny")
    parser.add_argument("--tiny", action="store_true", help="matrices of a few rows")
    parser.add_argument("--budget", type=float, default=BUDGET, metavar="SECONDS")
    parser.add_argument("--out", type=Path, default=OUT, help="folder of the results")
    given = parser.parse_args(argv)
    try:
        if not given.budget > 0:
            raise ValueError(f"--budget={given.budget:g}: give a number of seconds > 0")
        device = device_of(given.device, tiny=given.tiny)
        if device.type == "cuda":
            torch.cuda.set_device(device)
        report = Report(given.out, machine(device))
        run(report, plan(report, device, SMALL if given.tiny else FULL), given.budget)
    except (ValueError, OSError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        print(f"Stopped. What was found is in {given.out}.", file=sys.stderr)
        return 130
    for name in report.left_out:
        print(f"{'left out':>18}  {name}")
    print(f"{len(report.failed)} of {len(report.checks)} checks have failed; see {given.out}")
    return int(bool(report.failed))


if __name__ == "__main__":
    sys.exit(main())
