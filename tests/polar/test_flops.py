"""Products on an accelerator, counted by torch on tensors without memory."""

import pytest
import torch
from torch.optim._muon import _zeropower_via_newtonschulz
from torch.utils.flop_counter import FlopCounterMode

from steepest.polar import JORDAN_QUINTIC, Auto
from steepest.polar.tables import ACCELERATORS, table_of

META = torch.device("meta")
SETS = {
    "llama-8b": [(4096, 4096), (1024, 4096), (14336, 4096), (4096, 14336)],
    "kimi-k2": [(2048, 7168), (7168, 2048), (7168, 18432)],
    "gpt2": [(768, 768), (2304, 768), (3072, 768), (768, 3072)],
    "gpt2-medium": [(1024, 1024), (3072, 1024), (1024, 4096)],
    "gpt2-large": [(1280, 1280), (3840, 1280), (1280, 5120)],
    "gpt2-xl": [(1600, 1600), (4800, 1600), (1600, 6400)],
}
SHAPES = [pytest.param(shape, id=f"{k}-{shape}") for k, each in SETS.items() for shape in each]
FAST = sorted(name for name, table in ACCELERATORS.items() if table.float16)


def flops(function, *shape):
    with torch.no_grad(), FlopCounterMode(display=False) as counter:
        function(torch.empty(shape, device=META))
    return counter.get_total_flops()


def torch_step(x):
    """The factor of torch.optim.Muon."""
    return _zeropower_via_newtonschulz(x, JORDAN_QUINTIC, 5, 1e-7)


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("name", FAST)
def test_at_most_three_quarters_of_the_flops_of_torch(name, shape):
    method = Auto(error=0.05, table=table_of(name, several=True))
    assert flops(method, 2, *shape) <= 0.75 * 2 * flops(torch_step, *shape)


def test_small_square_matrices_take_no_more_than_torch():
    """Below 384 rows Hermitian products are not cut: five steps like torch's, but designed ones."""
    method = Auto(error=0.05, table=table_of("accelerator", several=True))
    for m in (64, 128, 256, 383):
        assert flops(method, 1, m, m) <= flops(torch_step, m, m)


def test_what_is_counted_is_what_is_multiplied():
    """Standard form: m³ products XXᴴ, R² and QX for each of five steps."""
    method = Auto(error=0.05, table=table_of("accelerator", several=True))
    assert flops(method, 1, 128, 128) == flops(torch_step, 128, 128) == 15 * 2 * 128**3
