"""What `modular` and the flows refuse, and how they say what to do instead."""

from __future__ import annotations

import math
import re
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from steepest import Atom, Chain, Parallel, Residual, modular, norms
from tests.modular_norm.test_modular import LINEAR, Node


def test_every_unknown_flow_is_asked_for_at_once_with_a_draft() -> None:
    class Own(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.pos = nn.Parameter(torch.ones(2))
            self.blocks = nn.ModuleList([Node(nn.Linear(2, 2), nn.GELU())])
            self.head = nn.Linear(2, 2)

    with pytest.raises(ValueError, match=r"^flow=") as caught:
        modular(Own())
    text = str(caught.value)
    assert "['the model (Own)', 'blocks.0 (Node)']" in text
    assert "flow={Own: Chain(Atom('pos', norm), 'blocks.*', 'head'), Node: Chain('0', '1')}" in text
    with pytest.raises(ValueError, match=r"ModuleList: Chain\('\*'\)"):
        modular(nn.ModuleList([nn.Linear(2, 2)]))


class Scaled(nn.Linear):
    """A Linear with a forward of its own: what it does cannot be known."""

    def forward(self, x: Tensor) -> Tensor:
        return 100 * super().forward(x)


CHAIN = nn.Sequential(nn.Linear(2, 2), nn.Linear(2, 2))
ERRORS: dict[str, tuple[nn.Module, dict[str, Any], str]] = {
    "own forward": (Scaled(2, 2), {}, r"flow=\['the model \(Scaled\)'\].*Atom\('weight', norm\)"),
    "attention": (nn.MultiheadAttention(4, 2), {}, r"flow=.*Atom\('in_proj_weight', norm\)"),
    "list": (Node(nn.ModuleList([CHAIN])), {}, r"flow=.*Node: Chain\('0.\*'\)"),
    "missing": (CHAIN, {"flow": {"": Chain("0")}}, r"flow=Chain\('0'\): in the model .*'1' is mis"),
    "twice": (CHAIN, {"flow": {"": Chain("0", "*")}}, r"flow=Chain.*'0' is there more than once"),
    "typo": (CHAIN, {"flow": {"": Chain("fc")}}, r"flow='fc': in the model.*no child.*'0', '1'"),
    "no match": (CHAIN, {"flow": {"": Chain("*.*")}}, r"flow='\*\.\*': .*names no child"),
    "parameter": (CHAIN, {"flow": {"0": Chain("weight")}}, r"flow='weight': .*Atom\('weight'"),
    "no atom": (CHAIN, {"flow": {"0": Atom("w", LINEAR)}}, r"flow=Atom\(name='w'.*no parameter"),
    "bad norm": (CHAIN, {"flow": {"0": Atom("bias", LINEAR)}}, r"0\.bias='shape \(2\)'"),
    "own": (CHAIN, {"flow": {"0": Atom("weight", LINEAR)}}, "'bias' is missing"),
    "idle flow": (CHAIN, {"flow": {"no.*": Chain("0")}}, r"flow='no\.\*': matches no module"),
    "shadowed": (
        CHAIN,
        {"flow": {"": Chain("*"), nn.Sequential: Chain("0")}},
        r"flow=<class .*Sequential.*>: earlier patterns",
    ),
    "activation": (
        nn.Sequential(nn.Linear(2, 2), nn.Softmax(-1)),
        {},
        r"sensitivities=\['1 \(Softmax\)'\]: unknown.*sensitivities=\{Softmax: 1.0\}",
    ),
    "idle number": (CHAIN, {"sensitivities": {nn.GELU: 2}}, r"sensitivities=<class .*matches no"),
    "zero": (CHAIN, {"sensitivities": {"0": 0}}, r"sensitivities\['0'\]=0: give a positive"),
    "nan": (CHAIN, {"sensitivities": {"0": math.nan}}, r"sensitivities\['0'\]=nan"),
    "negative": (CHAIN, {"masses": {"0": -1}}, r"masses\['0'\]=-1: give a number >= 0"),
    "infinite": (CHAIN, {"masses": {"0": math.inf}}, r"masses\['0'\]=inf"),
    "idle mass": (CHAIN, {"masses": {"2.*": 1}}, r"masses='2\.\*': matches no trainable parameter"),
    "hidden mass": (CHAIN, {"masses": {"*.bias": 1, "0.bias": 2}}, r"masses='0\.bias': earlier"),
    "empty": (CHAIN, {"masses": {"0": 1, "0.*": 0}}, r"masses\['0'\]=1: nothing in this module"),
    "all massless": (CHAIN, {"masses": {"*": 0}}, "model='Sequential': nothing in it has mass"),
    "lazy": (nn.Sequential(nn.LazyLinear(2)), {}, "model='0.weight': is not initialised yet"),
    "deep": (CHAIN, {"flow": {"": Chain("0", *[1e300] * 2, "1")}}, r"flow='0\.weight': .* inf"),
    "marker": (Node(CHAIN, flow="0"), {}, r"Node\.steepest_flow='0': give Chain"),
}


@pytest.mark.parametrize(("model", "arguments", "match"), ERRORS.values(), ids=ERRORS)
@pytest.mark.usefixtures("unchecked")
def test_errors_name_what_is_wrong_and_the_remedy(
    model: nn.Module, arguments: dict[str, Any], match: str
) -> None:
    with pytest.raises(ValueError, match=re.compile(match, re.DOTALL)):
        modular(model, **arguments)


@pytest.mark.usefixtures("unchecked")
@pytest.mark.parametrize(
    ("make", "match"),
    [
        (Chain, r"parts=\(\): name at least one child"),
        (lambda: Parallel("a", -1.0), r"parts=-1.0: give a positive number"),
        (lambda: Chain("a", None), r"parts=None: give names of children"),
        (lambda: Chain(True), r"parts=True: give a positive number"),
        (lambda: Residual("a", branch=0.0), r"branch=0.0: give a finite number other than 0"),
        (lambda: Residual("a", skip=math.inf), r"skip=inf: give a finite number"),
        (lambda: Atom("a", norms.Spectral), r"norm=<function.*give a norm object"),
        (lambda: Atom("a", norms.RMS(), 0.0), r"sensitivity=0.0: give a positive number"),
        (lambda: modular(CHAIN, flow={"": "0"}), r"flow\[''\]='0': give Chain"),
    ],
)
def test_a_flow_is_checked_when_it_is_written(make: Callable[[], object], match: str) -> None:
    with pytest.raises(ValueError, match=match):
        make()
