"""Compiled steps against the step as it is, in a process of their own: `test_compiled.py` runs it.

The arguments are names of CASES.

Checked annotations, which every test runs under, are nothing that torch.compile can follow.
"""

import json
import math
import re
import sys
import traceback
import warnings
from functools import partial
from pathlib import Path

import torch
from torch import nn
from torch._dynamo import lookup_backend

from steepest import SGD, Lion, LionK, Muon, PolarGrad, Scion, SteepestDescent, maps, norms
from steepest._common.numerics import HALF
from steepest.polar import Auto
from steepest.views import INPUT_FIRST, MatrixView

FAST = Auto(error=0.05)
# How far apart the two may be, over the parameter's norm. torch 2.10 compiles a lerp that rounds
# otherwise, and a polar factor carries that along. The plain steps below are up to 3.6e-6 from
# those in float64 (PolarGrad, whose steps are the longest), and so are the compiled ones.
ROUNDING = 1e-5
# A last bit of a float32 momentum may become one of bfloat16, eps = 2^-7, which changes a direction
# by 1.5 eps at most (0.9 measured). So do the steps of methods that work in half precision.
ROUNDING_HALF = 1.5 * 2**-7
SHAPES = [(8, 8), (8, 8), (12, 4), (4, 12), (24, 8), (80, 64), (64, 80)]


def groups(seed=0):
    """Matrices of several shapes and views, and two parameters for AdamW."""
    torch.manual_seed(seed)
    params = [nn.Parameter(torch.randn(s)) for s in SHAPES]
    views = [MatrixView() for _ in SHAPES]
    views[2], views[4] = INPUT_FIRST, MatrixView(split=(16, 4, 4))
    rest = [nn.Parameter(torch.randn(8)), nn.Parameter(torch.randn(5, 3))]
    return [{"params": params, "views": views}, {"params": rest, "adamw": True}]


def plain(seed=0):
    """The same parameters without views, for norms of entries."""
    return [p for group in groups(seed) for p in group["params"]]


def members(optimizer):
    return [p for group in optimizer.param_groups for p in group["params"]]


def give_gradients(optimizer, seed, bad=()):
    generator = torch.Generator().manual_seed(seed)
    for i, p in enumerate(members(optimizer)):
        p.grad = torch.randn(p.shape, generator=generator, dtype=torch.float64).to(p.dtype)
        if i in bad:
            p.grad.view(-1)[0] = float("nan")


TRACED = {
    "muon": lambda: Muon(groups(), lr=torch.tensor(0.1), adamw_lr=torch.tensor(0.01)),
    "muon_torch": lambda: Muon(groups(), lr=torch.tensor(0.1), ns_steps=5),
    "muon_maximize": lambda: Muon(
        groups(), lr=torch.tensor(0.1), maximize=True, nesterov=False, adamw_weight_decay=0.1
    ),
    "muon_8bit": lambda: Muon(
        groups(), lr=torch.tensor(0.1), adamw_lr=torch.tensor(0.01), momentum_dtype=torch.int8
    ),
    "lion": lambda: Lion(plain(), lr=torch.tensor(0.1), weight_decay=0.1),
    "sgd": lambda: SGD(plain(), lr=torch.tensor(0.1)),
    "polar_grad": lambda: PolarGrad(groups(), lr=torch.tensor(0.1)),
    "scion": lambda: Scion(groups(), lr=torch.tensor(0.1)),
    "lion_k": lambda: LionK(
        groups(),
        lr=torch.tensor(0.1),
        K=maps.NuclearMap(polar=FAST),
        weight_decay=0.1,
        decay="implicit",
    ),
    "projected": lambda: Lion(
        plain(), lr=torch.tensor(0.1), weight_decay=2.0, decay="cautious", constraint="project"
    ),
    "rows": lambda: SteepestDescent(
        groups(), norms.Operator("rms", math.inf), lr=torch.tensor(0.1), momentum=0.9
    ),
}


def in_half_precision(p):
    """Whether this processor takes the polar factor of a matrix in half precision."""
    method = FAST.choose(*p.shape, p.dtype, p.device)
    return method.compute_dtype(p.dtype, p.device) in HALF


def a_compiled_step_is_the_step(make, coarse):
    """In one graph with and one without state, over skipped gradients and another learning rate.

    `coarse` says of a matrix whether its step is in half precision.
    """
    eager, traced, graphs = make(), make(), []
    half = [p.ndim == 2 and coarse(p) for p in members(eager)]
    moved = [0.0] * len(half)

    def backend(graph, inputs):
        graphs.append(graph)
        return lookup_backend("aot_eager")(graph, inputs)

    compiled = torch.compile(traced.step, fullgraph=True, backend=backend)
    rules = {place: rule for place, (_, rule) in traced._rules.items()}
    assert rules
    for seed, bad in enumerate([(), (1, 7), (), (4,), ()]):
        for optimizer in (eager, traced):
            give_gradients(optimizer, seed, bad)
            for group in optimizer.param_groups:
                if seed == 3 and isinstance(group["lr"], torch.Tensor):
                    group["lr"].fill_(0.03)
        before = [p.grad.clone() for p in members(traced)]
        old = [p.detach().clone() for p in members(eager)]
        eager.step()
        compiled()
        for g, p in zip(before, members(traced), strict=True):
            torch.testing.assert_close(p.grad, g, rtol=0, atol=0, equal_nan=True)
        for i, (p, q) in enumerate(zip(members(eager), members(traced), strict=True)):
            moved[i] += float(torch.linalg.vector_norm(p - old[i]))
            rounding = ROUNDING * float(torch.linalg.vector_norm(p))
            rounding += ROUNDING_HALF * moved[i] if half[i] else 0.0
            far = float(torch.linalg.vector_norm(q - p))
            assert far <= rounding, (p.shape, far, rounding)
            assert eager.state[p].keys() == traced.state[q].keys() or seed == 1
            for key, value in eager.state[p].items():
                torch.testing.assert_close(traced.state[q][key], value, rtol=1e-5, atol=1e-6)
    # No compiled step makes a rule anew: torch 2.10 could not.
    assert all(traced._rules[place][1] is rule for place, rule in rules.items()), rules
    assert traced.skipped == eager.skipped == 3
    assert 1 <= len(graphs) <= 2, len(graphs)


def two_graphs_do():
    """One without and one with state; neither a skip nor a tensor lr compiles again."""
    optimizer, graphs = Muon(groups(), lr=torch.tensor(0.1)), []

    def backend(graph, _):
        graphs.append(graph)
        return graph.forward

    compiled = torch.compile(optimizer.step, fullgraph=True, backend=backend)
    for seed in range(6):
        give_gradients(optimizer, seed, bad=(seed,) if seed > 2 else ())
        optimizer.param_groups[0]["lr"].mul_(0.5)
        compiled()
    assert 1 <= len(graphs) <= 2, len(graphs)


def a_coarse_product_setting_is_refused():
    """A graph cannot set the precision of products, and must not be wrong silently."""
    optimizer = Muon(groups(), lr=0.1)
    give_gradients(optimizer, 0)
    torch.set_float32_matmul_precision("high")
    refused = ""
    try:
        torch.compile(optimizer.step, fullgraph=True, backend="aot_eager")()
    except Exception as error:
        refused = str(error)
    finally:
        torch.set_float32_matmul_precision("highest")
    assert "single precision needs torch.set_float32_matmul_precision" in refused, refused


def the_page_runs():
    """The code of the page on the step, as a reader takes it over."""
    page = Path(__file__).resolve().parents[2] / "docs" / "step.md"
    code = re.findall(r"^```python\n(.*?)^```$", page.read_text("utf-8"), re.MULTILINE | re.DOTALL)
    assert any("torch.compile" in block for block in code)
    exec(compile("\n".join(code), page.name, "exec"), {"__name__": "__docs__"})


# torch's method is in bfloat16, norms of entries and rows take no polar factor.
COARSE = {
    "muon_torch": lambda _: True,
    **dict.fromkeys(("lion", "sgd", "projected", "rows"), lambda _: False),
}

CASES = {
    **{
        name: partial(
            a_compiled_step_is_the_step,
            make,
            COARSE.get(name, in_half_precision),
        )
        for name, make in TRACED.items()
    },
    "graphs": two_graphs_do,
    "page": the_page_runs,
    "precision": a_coarse_product_setting_is_refused,
}


if __name__ == "__main__":
    torch.set_num_threads(1)
    # Such as of a cache that is passed over: nothing that a user would have to look into.
    warnings.filterwarnings("error", message="Dynamo detected")
    done = {}
    for name in sys.argv[1:]:
        torch.compiler.reset()
        try:
            CASES[name]()
            done[name] = ""
        except Exception:
            done[name] = traceback.format_exc()
    json.dump(done, sys.stdout)
