"""Parameters without their module: names route, shapes are asked for, errors say what to write."""

import re
import sys
import types

import pytest
import torch
from torch import nn

import steepest
from steepest import Muon, Scion
from steepest.optim.remedies import REMEDIES


def language_model(bias=True):
    torch.manual_seed(0)
    return nn.ModuleDict(
        {
            "wte": nn.Embedding(100, 16),
            "qkv": nn.Linear(16, 48, bias=bias),
            "norm": nn.LayerNorm(16, bias=bias) if bias else nn.Identity(),
            "lm_head": nn.Linear(16, 100, bias=False),
        }
    )


def by_optimizer(optimizer):
    """Names of the parameters, or their places, that are stepped as matrices and by AdamW."""
    found = {False: [], True: []}
    for group in optimizer.param_groups:
        found[group["adamw"]] += group.get("param_names", [tuple(p.shape) for p in group["params"]])
    return found[False], found[True]


@pytest.mark.parametrize("given", ["pairs", "group", "param_names"])
def test_names_route_as_the_module_does(given):
    m = language_model()
    names, params = zip(*m.named_parameters(), strict=True)
    pairs = {
        "pairs": m.named_parameters(),
        "group": [{"params": list(m.named_parameters())}],
        "param_names": [{"params": list(params), "param_names": list(names)}],
    }[given]
    optimizer = Muon(pairs, lr=0.02)
    assert by_optimizer(optimizer) == by_optimizer(Muon(m, lr=0.02))
    assert optimizer.routing["qkv.weight"].matrices == "3 × 16×16"
    assert [g["lr"] for g in optimizer.param_groups] == [0.02, 3e-4, 3e-4]


def test_groups_with_names_are_divided_each_for_itself():
    """As trainers make them, with decay for some and none for others."""
    m = language_model()
    decayed = [(n, p) for n, p in m.named_parameters() if p.ndim > 1]
    others = [(n, p) for n, p in m.named_parameters() if p.ndim < 2]
    groups = [
        {"params": decayed, "weight_decay": 0.3, "lr": 0.01},
        {"params": others, "weight_decay": 0.0},
    ]
    found = Muon(groups, lr=0.02).param_groups
    assert [(g["adamw"], g["weight_decay"], len(g["params"])) for g in found] == [
        (False, 0.3, 1),
        (True, 0.3, 2),
        (True, 0.0, 3),
    ]
    # Half of the rate of matrices is half of AdamW's.
    assert [g["lr"] for g in found] == [0.01, 1.5e-4, 3e-4]


def test_overrides_and_heads_are_taken_with_names():
    pairs = list(language_model().named_parameters())
    assert "lm_head.weight" in by_optimizer(Muon(pairs, overrides={"lm_head*": "matrix"}))[0]
    assert Muon(pairs, heads={"qkv*": 4}).routing["qkv.weight"].matrices == "12 × 4×16"
    with pytest.raises(ValueError, match="overrides="):
        Muon([pairs[1][1]], overrides={"*": "matrix"})


def test_a_list_of_matrices_with_a_table_by_name_says_that_adamw_has_it():
    pairs = list(language_model(bias=False).named_parameters())
    with pytest.warns(UserWarning, match=r"wte\.weight, lm_head\.weight: AdamW has them") as seen:
        optimizer = Muon(pairs, lr=0.02)
    assert len(seen) == 1
    assert by_optimizer(optimizer) == (["qkv.weight"], ["wte.weight", "lm_head.weight"])
    optimizer = Muon([{"params": pairs, "adamw": False}], lr=0.02)
    assert by_optimizer(optimizer) == ([n for n, _ in pairs], [])


def test_a_list_of_matrices_that_holds_tables_by_shape_says_so_once():
    m = language_model(bias=False)
    with pytest.warns(UserWarning, match=r"parameter 0 \(100×16\), parameter 2 \(100×16\)") as seen:
        optimizer = Muon(m.parameters(), lr=0.02)
    assert len(seen) == 1
    assert len(optimizer.param_groups) == 1


SILENT = {
    "layers of a transformer": [(48, 16), (16, 16), (64, 16), (16, 64)],
    "gated layers": [(2 * 171, 64), (64, 171), (192, 64), (64, 64)],
    "low-rank updates": [(8, 64), (64, 8), (8, 64), (192, 8), (8, 256), (64, 8)],
    "one tall matrix": [(512, 16)],
}


@pytest.mark.parametrize("shapes", SILENT.values(), ids=SILENT)
def test_hidden_matrices_are_no_tables(shapes):
    # A warning is an error here.
    optimizer = Muon([nn.Parameter(torch.zeros(shape)) for shape in shapes])
    assert by_optimizer(optimizer) == (shapes, [])


def test_who_has_said_what_is_a_matrix_hears_nothing():
    m = language_model(bias=False)
    hidden, table, head = m.parameters()
    optimizer = Muon([{"params": [hidden, table]}, {"params": [head], "adamw": True}])
    assert by_optimizer(optimizer) == ([(100, 16), (48, 16)], [(100, 16)])


def test_shapes_decide_where_they_are_asked_for():
    m = nn.Sequential(nn.Conv2d(3, 8, 3), nn.Flatten(), nn.Linear(8, 8), nn.Linear(8, 1))
    with pytest.warns(UserWarning, match=r"2 parameters are stepped .* 4 by AdamW, by their"):
        optimizer = Muon(m.parameters(), lr=0.02, unrouted="adamw")
    matrices, others = by_optimizer(optimizer)
    assert matrices == [(8, 3, 3, 3), (8, 8)]
    assert others == [(8,), (8,), (1, 8), (1,)]
    assert [view.matrices(p)[0].shape for p, view in optimizer.views().items()] == [
        (1, 8, 27),
        (1, 8, 8),
    ]
    assert [(g["lr"], g["weight_decay"]) for g in optimizer.param_groups] == [
        (0.02, 0.1),
        (3e-4, 0.0),
    ]
    added = nn.Linear(4, 4)
    optimizer.add_param_group({"params": list(added.parameters())})
    assert [g["adamw"] for g in optimizer.param_groups] == [False, True, False, True]
    m(torch.randn(2, 3, 3, 3)).sum().backward()
    optimizer.step()
    with pytest.raises(ValueError, match="unrouted='sgd'"):
        Muon(m.parameters(), unrouted="sgd")


def test_a_norm_of_entries_takes_whatever_it_is_given():
    m = nn.Linear(4, 4)
    assert len(steepest.Lion(m.parameters(), lr=1e-3).param_groups) == 1
    assert len(steepest.Lion(m.named_parameters(), lr=1e-3).param_groups) == 1


@pytest.mark.parametrize("package", REMEDIES)
def test_the_error_says_the_line_for_the_framework_at_hand(package, monkeypatch):
    caller = types.ModuleType(f"{package}.trainer")
    exec("def make(cls, params, **kw): return cls(params, **kw)", caller.__dict__)
    line = REMEDIES[package].format(cls="steepest.Scion")
    with pytest.raises(ValueError, match=re.escape(f"under {package} write {line}")):
        caller.make(Scion, nn.Linear(4, 4).parameters(), lr=0.1)


def test_without_a_framework_the_error_says_three_ways():
    with pytest.raises(ValueError, match=r"the module.*named_parameters\(\).*unrouted=\"adamw\""):
        Muon(nn.Linear(4, 4).parameters())
    assert not any(name in sys.modules for name in ("stable_baselines3", "skorch"))


def test_a_module_gets_a_rate_that_trains_and_matrices_torch_s():
    m = language_model()
    assert Muon(m).defaults["lr"] == Muon(steepest.route(m)).defaults["lr"] == 0.02
    assert Muon(steepest.route(m).groups()).defaults["lr"] == 0.02
    assert Muon(m, adjust_lr_fn="match_rms_adamw").defaults["lr"] == 1e-3
    assert (
        Muon([m["qkv"].weight]).defaults["lr"] == torch.optim.Muon([m["qkv"].weight]).defaults["lr"]
    )


def test_each_kind_may_have_its_rate():
    m = language_model()
    optimizer = Muon(m, lr=0.02, embedding_lr=0.3, head_lr=0.004, vector_lr=0.001)
    found = {n: g["lr"] for g in optimizer.param_groups for n in g["param_names"]}
    assert found == {
        "wte.weight": 0.3,
        "qkv.weight": 0.02,
        "lm_head.weight": 0.004,
        **dict.fromkeys(("qkv.bias", "norm.weight", "norm.bias"), 0.001),
    }
    assert len(Muon(m, lr=0.02, adamw_lr=1e-3).param_groups) == 3
    tables = [g["lr"] for g in Muon(m, adamw_lr=1e-3, head_lr=0.5).param_groups if g["adamw"]]
    assert tables == [1e-3, 0.5, 1e-3]
    with pytest.raises(ValueError, match=r"head_lr=0\.5: it is about the routing"):
        Muon([m["qkv"].weight], head_lr=0.5)


class Wrapper(torch.optim.Optimizer):
    """An optimizer around another, which writes its defaults into the groups, as SAM's does."""

    def __init__(self, groups, cls, **options):
        super().__init__(groups, {"rho": 0.05, **options})
        self.inner = cls(self.param_groups, **options)


def bare_groups(m):
    return [{**g, "params": [p for _, p in g["params"]]} for g in steepest.route(m).groups()]


def test_adamw_keeps_its_rate_in_an_optimizer_around_this_one():
    m = language_model()
    with pytest.warns(UserWarning, match="group") as seen:
        optimizer = Wrapper(bare_groups(m), Muon, lr=0.02, weight_decay=0.2).inner
    # The wrapper's own keys are no reason for another one.
    assert "adamw_lr=0.0003 is taken" in str(seen[0].message)
    assert len(seen) == 1
    assert [(g["lr"], g["weight_decay"]) for g in optimizer.param_groups] == [
        (0.02, 0.2),
        (3e-4, 0.0),
        (3e-4, 0.0),
    ]


def test_a_rate_of_adamw_s_group_that_was_meant_is_taken():
    m = language_model()
    groups = bare_groups(m)
    groups[1]["lr"] = groups[2]["lr"] = 1e-3
    assert [g["lr"] for g in Muon(groups, lr=0.02).param_groups] == [0.02, 1e-3, 1e-3]
    groups[1]["lr"] = 0.02
    assert [g["lr"] for g in Muon(groups, lr=0.02).param_groups] == [0.02, 0.02, 1e-3]


@pytest.mark.parametrize("wrapped", [False, True])
def test_values_that_the_user_wrote_hold_without_a_wrapper(wrapped):
    m = language_model()
    groups = bare_groups(m)
    for group in groups:
        group.update(lr=1e-3, weight_decay=0.1)
    if wrapped:
        with pytest.warns(UserWarning, match="adamw_lr=0.0003 is taken"):
            optimizer = Wrapper(groups, Muon, lr=1e-3, weight_decay=0.1).inner
    else:
        optimizer = Muon(groups, lr=1e-3, weight_decay=0.1)
    found = [(g["lr"], g["weight_decay"]) for g in optimizer.param_groups if g["adamw"]]
    assert found == [(3e-4, 0.0) if wrapped else (1e-3, 0.1)] * 2


def test_a_norm_that_a_wrapper_writes_into_every_group_is_the_usual_one():
    named = list(language_model().named_parameters())
    norm = steepest.norms.Spectral()
    optimizer = Wrapper(named, steepest.SteepestDescent, lr=0.1, norm=norm).inner
    assert by_optimizer(optimizer)[0] == ["qkv.weight"]


@pytest.mark.parametrize(
    ("given", "expected"),
    [
        (lambda m: m.named_parameters(), 0.02),
        (lambda m: [{"params": m}], 0.02),
        (lambda m: [{"params": [m["qkv"].weight], "algorithm": "muon"}], 1e-3),
        (
            lambda m: [
                {"params": [m["qkv"].weight], "algorithm": "muon"},
                {"params": [m["qkv"].bias], "algorithm": "adamw"},
            ],
            0.02,
        ),
    ],
)
def test_whatever_torch_does_not_take_gets_a_rate_that_trains(given, expected):
    assert Muon(given(language_model())).defaults["lr"] == expected


def test_a_group_s_rate_is_said_for_matrices():
    m = language_model()
    named = list(m.named_parameters())
    assert [g["lr"] for g in Muon([{"params": named, "lr": 0.02}]).param_groups] == [
        0.02,
        3e-4,
        3e-4,
    ]
    rates = [g["lr"] for g in Muon([{"params": named, "lr": 0.01}], head_lr=0.02).param_groups]
    assert rates == pytest.approx([0.01, 1.5e-4, 0.01, 1.5e-4])
    optimizer = Muon([m["qkv"].weight], lr=0.02, unrouted="adamw")
    more = nn.Linear(4, 4)
    optimizer.add_param_group({"params": more.parameters(), "lr": 0.01})
    assert [g["lr"] for g in optimizer.param_groups[1:]] == [0.01, 1.5e-4]


def test_a_module_in_a_group_is_routed():
    m = language_model()
    optimizer = Muon([{"params": m, "weight_decay": 0.3}], lr=0.02, head_lr=0.1)
    assert optimizer.routing is not None
    assert [g["lr"] for g in optimizer.param_groups] == [0.02, 3e-4, 0.1, 3e-4]
    assert by_optimizer(Muon([{"params": m}], unrouted="adamw")) == by_optimizer(Muon(m))


def test_scion_takes_the_rates_of_kinds():
    m = language_model()
    optimizer = Scion(m, lr=0.1, embedding_lr=0.3, head_lr=2.0, vector_lr=0.01)
    found = {n: g["lr"] for g in optimizer.param_groups for n in g["param_names"]}
    assert (found["wte.weight"], found["lm_head.weight"], found["norm.bias"]) == (0.3, 2.0, 0.01)


def test_names_of_added_parameters_route():
    optimizer = Muon(language_model().named_parameters(), lr=0.02)
    more = nn.ModuleDict({"up": nn.Linear(4, 8), "embed": nn.Embedding(5, 4)})
    optimizer.add_param_group({"params": more.named_parameters()})
    assert by_optimizer(optimizer)[0] == ["qkv.weight", "up.weight"]
    assert optimizer.routing["embed.weight"].target == "table"


def test_a_table_without_a_telling_name_is_named_by_its_shape():
    pairs = [("tok.weight", nn.Parameter(torch.zeros(500, 16)))]
    pairs += [(f"up.{k}", p) for k, p in nn.Linear(16, 16).named_parameters()]
    with pytest.warns(UserWarning, match=r"tok\.weight \(500×16\): stepped as matrices"):
        Muon(pairs, lr=0.02)


def test_keys_of_others_are_translated_refused_or_named():
    m = language_model()
    dion = [
        {"params": [m["qkv"].weight], "algorithm": "muon"},
        {"params": [m["wte"].weight], "algorithm": "adamw", "lr": 1e-3},
    ]
    optimizer = Muon(dion, lr=0.02)
    assert [(g["adamw"], g["lr"]) for g in optimizer.param_groups] == [(False, 0.02), (True, 1e-3)]
    for key, value, match in (
        ("algorithm", "lion", 'stepped by "muon" or by "adamw"'),
        ("norm", steepest.norms.L2(), "no such value of a group"),
        ("weightdecay", 0.1, "did you mean weight_decay"),
        ("rest", True, "is called adamw now"),
    ):
        with pytest.raises(ValueError, match=match):
            Muon([{"params": [m["qkv"].weight], key: value}])
    with pytest.warns(UserWarning, match="amsgrad=True of a group has no effect"):
        Muon([{"params": [m["qkv"].weight], "amsgrad": True}])
    Muon([{"params": [m["qkv"].weight], "lr_scale": 0.5, "initial_lr": 0.1, "fused": None}])


def test_integers_have_no_place_in_an_optimizer():
    """The quantised weights below an adapter."""
    w, b = nn.Parameter(torch.randn(4, 4)), nn.Parameter(torch.zeros(4))
    q = nn.Parameter(torch.zeros(4, 4, dtype=torch.int8), requires_grad=False)
    for optimizer in (
        Muon([w, q]),
        Muon([("w", w), ("q", q)]),
        steepest.Lion([w, q], lr=0.1),
        Muon([{"params": [w, q]}, {"params": [b], "adamw": True}]),
    ):
        assert by_optimizer(optimizer)[0] in ([(4, 4)], ["w"])


def test_what_torch_refuses_is_refused_in_its_words():
    w = nn.Parameter(torch.zeros(4, 4))
    with pytest.raises(TypeError, match="should be an iterable"):
        Muon(w)
    with pytest.raises(TypeError, match="ordered collections"):
        Muon([{"params": {w}}])
    with pytest.raises(TypeError, match="ordered collections"):
        Muon([{"params": {w}}], unrouted="adamw")


def test_a_routing_in_a_group_is_taken_as_it_is():
    m = language_model()
    optimizer = Muon([{"params": steepest.route(m)}], lr=0.02, unrouted="adamw")
    assert by_optimizer(optimizer) == by_optimizer(Muon(m))
