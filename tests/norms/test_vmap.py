"""Under torch.func.vmap no value can be looked at: checks say so, everything else works."""

import pytest
import torch

from steepest import norms, polar, polar_factor

NORMS = [
    *(norms.L1(), norms.L2(), norms.LInf(), norms.Lp(3), norms.Lp(1.5), norms.RMS()),
    *(norms.Spectral(), norms.Nuclear(), norms.Schatten(3), norms.KyFan(2), norms.Frobenius()),
    *(norms.RowNorm(), norms.ColumnNorm(), norms.Operator("rms", "rms")),
]
METHODS = ["__call__", "dualize", "sharp", "project"]
each_norm = pytest.mark.parametrize("norm", NORMS, ids=str)


@each_norm
@pytest.mark.parametrize("method", METHODS)
def test_without_the_check_it_is_the_batch_member_by_member(norm, method):
    x = torch.randn(3, 4, 5, dtype=torch.float64)
    run = getattr(norm, method)
    found = torch.func.vmap(lambda one: run(one, check=False))(x)
    expected = torch.stack([run(one) for one in x])
    torch.testing.assert_close(found, expected, rtol=1e-9, atol=1e-9)


@each_norm
@pytest.mark.parametrize("method", [*METHODS, "dual"])
def test_the_check_says_that_it_cannot_look(norm, method):
    with pytest.raises(ValueError, match=r"check=True: under torch\.func\.vmap .* check=False"):
        torch.func.vmap(getattr(norm, method))(torch.randn(3, 4, 5))


def test_a_polar_factor_says_what_to_call():
    x = torch.randn(3, 4, 5)
    with pytest.raises(ValueError, match=r"vmap call the method object, steepest\.polar\.Svd\(\)"):
        torch.func.vmap(polar_factor)(x)
    torch.testing.assert_close(torch.func.vmap(polar.Svd())(x), polar_factor(x))
