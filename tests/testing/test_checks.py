"""What `steepest.testing` lets pass, and what it finds."""

from __future__ import annotations

import math

import pytest
import torch
from torch import nn

from steepest import SGD, Muon, maps, norms
from steepest.polar import Accuracy, NewtonSchulz, Svd, polar_express
from steepest.testing import check_convex_map, check_norm, check_optimizer, check_polar

FEW = ((3, 4), (2, 3, 3))


class Changed:
    """An object with some of its methods replaced; each gets the object first."""

    def __init__(self, of, **methods):
        self._of, self._methods = of, methods

    def __getattr__(self, name):
        if name in self._methods:
            return lambda *args, **kwargs: self._methods[name](self._of, *args, **kwargs)
        return getattr(self._of, name)

    def __call__(self, *args, **kwargs):
        call = self._methods.get("call")
        return call(self._of, *args, **kwargs) if call else self._of(*args, **kwargs)


@pytest.mark.parametrize(
    ("norm", "shapes"),
    [
        (norms.Schatten(3), FEW),
        (norms.Lp(4), [(5,), (3, 4)]),
        (norms.Conv(), [(3, 2, 2, 2)]),
        (norms.MaxOf({"w": norms.Spectral(), "b": norms.LInf()}), [{"w": (3, 4), "b": (3,)}]),
    ],
    ids=str,
)
def test_norms_pass(norm, shapes):
    check_norm(norm, shapes)


L2 = norms.L2()
BROKEN_NORMS = {
    "n(c·x) == |c|·n(x)": {"call": lambda n, x, **_: n(x) ** 2},
    "n(x + y) <= n(x) + n(y)": {"call": lambda n, x, **_: x.abs().min()},
    "⟨g, n.dualize(g)⟩ == n.dual(g)": {"dualize": lambda n, g, **_: -n.dualize(g)},
    "n(n.dualize(g)) == 1": {"dualize": lambda n, g, **_: 2 * n.dualize(g)},
    "n(n.sharp(g)) == n.dual(g)": {"sharp": lambda n, g, **_: n.dualize(g)},
    "n(n.project(x, r)) == r": {"project": lambda n, x, r, **_: x},
    "n.project(x, r) == x if n(x) <= r": {
        "project": lambda n, x, r, **_: x / 2 if float(n(x)) < 0.9 * r else n.project(x, r)
    },
    "no result shares the memory": {
        "project": lambda n, x, r, **_: x if float(n(x)) <= float(r) else n.project(x, r)
    },
    "the input is not written to": {
        "sharp": lambda n, g, **_: (n.sharp(g), g.add_(1e-12 * g))[0],
    },
}


@pytest.mark.parametrize("law", BROKEN_NORMS)
def test_a_broken_norm_is_found_by_the_law_that_it_breaks(law):
    broken = Changed(L2, **BROKEN_NORMS[law])
    with pytest.raises(AssertionError) as found:
        check_norm(broken, [(4,)], dtypes=[torch.float64])
    assert law in str(found.value)
    assert "torch.float64 4·2^" in str(found.value)


@pytest.mark.parametrize("K", [maps.Huber(0.5), maps.SchattenMap(4), maps.GroupRows()], ids=repr)
def test_maps_pass(K):
    check_convex_map(K, FEW)


BROKEN_MAPS = {
    "K(z) >= K(x) + ⟨K.grad(x), z − x⟩": {"grad": lambda K, x, **_: -K.grad(x)},
    "K(−x) == K(x)": {"value": lambda K, x, **_: K.value(x) + 0.1 * x.real.sum((-2, -1))},
    "K.grad(x) is the derivative of K.value": {"value": lambda K, x, **_: 1.5 * K.value(x)},
    "K(x) + K*(K.grad(x)) == ⟨K.grad(x), x⟩": {
        "conjugate": lambda K, y, **_: K.conjugate(y) + 1e-3
    },
    "K.domain(K.grad(x)) <= K.gradient_bound(…)": {"gradient_bound": lambda K, *_: 0.5},
}


@pytest.mark.parametrize("law", BROKEN_MAPS)
def test_a_broken_map_is_found_by_the_law_that_it_breaks(law):
    broken = Changed(maps.SmoothNuclear(0.5), **BROKEN_MAPS[law])
    with pytest.raises(AssertionError) as found:
        check_convex_map(broken, [(3, 4)], dtypes=[torch.float64])
    assert law in str(found.value)


@pytest.mark.parametrize("polar", [Svd(), NewtonSchulz(polar_express(8))], ids=repr)
def test_polar_methods_pass(polar):
    check_polar(polar, [(4, 9), (9, 4)])


BROKEN_POLAR = {
    "<= error": {
        "call": lambda p, x: 0.9 * p(x),
    },
    "<= upper": {
        "call": lambda p, x: 1.2 * p(x),
        "accuracy": lambda p, *shape: Accuracy(1e-3, 0.3, 1.1),
    },
    "polar(0) == 0": {"call": lambda p, x: p(x) if x.any() else torch.ones_like(x)},
    "polar(c·x) == polar(x)": {
        "call": lambda p, x: p(x) if float(x.abs().max()) < 2.0**50 else 1.0001 * p(x)
    },
    "polar(x)[i] == polar(x[i])": {"call": lambda p, x: p(x.flip(0)) if x.ndim > 2 else p(x)},
}


@pytest.mark.parametrize("law", BROKEN_POLAR)
def test_a_broken_method_is_found_by_the_law_that_it_breaks(law):
    broken = Changed(Svd(), **BROKEN_POLAR[law])
    with pytest.raises(AssertionError) as found:
        check_polar(broken, [(4, 9)], dtypes=[torch.float64])
    assert law in str(found.value)


@pytest.mark.parametrize(
    "make",
    [
        lambda m: Muon(m, lr=0.05, adamw_lr=0.01),
        lambda m: SGD(m, lr=0.5),
        lambda m: torch.optim.AdamW(m.parameters(), lr=0.01),
    ],
    ids=["Muon", "SGD", "torch.optim.AdamW"],
)
def test_optimizers_pass(make):
    check_optimizer(make)


class Broken(torch.optim.SGD):
    """Gradient descent with one fault; of the class, since a copy has no attributes but torch's."""

    fault: str

    def __init__(self, model: nn.Module):
        super().__init__(model.parameters(), lr=0.5, momentum=0.9)

    def step(self, closure=None):
        if self.fault == "descends":
            for p in self.param_groups[0]["params"]:
                p.grad = None if p.grad is None else -p.grad
        if self.fault == "leaves_gradients_alone":
            nn.utils.clip_grad_norm_(self.param_groups[0]["params"], 0.1)
        if self.fault == "calls_its_closure" and closure is not None:
            closure()
        if self.fault == "obeys_a_scheduler":
            self.param_groups[0]["lr"] = 0.5
        if self.fault == "leaves_alone_what_has_no_gradient":
            for p in self.param_groups[0]["params"]:
                p.grad = torch.zeros_like(p) if p.grad is None else p.grad
        return super().step(closure)

    def state_dict(self):
        saved = super().state_dict()
        return {**saved, "state": {}} if self.fault == "resumes" else saved


@pytest.mark.parametrize(
    "fault",
    [
        *("descends", "leaves_gradients_alone", "calls_its_closure", "obeys_a_scheduler"),
        *("leaves_alone_what_has_no_gradient", "resumes"),
    ],
)
def test_a_broken_optimizer_is_found_by_the_part_that_it_breaks(fault):
    with pytest.raises(AssertionError, match=f"^{fault}: "):
        check_optimizer(type("Broken", (Broken,), {"fault": fault}))


def test_nan_is_no_number():
    """A comparison with NaN is false, and a law that is not true is broken."""
    nan = Changed(L2, call=lambda n, x, **_: n(x) * math.nan)
    with pytest.raises(AssertionError):
        check_norm(nan, [(4,)], dtypes=[torch.float64])
