"""What is refused: every message names the argument, its value and the remedy."""

import math

import pytest
import torch

from steepest import maps, norms
from steepest.polar import GramEigh, Svd
from tests.refusals import assert_refused

X = torch.ones(3, 4)
INF, NAN = math.inf, math.nan

# What is done, and the argument with its value and the remedy that the message has to name.
REFUSED = {
    "delta zero": (lambda: maps.Huber(0), "delta=0", "positive"),
    "delta negative": (lambda: maps.SmoothNuclear(-1.0), "delta=-1.0", "positive"),
    "delta nan": (lambda: maps.DeadZone(NAN), "delta=nan", "small gradient"),
    "delta inf": (lambda: maps.SpectralHuber(INF), "delta=inf", "positive"),
    "delta text": (lambda: maps.SmoothL1("1"), "delta='1'", "positive"),
    "p": (lambda: maps.SchattenMap(0.5), "p=0.5", "[1, inf]"),
    "k": (lambda: maps.TopK(0), "k=0", "1, 2, …"),
    "k large": (lambda: maps.TopK(4).grad(X), "k=4", "smaller k"),
    "dims": (lambda: maps.L1Map(dims=5).value(X), "dims=(5,)", "2 axes"),
    "dims text": (lambda: maps.Huber(1.0, dims="a"), "dims='a'", "tuple of axes"),
    "method": (lambda: maps.NuclearMap(polar="svd"), "polar='svd'", "steepest.polar.Auto"),
    "no norm": (lambda: maps.FromNorm("l1"), "norm='l1'", "norms.Schatten(4)"),
    "product": (lambda: maps.FromNorm(norms.MaxOf({"a": norms.L1()})), "norm=MaxOf", "norm object"),
    "no scalar": (lambda: maps.Separable(1.0, maps.Rows()), "scalar=1.0", "maps.Scalar"),
    "no basis": (lambda: maps.Separable(maps.Square(), "rows"), "basis='rows'", "maps.Basis"),
    "weight": (lambda: maps.Weighted(((-1.0, maps.Square()),)), "weight=-1.0", "positive finite"),
    "weight nan": (lambda: maps.Weighted(((NAN, maps.Modulus()),)), "weight=nan", "convex"),
    "weight inf": (lambda: 1e300 * (1e300 * maps.L1Map()), "weight=inf", "positive finite"),
    "weight underflow": (lambda: 1e-300 * (1e-300 * maps.L1Map()), "weight=0.0", "positive finite"),
    "weight of a norm": (lambda: 1e300 * (1e300 * maps.TopK(2)), "factor=inf", "positive"),
    "no terms": (lambda: maps.Weighted(()), "terms=()", "at least one"),
    "no part": (lambda: maps.Weighted(((1.0, "square"),)), "scalar='square'", "maps.Scalar"),
    "factor": (lambda: 0 * maps.L1Map(), "factor=0", "positive"),
    "factor negative": (lambda: -1.0 * maps.SchattenMap(4), "factor=-1.0", "positive"),
    "factor nan": (lambda: NAN * maps.NuclearMap(), "factor=nan", "convex"),
    "bases": (lambda: maps.L1Map() + maps.NuclearMap(), "K=NuclearMap()", "one basis"),
    "rows": (lambda: maps.GroupRows() + maps.GroupColumns(), "K=GroupColumns()", "Rows()"),
    "axes": (lambda: maps.L1Map() + maps.Huber(1, dims=-1), "K=Huber(1, dims=(-1,))", "one basis"),
    "methods": (
        lambda: maps.NuclearMap(polar=Svd()) + maps.SmoothNuclear(1, polar=GramEigh()),
        "K=SmoothNuclear(1, polar=GramEigh",
        "polar=Svd()",
    ),
    "no sum": (
        lambda: maps.SchattenMap(4) + maps.NuclearMap(),
        "K=FromNorm(Schatten(4))",
        "closed",
    ),
    "no sum, right": (lambda: maps.HalfSquare() + maps.TopK(2), "K=FromNorm(KyFan(", "closed form"),
    "decay": (lambda: maps.NuclearMap().violation(X, 0.0), "weight_decay=0.0", "> 0"),
    "decay negative": (lambda: maps.HalfSquare().violation(X, -1.0), "weight_decay=-1.0", "> 0"),
    "decay nan": (lambda: maps.L1Map().violation(X, NAN), "weight_decay=nan", "1/weight_decay"),
    "decay tensor": (lambda: maps.L1Map().violation(X, torch.zeros(1)), "weight_decay=0.0", "> 0"),
    "decays": (
        lambda: maps.L1Map().violation(X, torch.ones(2)),
        "weight_decay=tensor",
        "one number",
    ),
    "product of maps": (lambda: maps.L1Map() * maps.L1Map(), "factor=L1Map()", "positive"),
    "tolerance": (lambda: maps.L1Map().conjugate(X, tolerance=-0.1), "tolerance=-0.1", ">= 0"),
    "tolerance nan": (lambda: maps.TopK(2).conjugate(X, tolerance=NAN), "tolerance=nan", ">= 0"),
    "a list": (lambda: maps.L1Map().value([1.0]), "x='list'", "tensor"),
}


@pytest.mark.parametrize("name", REFUSED)
def test_refused(name, unchecked):
    assert_refused(*REFUSED[name])


EACH = (
    maps.L1Map(),
    maps.NuclearMap(),
    maps.GroupRows(),
    maps.HalfSquare(),
    maps.SchattenMap(4),
    maps.SmoothNuclear(0.1),
    2.0 * maps.SpectralHuber(0.1, polar=GramEigh()),
    maps.DeadZone(1.0) + maps.L1Map(),
)
METHODS = ("value", "grad", "conjugate", "grad_all")
every_map = pytest.mark.parametrize("K", EACH, ids=repr)
every_method = pytest.mark.parametrize("method", METHODS)


def call(K, method, x):
    return getattr(K, method)([x] if method == "grad_all" else x)


@every_map
@every_method
def test_what_is_no_finite_tensor_of_numbers_is_refused(K, method):
    with pytest.raises(ValueError, match=r"^[xgy]='NaN or inf': .*find out where"):
        call(K, method, torch.tensor([[1.0, NAN]]))
    with pytest.raises(ValueError, match=r"^[xgy]='0×3': .*skip it"):
        call(K, method, torch.ones(0, 3))
    with pytest.raises(ValueError, match=r"^[xgy]=torch\.int64: give floating-point"):
        call(K, method, torch.ones(2, 3, dtype=torch.int64))
    if K.axes == 2:
        with pytest.raises(ValueError, match=r"^[xgy]='shape \(3\)': .* a map of entries"):
            call(K, method, torch.ones(3))


@every_map
def test_violation_looks_at_its_tensor(K):
    with pytest.raises(ValueError, match="NaN or inf"):
        K.violation(torch.tensor([[1.0, NAN]]), 1.0)


def test_unchecked_gives_what_arithmetic_gives():
    x = torch.tensor([[1.0, NAN]])
    for K in (maps.SmoothL1(1.0), maps.Huber(1.0), maps.GroupRows(), maps.HalfSquare()):
        assert bool(torch.isnan(K.grad(x, check=False)).any())
        assert bool(torch.isnan(K.value(x, check=False)))


def test_only_maps_are_added(unchecked):
    with pytest.raises(TypeError):
        maps.L1Map() + 1.0
    with pytest.raises(TypeError):
        1 + maps.L1Map()


LARGE = (
    maps.Huber(1e39),
    maps.SmoothNuclear(1e39),
    maps.SpectralHuber(1e39, polar=GramEigh()),
    maps.SpectralDeadZone(1e39, polar=GramEigh()) + maps.NuclearMap(polar=GramEigh()),
)


@every_method
@pytest.mark.parametrize("K", LARGE, ids=repr)
@pytest.mark.parametrize("dtype", [torch.float32, torch.float16, torch.complex64])
def test_a_delta_beyond_the_type_is_refused(K, method, dtype):
    with pytest.raises(
        ValueError, match=r"^delta=1e\+39: torch\.\w+ takes δ up to 8\.5e\+37: .*wider"
    ):
        call(K, method, torch.ones(2, 2, dtype=dtype))
    wide = call(K, method, torch.zeros(2, 2, dtype=torch.float64))
    assert all(bool(part.isfinite().all()) for part in (wide if method == "grad_all" else [wide]))
