"""The matrix units of a processor, emulated: products of halves by float32 sums, rounded once."""

import torch
from torch.utils._python_dispatch import TorchDispatchMode

KINDS = (torch.float16, torch.bfloat16)
aten = torch.ops.aten
PRODUCTS = (aten.mm.default, aten.bmm.default, aten.addmm.default, aten.baddbmm.default)
WRITTEN = {aten.bmm.out: aten.bmm.default, aten.baddbmm.out: aten.baddbmm.default}


class MatrixUnits(TorchDispatchMode):
    """Remembers the types that it has multiplied."""

    def __init__(self):
        super().__init__()
        self.types = set()

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        kwargs = dict(kwargs or {})
        if func not in PRODUCTS and func not in WRITTEN:
            return func(*args, **kwargs)
        dtype = args[0].dtype
        self.types.add(dtype)
        if dtype not in KINDS:
            return func(*args, **kwargs)
        out = kwargs.pop("out", None)
        wide = WRITTEN.get(func, func)(*(a.float() for a in args), **kwargs).to(dtype)
        return wide if out is None else out.copy_(wide)


def emulated(method, x):
    """The factor, and the types of the products that led to it."""
    with torch.no_grad(), MatrixUnits() as units:
        q = method(x)
    return q, units.types
