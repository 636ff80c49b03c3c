"""A matrix of a stack that holds NaN or inf is lost alone: the others get their factors."""

import math

import pytest
import torch

from steepest import maps, norms, polar

METHODS = {
    "svd": polar.Svd(),
    "eigh": polar.GramEigh(),
    "eigh32": polar.GramEigh(torch.float32, refine=1),
    "iteration": polar.NewtonSchulz(),
    "gram": polar.GramNewtonSchulz(),
    "zolotarev": polar.Zolotarev(4, 8e-4),
    "auto": polar.Auto(error=0.05),
}
MAPPED = {
    "dualize": lambda x: norms.Schatten(4).dualize(x, check=False),
    "project": lambda x: norms.Spectral().project(x, 0.5, check=False),
    "norm": lambda x: norms.Nuclear()(x, check=False),
    "map": lambda x: maps.SmoothNuclear(0.1).grad(x, check=False),
    "map by polar": lambda x: maps.SmoothNuclear(0.1, polar=polar.Svd()).grad(x, check=False),
}


def stack(bad, shape, dtype):
    x = torch.randn(3, *shape, generator=torch.Generator().manual_seed(0)).to(dtype)
    spoilt = x.clone()
    spoilt[1, 0, -1] = bad
    return x, spoilt


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.complex64], ids=str)
@pytest.mark.parametrize("bad", [math.nan, math.inf])
@pytest.mark.parametrize("shape", [(4, 6), (6, 4), (5, 5)], ids=str)
@pytest.mark.parametrize("run", [*METHODS.values(), *MAPPED.values()], ids=[*METHODS, *MAPPED])
def test_the_others_of_the_stack_are_as_without_it(run, shape, bad, dtype):
    x, spoilt = stack(bad, shape, dtype)
    found, expected = run(spoilt), run(x)
    for i in (0, 2):
        torch.testing.assert_close(found[i], expected[i], rtol=1e-4, atol=1e-5)
    assert not bool(torch.isfinite(found[1]).all())
