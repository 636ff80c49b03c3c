"""The modular norm of a model: the algebra against the paper's recursion, flows, masses, errors."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor, nn

from steepest import Atom, Chain, Parallel, Residual, modular, norms
from steepest.apps.train.config import ModelConfig
from steepest.apps.train.model import GPT, MLP, Attention, Block
from steepest.modular_norm import Flow

WIDTH = 3
LINEAR = norms.Operator("rms", "rms")


def weights(n: norms.Modular) -> dict[str, float]:
    """The number of each parameter."""
    return {name: s for name, (_, s) in n.parts.items()}


class Node(nn.Module):
    """A module of children 0, 1, … whose flow is stated."""

    def __init__(self, *children: nn.Module, flow: Flow | Atom | None = None) -> None:
        super().__init__()
        for i, child in enumerate(children):
            self.add_module(str(i), child)
        if flow is not None:
            self.steepest_flow = flow


# --- the algebra, written down as the paper has it -------------------------------------------

Value = Callable[[Mapping[str, Tensor]], float]


@dataclass(frozen=True)
class Triple:
    """A module of the paper: mass, sensitivity, norm of a change of its weights."""

    mass: float
    sensitivity: float
    norm: Value = field(default=lambda _: 0.0)


def share(part: Triple, total: float, changes: Mapping[str, Tensor]) -> float:
    return total / part.mass * part.norm(changes) if part.mass else 0.0


def compose(second: Triple, first: Triple) -> Triple:
    """Large et al., arXiv 2405.14813, definition of composition."""
    m = first.mass + second.mass
    return Triple(
        m,
        first.sensitivity * second.sensitivity,
        lambda d: max(second.sensitivity * share(first, m, d), share(second, m, d)),
    )


def both(one: Triple, two: Triple) -> Triple:
    """Large et al.: the tuple of two modules, and so their sum."""
    m = one.mass + two.mass
    return Triple(
        m,
        one.sensitivity + two.sensitivity,
        lambda d: max(share(one, m, d), share(two, m, d)),
    )


def spectral(name: str) -> Value:
    return lambda d: (
        math.sqrt(d[name].shape[1] / d[name].shape[0]) * float(torch.linalg.svdvals(d[name])[0])
    )


Spec = tuple[Any, ...]
NUMBERS = st.floats(0.25, 2.0)
SPECS: st.SearchStrategy[Spec] = st.recursive(
    st.one_of(
        st.tuples(st.just("linear"), st.sampled_from([0.0, 0.5, 1.0, 3.0])),
        st.tuples(st.just("number"), NUMBERS),
    ),
    lambda inner: st.one_of(
        st.tuples(st.just("chain"), st.lists(inner, min_size=1, max_size=3)),
        st.tuples(st.just("parallel"), st.lists(inner, min_size=1, max_size=3)),
        st.tuples(st.just("residual"), inner, st.floats(-2, 2), NUMBERS, st.booleans()),
    ),
    max_leaves=8,
)


def build(spec: Spec, name: str, masses: dict[str, float]) -> tuple[nn.Module | float, Triple]:
    """The module, or the number, of a specification, and the paper's triple."""
    kind, *rest = spec
    if kind == "linear":
        masses[f"{name}.weight"] = rest[0]
        return nn.Linear(WIDTH, 2, bias=False), Triple(rest[0], 1.0, spectral(f"{name}.weight"))
    if kind == "number":
        return rest[0], Triple(0.0, rest[0])
    inner = rest[0] if kind != "residual" else [rest[0]]
    made = [build(s, f"{name}.{i}" if name else str(i), masses) for i, s in enumerate(inner)]
    parts = [m if isinstance(m, float) else str(i) for i, (m, _) in enumerate(made)]
    triple = made[0][1]
    flow: Flow
    if kind == "residual":
        _, skip, branch, negative = rest
        branch = -branch if negative else branch
        flow = Residual(parts[0], skip=skip, branch=branch)
        scaled = compose(Triple(0.0, abs(branch)), triple)
        triple = both(Triple(0.0, abs(skip)), scaled)
    else:
        flow = Chain(*parts) if kind == "chain" else Parallel(*parts)
        for _, more in made[1:]:
            triple = compose(more, triple) if kind == "chain" else both(triple, more)
    node = Node(flow=flow)
    for i, (module, _) in enumerate(made):
        if isinstance(module, nn.Module):
            node.add_module(str(i), module)
    return node, triple


@given(SPECS)
def test_the_weights_are_those_of_the_papers_recursion(spec: Spec) -> None:
    masses: dict[str, float] = {}
    model, triple = build(("chain", [spec]), "", masses)
    assert isinstance(model, nn.Module)
    if not any(masses.values()):
        with pytest.raises(ValueError, match="nothing in it has mass"):
            modular(model, masses=masses)
        return
    n = modular(model, masses=masses)
    changes = {name: torch.randn(2, WIDTH, dtype=torch.float64) for name in n.parts}
    every = {name: torch.randn(2, WIDTH, dtype=torch.float64) for name in masses} | changes
    assert float(n(changes)) == pytest.approx(triple.norm(every), rel=1e-9)
    # Each one alone: a maximum hides the smaller ones.
    for name, change in changes.items():
        alone = {k: change if k == name else torch.zeros(2, WIDTH) for k in every}
        mine = {k: alone[k] for k in changes}
        assert float(n(mine)) == pytest.approx(triple.norm(alone), rel=1e-6)
    assert n.massless == {name for name, mass in masses.items() if mass == 0}
    assert list(n.parts) == [k for k, _ in model.named_parameters() if masses[k] > 0]


# --- by hand ---------------------------------------------------------------------------------


def test_a_multilayer_perceptron_by_hand() -> None:
    model = nn.Sequential(nn.Linear(4, 8), nn.Sigmoid(), nn.Linear(8, 2))
    n = modular(model)
    m = 1 + 0.1 + 1 + 0.1
    assert weights(n) == pytest.approx(
        {"0.weight": m / 4, "0.bias": m / 0.4, "2.weight": m, "2.bias": m / 0.1}
    )
    assert n.parts["0.weight"][0] == n.parts["2.weight"][0] == LINEAR
    assert n.parts["0.bias"][0] == norms.RMS()
    assert n.massless == frozenset()
    assert n.blocks["2.weight"] == norms.Scaled(LINEAR, m)


def test_a_residual_block_by_hand() -> None:
    model = nn.Sequential(
        nn.Linear(3, 3, bias=False), Node(nn.Linear(3, 3, bias=False), flow=Residual("0"))
    )
    assert weights(modular(model)) == {"0.weight": 2 * 2, "1.0.weight": 2}  # 1 + 1 behind the first
    plain = nn.Sequential(model[0], *[Node(nn.Linear(3, 3), flow=Residual("0")) for _ in range(5)])
    total = sum((1.1,) * 5) + 1
    assert weights(modular(plain))["0.weight"] == pytest.approx(total * 2**5)
    kept = Residual("0", skip=1 - 1 / 5, branch=-1 / 5)  # the sign does not matter
    n = weights(modular(plain, flow={Node: kept}))
    assert n["0.weight"] == pytest.approx(total)
    assert n["1.0.weight"] == n["5.0.weight"] == pytest.approx(total / 5)


def test_the_gpt_by_hand() -> None:
    config = ModelConfig(layers=1, width=8, heads=2, context=4)
    model = GPT(config, vocabulary=5, seed=0)
    n = modular(model)
    m = 2 + 4 + 1 + 3 * 0.1
    attn, mlp = 0.5 + 0.5 * 3, 0.5 + 0.5 * 1.129
    assert weights(n) == pytest.approx(
        {
            "tok_emb.weight": m * 0.5 * attn * mlp,
            "pos_emb.weight": m * 0.5 * attn * mlp,
            "blocks.0.ln1.weight": m / 0.1 * 3 / 2 * mlp,
            "blocks.0.attn.qkv.weight": m * 3 / 2 * mlp,
            "blocks.0.attn.proj.weight": m / 2 * mlp,
            "blocks.0.ln2.weight": m / 0.1 * 1.129 / 2,
            "blocks.0.mlp.fc.weight": m * 1.129 / 2,
            "blocks.0.mlp.proj.weight": m / 2,
            "ln.weight": m / 0.1,
            "head.weight": m,
        }
    )
    assert list(n.parts) == [name for name, _ in model.named_parameters()]
    step = n.dualize({name: torch.randn_like(p) for name, p in model.named_parameters()})
    assert float(n(step)) == pytest.approx(1.0, rel=1e-4)


def test_the_blocks_of_the_gpt_keep_the_sensitivity_whatever_the_depth() -> None:
    for layers in (1, 12):
        model = GPT(ModelConfig(layers=layers, width=4, heads=1, context=2), vocabulary=3, seed=0)
        flat = {Attention: Chain("qkv", "proj"), MLP: Chain("fc", "proj")}
        found = weights(modular(model, flow=flat))
        assert 2 * found["tok_emb.weight"] == pytest.approx(found["head.weight"])


def test_what_is_passed_goes_before_the_attribute() -> None:
    model = GPT(ModelConfig(layers=2, width=4, heads=1, context=2), vocabulary=3, seed=0)
    plain = Chain(Residual(Chain("ln1", "attn")), Residual(Chain("ln2", "mlp")))
    flow: dict[str | type, Flow] = {"blocks.1": plain, Attention: Chain("qkv", "proj")}
    found = weights(modular(model, flow=flow))
    m = 2 + 8 + 1 + 5 * 0.1
    assert found["blocks.1.mlp.proj.weight"] == pytest.approx(m)
    assert found["blocks.0.mlp.proj.weight"] == pytest.approx(m / 4 * 2 * (1 + 1.129))


# --- flows -----------------------------------------------------------------------------------


def test_a_flow_may_be_given_by_type_name_or_attribute() -> None:
    def make(flow: Flow | None = None) -> nn.Module:
        return nn.Sequential(Node(nn.Linear(3, 3), nn.Linear(3, 3), flow=flow))

    stated = Chain("0", 2.0, "1")
    wanted = modular(make(stated))
    assert weights(wanted)["0.0.weight"] == pytest.approx(2 * 2.2)
    for key in (Node, "0", "?"):
        assert modular(make(), flow={key: stated}) == wanted

    class Marked(Node):
        steepest_flow = stated

    marked = nn.Sequential(Marked(nn.Linear(3, 3), nn.Linear(3, 3)))
    assert modular(marked) == wanted
    assert modular(marked[0], flow={"": Chain("0", 1.0, "1")}) != modular(marked[0])


def test_a_star_in_a_part_is_one_name_and_keeps_the_order() -> None:
    model = Node(nn.ModuleList(nn.Sequential(nn.Linear(2, 2)) for _ in range(11)))
    chained = modular(model, flow={"": Chain(*[f"0.{i}" for i in range(11)])})
    assert modular(model, flow={"": Chain("0.*")}) == chained
    halves = {"": Chain("0.*"), nn.Sequential: Chain("0", 0.5)}
    found = weights(modular(model, flow=halves))
    assert found["0.3.0.weight"] / found["0.10.0.weight"] == pytest.approx(0.5**7)
    side = weights(modular(nn.Sequential(nn.Linear(2, 2), model), flow={Node: Parallel("0.*")}))
    assert side["0.weight"] / side["1.0.3.0.weight"] == pytest.approx(11)


def test_wrappers_leave_the_flow_as_it_is() -> None:
    inner = Node(nn.Linear(2, 2), nn.Linear(2, 2))
    stated = Chain("0", 3.0, "1")
    plain = weights(modular(inner, flow={"": stated}, masses={"1.bias": 2.0}))
    wrapped = nn.DataParallel(inner)
    found = weights(modular(wrapped, flow={"": stated}, masses={"1.bias": 2.0}))
    assert found == {f"module.{name}": s for name, s in plain.items()}

    class Passing(nn.Module):
        def __init__(self, module: nn.Module) -> None:
            super().__init__()
            self._checkpoint_wrapped_module = module

    found = weights(modular(Passing(inner), flow={Node: stated}, masses={"1.bias": 2.0}))
    assert list(found.values()) == list(plain.values())


def test_a_sensitivity_is_overridden_for_what_comes_before_only() -> None:
    model = nn.Sequential(nn.Linear(2, 2), nn.Linear(2, 2), nn.Softmax(dim=-1))
    for key in (nn.Softmax, "2"):
        found = weights(modular(model, sensitivities={key: 0.5}))
        assert set(found.values()) == {0.5 * 2.2, 0.5 * 22}
    found = weights(modular(model, sensitivities={"2": 0.5, "1": 3.0}))
    assert found["0.weight"] == pytest.approx(2.2 * 0.5 * 3)
    assert found["1.weight"] == pytest.approx(2.2 * 0.5)


def test_an_atom_describes_what_has_no_norm_by_its_type() -> None:
    class Scaler(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.scale = nn.Parameter(torch.ones(4))
            self.table = nn.Parameter(torch.ones(4, 4))

    flow = Chain(Atom("table", norms.Frobenius(), 2.0), Atom("scale", norms.LInf(), 5.0))
    n = modular(nn.Sequential(nn.Linear(4, 4), Scaler()), flow={Scaler: flow})
    m = 1.1 + 1.1
    assert n.parts["1.table"] == (norms.Frobenius(), pytest.approx(m * 5))
    assert n.parts["1.scale"] == (norms.LInf(), pytest.approx(m / 0.1))
    assert n.parts["0.weight"] == (LINEAR, pytest.approx(m * 10))
    sign = Atom("weight", norms.Operator(1, math.inf))
    assert modular(nn.Linear(3, 2, bias=False), flow={nn.Linear: sign}).parts == {
        "weight": (norms.Operator(1, math.inf), 1.0)
    }


# --- masses ----------------------------------------------------------------------------------


def test_only_the_proportion_of_masses_matters() -> None:
    model = nn.Sequential(nn.Linear(2, 2), nn.LayerNorm(2), nn.Linear(2, 2))
    doubled = {"?.weight": 2.0, "1.weight": 0.2, "*.bias": 0.2}
    found = modular(model, masses={"1.weight": 0.2, **doubled})
    assert weights(found) == pytest.approx(weights(modular(model)))
    assert weights(modular(model, masses={"": 7.0})) == pytest.approx(weights(modular(model)))


def test_a_pattern_of_modules_gives_the_mass_of_the_whole() -> None:
    model = nn.Sequential(nn.Linear(2, 2), nn.Sequential(nn.Linear(2, 2), nn.Linear(2, 2)))
    found = weights(modular(model, masses={"1": 5.0, "1.0": 0.1, "1.0.bias": 1.0, "*.bias": 1.0}))
    # 1.0 shares 0.1 equally, then 1 scales its 2.1 to 5.
    m = 2 + 5
    assert found == pytest.approx(
        {
            "0.weight": m,
            "0.bias": m,
            "1.0.weight": m / (0.05 * 5 / 2.1),
            "1.0.bias": m / (0.05 * 5 / 2.1),
            "1.1.weight": m / (5 / 2.1),
            "1.1.bias": m / (5 / 2.1),
        }
    )


def test_what_has_no_mass_or_no_gradient_is_not_moved() -> None:
    model = nn.Sequential(nn.Linear(2, 2), nn.Linear(2, 2), Node(nn.Bilinear(2, 2, 2)))
    model[1].requires_grad_(False)
    n = modular(model, masses={"0.bias": 0.0, "2": 0.0}, sensitivities={Node: 4.0})
    assert weights(n) == {"0.weight": 4.0}
    assert n.massless == {"0.bias", "2.0.weight", "2.0.bias"}
    assert "mass 0: not moved" in str(n)


# --- tied parameters -------------------------------------------------------------------------


def test_a_shared_layer_counts_at_each_place_with_the_largest_weight() -> None:
    shared = nn.Linear(2, 2, bias=False)
    model = nn.Sequential(shared, nn.Sigmoid(), shared, nn.Linear(2, 2, bias=False))
    n = modular(model)
    assert weights(n) == {"0.weight": 3.0, "3.weight": 3.0}
    assert weights(modular(model, masses={"2.weight": 2.0})) == {"0.weight": 2.5, "3.weight": 5}
    assert modular(model, masses={"2.weight": 0.0}).massless == {"0.weight"}


def test_a_tied_parameter_needs_one_norm() -> None:
    model = nn.Sequential(nn.Embedding(5, 3), nn.Linear(3, 5, bias=False))
    model[1].weight = model[0].weight
    with pytest.raises(ValueError, match=r"flow='0.weight': this parameter is tied .*Atom\('weigh"):
        modular(model)
    n = modular(model, flow={"0": Atom("weight", LINEAR)})
    assert n.parts == {"0.weight": (LINEAR, 2.0)}
    with pytest.raises(ValueError, match="nothing in it has mass"):
        modular(model, masses={"0.weight": 0.0})


def test_flows_are_values() -> None:
    assert Chain("a", Residual("b", skip=0.5)) == Chain("a", Residual("b", skip=0.5))
    assert Chain("a") != Parallel("a")
    assert repr(Parallel("a", Residual("b"))) == "Parallel('a', Residual('b', skip=1, branch=1))"
    assert len({Chain("a"), Chain("a"), Residual("a"), Residual("a", branch=0.5)}) == 3


def test_the_block_of_the_gpt_is_what_the_page_says() -> None:
    block = Block(4, 1, layers=8)
    inner = Residual(Chain("ln1", "attn"), skip=1 - 1 / 16, branch=1 / 16)
    assert isinstance(block.steepest_flow, Chain)
    assert block.steepest_flow.parts[0] == inner
