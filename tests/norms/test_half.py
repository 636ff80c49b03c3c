"""Half precision is computed in float32: what is representable is not lost on the way."""

import pytest
import torch

from steepest import norms

LARGE = {
    "power": (norms.Lp(3), torch.full((300, 300), 40.0)),
    "rms": (norms.RMS(), torch.full((300, 300), 40.0)),
    "nuclear": (norms.Nuclear(), torch.full((64, 64), 600.0)),
    "spectral": (norms.Spectral(), 40 * torch.eye(64) + 600),
    "schatten": (norms.Schatten(4), torch.full((64, 64), 600.0)),
    "operator": (norms.Operator("rms", "rms"), 4 * torch.eye(600, 64)),
    "rows": (norms.Operator("rms", float("inf")), torch.full((300, 300), 40.0)),
    "columns": (norms.Operator(1, "rms"), torch.full((300, 300), 40.0)),
    "entries": (norms.Operator(1, float("inf")), torch.full((300, 300), 0.1)),
    "tiny factor": (norms.Scaled(norms.L1(), 1e-4), torch.full((300, 300), 40.0)),
    "tiny dual": (norms.Scaled(norms.L2(), 1e4), torch.full((300, 300), 600.0)),
}


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16], ids=str)
@pytest.mark.parametrize("method", ["__call__", "dual", "dualize", "sharp", "project"])
@pytest.mark.parametrize(("norm", "x"), LARGE.values(), ids=LARGE.keys())
def test_it_is_float32_rounded_once(norm, x, method, dtype):
    x = x.to(dtype)
    run = getattr(norm, method)
    if method == "dual":
        found, exact = norm.dual(x), norm.dual(x.float())
    else:
        found, exact = run(x), run(x.float())
    # A tensor is rounded to the half type, a number stays in float32.
    assert found.dtype == (torch.float32 if method in ("__call__", "dual") else dtype)
    bound = 2 * torch.finfo(found.dtype).eps
    torch.testing.assert_close(found, exact.to(found.dtype), rtol=max(bound, 1e-5), atol=1e-7)
    assert bool(torch.isfinite(found).all()) == bool(torch.isfinite(exact.to(found.dtype)).all())
