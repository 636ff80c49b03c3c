"""What a step needs on top of the parameters and their momentum."""

import weakref

import pytest
import torch
from torch import nn
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from steepest import Lion, Muon
from steepest.polar import Auto, Svd


class Peak(TorchDispatchMode):
    """Counts the bytes of all storages made inside that are alive at once."""

    def __init__(self):
        super().__init__()
        self.sizes, self.live, self.most = {}, 0, 0

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        given = {x.untyped_storage()._cdata for x in tree_leaves((args, kwargs)) if is_tensor(x)}
        out = func(*args, **(kwargs or {}))
        for x in tree_leaves(out):
            if is_tensor(x) and x.untyped_storage()._cdata not in given | self.sizes.keys():
                self.note(x.untyped_storage())
        return out

    def note(self, storage):
        key = storage._cdata
        self.sizes[key] = storage.nbytes()
        self.live += storage.nbytes()
        self.most = max(self.most, self.live)
        weakref.finalize(storage, self.forget, key)

    def forget(self, key):
        self.live -= self.sizes.pop(key)


def is_tensor(x):
    return isinstance(x, torch.Tensor)


def peak(optimizer, params):
    """Bytes of a second step: the first one makes the state."""
    for _ in range(2):
        for p in params:
            p.grad = torch.randn_like(p)
        with Peak() as memory:
            optimizer.step()
    return memory.most


def test_the_counter_counts():
    with Peak() as memory:
        a = torch.ones(1000)
        b = a + 1
        del a
        c = b * 2
    assert memory.most == 8000 and memory.live == 8000 and c is not b


@pytest.mark.parametrize(("count", "size", "limit"), [(12, 64, 4), (12, 64, 1), (3, 96, 1)])
def test_muon_needs_a_few_stacks(count, size, limit):
    """The bound is one of the docstring: ten stacks, whatever the number of matrices."""
    params = [nn.Parameter(torch.randn(size, size)) for _ in range(count)]
    stack = limit * size * size * 4
    optimizer = Muon(params, polar=Auto(error=0.05), max_batch_bytes=stack)
    used = peak(optimizer, params)
    assert stack <= used <= 10 * stack


def test_half_precision_parameters_are_widened_stack_by_stack():
    params = [nn.Parameter(torch.randn(64, 64).bfloat16()) for _ in range(12)]
    stack = 2 * 64 * 64 * 4
    used = peak(Muon(params, polar=Svd(), max_batch_bytes=stack), params)
    assert stack <= used <= 10 * stack


@pytest.mark.parametrize("size", [64, 257, 300])
def test_momentum_in_8_bits_is_whole_stack_by_stack(size):
    """A norm of entries needs as many again, for the averages and while they are quantised."""
    params = [nn.Parameter(torch.randn(size, size)) for _ in range(12)]
    stack = 2 * size * size * 4
    options = {"max_batch_bytes": stack, "momentum_dtype": torch.int8}
    used = peak(Muon(params, polar=Auto(error=0.05), **options), params)
    assert stack <= used <= 10 * stack
    assert peak(Lion(params, lr=0.1, **options), params) <= 6 * stack


def test_a_norm_of_entries_needs_two_stacks():
    """Besides them, a piece of the gradients in which zeros are looked for; its memory is kept."""
    params = [nn.Parameter(torch.randn(1000)) for _ in range(20)]
    used = peak(Lion(params, lr=0.1, max_batch_bytes=8000), params)
    assert 2 * 8000 <= used <= 4 * 8000
