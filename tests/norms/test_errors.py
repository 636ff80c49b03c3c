"""What is refused: every message names the argument, its value and the remedy."""

import math

import pytest
import torch

from steepest import norms
from steepest.norms import ShapeFactor
from steepest.polar import Svd
from tests.refusals import assert_refused

INF, NAN = math.inf, math.nan
X = torch.ones(3, 4)
SPOILT = {"nan": torch.tensor([[1.0, NAN]]), "inf": torch.tensor([[1.0, -INF]])}
PAIR = norms.MaxOf({"a": norms.L1(), "b": norms.L2()})
SUM = PAIR.dual
TAPS = norms.MaxOver(norms.KyFan(3), norms.BlockLayout("taps", 1))

# What is done, and the argument, the value and the remedy that the message has to name.
REFUSED = {
    "p below 1": (lambda: norms.Lp(0.5), "p=0.5", "[1, inf]"),
    "p negative": (lambda: norms.Lp(-INF), "p=-inf", "[1, inf]"),
    "p nan": (lambda: norms.Lp(NAN), "p=nan", "[1, inf]"),
    "Schatten p": (lambda: norms.Schatten(0.9), "p=0.9", "[1, inf]"),
    "Schatten nan": (lambda: norms.Schatten(NAN), "p=nan", "[1, inf]"),
    "row p": (lambda: norms.RowNorm(0), "p=0", "[1, inf]"),
    "k zero": (lambda: norms.KyFan(0), "k=0", "1, 2, …"),
    "k negative": (lambda: norms.KyFanDual(-2), "k=-2", "1, 2, …"),
    "k large": (lambda: norms.KyFan(4)(X), "k=4", "smaller k"),
    "k large, dual": (lambda: norms.KyFan(4).dualize(X), "k=4", "3×4 matrix has 3"),
    "k large, projected": (lambda: norms.KyFanDual(4).project(X), "k=4", "Nuclear()"),
    "a vector": (lambda: norms.Spectral()(torch.ones(3)), "x='shape (3)'", "vector norm"),
    "a vector, dual": (lambda: norms.RowNorm().dualize(torch.ones(3)), "g='shape (3)'", "L2()"),
    "a matrix": (lambda: norms.Conv(2)(X), "x='shape (3, 4)'", "*taps"),
    "a matrix, initial": (lambda: norms.Conv(1).init((3, 4)), "g='shape (3, 4)'", "*taps"),
    "dims": (lambda: norms.L2(dims=2)(X), "dims=(2,)", "2 axes"),
    "dims negative": (lambda: norms.L2(dims=(-1, -3))(X), "dims=(-1, -3)", "2 axes"),
    "dims twice": (lambda: norms.L2(dims=(0, -2)).dualize(X), "dims=(0, -2)", "different axes"),
    "dims of a batch": (lambda: norms.RMS(dims=3)(X), "dims=(3,)", "2 axes"),
    "hard": (lambda: norms.Operator(INF, 1), "(a, b)=(inf, 1)", "NP-hard"),
    "hard, 2": (lambda: norms.Operator(2, 1), "(a, b)=(2, 1)", "norms.estimate"),
    "hard, rms": (lambda: norms.Operator(INF, "rms"), "(a, b)=(inf, 'rms')", "norms.estimate"),
    "hard, 3": (lambda: norms.Operator(3, 3), "(a, b)=(3, 3)", "NP-hard"),
    "a": (lambda: norms.Operator(0.5, INF), "a=0.5", '[1, inf] or "rms"'),
    "b": (lambda: norms.Operator(1, NAN), "b=nan", '[1, inf] or "rms"'),
    "estimate": (lambda: norms.estimate(X, 0, 1), "a=0", "[1, inf]"),
    "estimate vector": (lambda: norms.estimate(X[0], 1, 1), "x='shape (4)'", "(*batch, m, n)"),
    "steps": (lambda: norms.estimate(X, 1, 1, steps=0), "(0, 8)", "positive"),
    "restarts": (lambda: norms.estimate(X, 1, 1, restarts=0), "(100, 0)", "positive"),
    "spatial": (lambda: norms.Conv(0), "spatial=0", "number of spatial axes"),
    "factor": (lambda: norms.Scaled(norms.L2(), 0), "factor=0", "positive"),
    "factor negative": (lambda: norms.Scaled(norms.L2(), -1.5), "factor=-1.5", "norms.ShapeFactor"),
    "factor nan": (lambda: norms.Scaled(norms.L2(), NAN), "factor=nan", "positive"),
    "numerator": (lambda: ShapeFactor(numerator=-1), "numerator=-1", "positive"),
    "denominator": (lambda: ShapeFactor(denominator=0), "denominator=0", "positive"),
    "factor inf": (lambda: ShapeFactor(numerator=INF), "numerator=inf", "positive"),
    "no block": (lambda: norms.MaxOf({}), "blocks={}", "at least one block"),
    "no part": (lambda: norms.Modular({}), "blocks={}", "at least one block"),
    "no sum": (lambda: norms.SumOf({}), "blocks={}", "at least one block"),
    "no norm": (lambda: norms.MaxOf({"a": max}), "blocks['a']=<built-in", "norms.Spectral()"),
    "nested": (lambda: norms.SumOf({"a": PAIR}), "blocks['a']=MaxOf(", "norms.Spectral()"),
    "mass": (lambda: norms.Modular({"a": (norms.L1(), 0.0)}), "parts['a']=(L1(), 0.0)", "s > 0"),
    "mass text": (
        lambda: norms.Modular({"a": (norms.L1(), "1")}),
        "parts['a']=(L1(), '1')",
        "s > 0",
    ),
    "no pair": (lambda: norms.Modular({"a": norms.L1()}), "parts['a']=L1()", "a pair"),
    "no mapping": (lambda: norms.Modular([1]), "parts=[1]", "pairs (norm, s)"),
    "no mapping, max": (lambda: norms.MaxOf([1]), "blocks=[1]", "mapping"),
    "a tensor": (lambda: PAIR(X), "x='Tensor'", "names ['a', 'b']"),
    "massless text": (
        lambda: norms.Modular({"a": (norms.L1(), 1)}, massless="b"),
        "massless='b'",
        "list",
    ),
    "scaled": (lambda: norms.Scaled("l2", 2.0), "norm='l2'", "norms.Spectral()"),
    "factor text": (lambda: norms.Scaled(norms.L2(), "2"), "factor='2'", "positive"),
    "scaled k": (lambda: norms.Scaled(norms.KyFan(4), 2)(X), "k=4", "smaller k"),
    "scaled dims": (lambda: norms.RMS(dims=1)(torch.ones(2)), "dims=(1,)", "1 axes"),
    "k of a tap": (lambda: TAPS(torch.ones(2, 2, 3)), "k=3", "smaller k"),
    "k float": (lambda: norms.KyFan(2.0), "k=2.0", "1, 2, …"),
    "k text": (lambda: norms.KyFan("2"), "k='2'", "1, 2, …"),
    "k nan": (lambda: norms.KyFan(NAN), "k=nan", "1, 2, …"),
    "dims float": (lambda: norms.L2(dims=1.5), "dims=1.5", "tuple of axes"),
    "radius shape": (lambda: norms.Spectral().project(X[None], torch.ones(3)), "radius='3'", "1"),
    "radius text": (lambda: norms.L2().project(X, "a"), "radius='a'", ">= 0"),
    "block layout": (lambda: norms.BlockLayout("diagonals"), "name='diagonals'", '"rows"'),
    "spatial float": (lambda: norms.Conv(2.5), "spatial=2.5", "1, 2 or 3"),
    "a list": (lambda: norms.L2()([1.0]), "x='list'", "tensor"),
    "method": (lambda: norms.Spectral(polar="svd"), "polar='svd'", "steepest.polar.Auto"),
    "method, unused": (lambda: norms.Operator(1, 2, polar=Svd()), "polar=Svd()", "leave it out"),
    "massless": (
        lambda: norms.Modular({"a": (norms.L1(), 2)}, massless=["a"]),
        "massless=['a']",
        "norm",
    ),
    "missing": (lambda: PAIR({"a": X}), "x=['b']", "missing ['b']"),
    "unknown": (lambda: SUM({"a": X, "b": X, "c": X}), "x=['c']", "unknown ['c']"),
    "missing, dual": (lambda: SUM.dualize({"a": X}), "g=['b']", "missing ['b']"),
    "missing, projected": (lambda: PAIR.project({"b": X}), "x=['a']", "missing ['a']"),
    "missing, sum": (lambda: SUM.project({"b": X}), "x=['a']", "missing ['a']"),
    "missing, initial": (lambda: PAIR.init({"a": (3,)}), "shapes=['b']", "missing ['b']"),
    "inside a product": (lambda: PAIR({"a": X, "b": X.int()}), "x=torch.int32", "floating-point"),
}
EACH = {
    "l1": norms.L1(),
    "l3 of rows": norms.Lp(3, dims=-1),
    "rms": norms.RMS(),
    "spectral": norms.Spectral(),
    "frobenius": norms.Frobenius(),
    "ky fan": norms.KyFan(1),
    "rows": norms.RowNorm(),
    "sum of columns": norms.ColumnNorm().dual,
    "rms to rms": norms.Operator("rms", "rms"),
}
METHODS = ("__call__", "dualize", "sharp", "project")
every_norm = pytest.mark.parametrize("norm", EACH.values(), ids=EACH)
every_method = pytest.mark.parametrize("method", METHODS)


@pytest.mark.parametrize("name", REFUSED)
def test_refused(name, unchecked):
    assert_refused(*REFUSED[name])


@every_norm
@every_method
@pytest.mark.parametrize("x", SPOILT.values(), ids=SPOILT)
def test_nan_and_inf_are_refused_unless_unchecked(norm, method, x):
    with pytest.raises(ValueError, match=r"^[xg]='NaN or inf': .*find out where"):
        getattr(norm, method)(x)
    if method == "project" or "Svd" in repr(norm):
        return
    try:
        result = getattr(norm, method)(x, check=False)
    except torch.linalg.LinAlgError:
        return  # the arithmetic of an SVD is to give up
    assert result.dtype == x.dtype


@every_norm
@every_method
def test_empty_and_integer_tensors_are_refused(norm, method):
    with pytest.raises(ValueError, match=r"^[xg]='0×3': .*skip it"):
        getattr(norm, method)(torch.ones(0, 3))
    with pytest.raises(ValueError, match=r"^[xg]=torch\.int64: give floating-point"):
        getattr(norm, method)(torch.ones(2, 3, dtype=torch.int64))
    with pytest.raises(ValueError, match="empty tensor"):
        norm.init((2, 0))


@every_norm
@pytest.mark.parametrize("radius", [-1.0, NAN, torch.tensor([1.0, -1.0])], ids=str)
def test_negative_radii_are_refused(norm, radius):
    with pytest.raises(ValueError, match=r"^radius=.*give a number >= 0"):
        norm.project(torch.ones(2, 3, 4), radius)


def test_products_refuse_spoilt_tensors():
    for norm in (PAIR, SUM):
        for method in METHODS:
            with pytest.raises(ValueError, match=r"='NaN or inf'"):
                getattr(norm, method)({"a": SPOILT["nan"], "b": X})
        with pytest.raises(ValueError, match="radius=-1"):
            norm.project({"a": X, "b": X}, -1.0)
    assert torch.isnan(PAIR({"a": SPOILT["nan"], "b": X}, check=False))


def test_an_exact_multiple_of_a_norm_is_fine():
    """The limits themselves are allowed."""
    assert norms.KyFan(3)(X).isfinite() and norms.Lp(1) == norms.L1()
    assert torch.equal(norms.L2().project(X, 0), torch.zeros_like(X))
    assert float(norms.L2()(torch.tensor(-2.0))) == 2
