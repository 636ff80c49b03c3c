"""Memory that is used again: only what no tensor refers to, and no more than the bound."""

import threading

import pytest
import torch
from torch import nn

from steepest._common import numerics
from steepest._common.numerics import empty, empty_like
from steepest.polar import GramNewtonSchulz

SIZE = 12_345


@pytest.fixture(autouse=True)
def _fresh(monkeypatch):
    monkeypatch.setattr(numerics, "_pieces", numerics._Pieces())
    with torch.no_grad():
        yield


def address(x):
    return x.untyped_storage().data_ptr()


def test_memory_that_nobody_refers_to_is_used_again():
    like = nn.Parameter(torch.zeros(1))
    first = empty((3, SIZE), like)
    place = address(first)
    view = first.mT[5]
    del first
    second = empty((3, SIZE), like)
    assert address(second) != place, "a view refers to it"
    del view
    # The size in bytes counts, whatever the shape and the type.
    again = empty((SIZE, 3, 1), like, torch.int32)
    assert address(again) == place
    assert again.shape == (SIZE, 3, 1) and again.is_contiguous() and again.dtype == torch.int32


def test_what_was_resized_is_not_used_again():
    like = torch.zeros(1)
    first = empty((SIZE,), like)
    first.untyped_storage().resize_(0)
    del first
    assert empty((SIZE,), like).untyped_storage().nbytes() == 4 * SIZE


@pytest.mark.parametrize("mode", [torch.enable_grad, torch.inference_mode])
def test_where_something_follows_all_memory_is_fresh(mode):
    with mode():
        x = empty((SIZE,), torch.zeros(1))
        place = numerics._pieces.by_size
        assert not place and x.shape == (SIZE,)


def test_threads_share_nothing():
    like, found = torch.zeros(1), []
    first = address(empty((SIZE,), like))

    def other():
        with torch.no_grad():
            kept = empty((SIZE,), like)
            found.append(address(kept))

    thread = threading.Thread(target=other)
    thread.start()
    thread.join()
    assert found and address(empty((SIZE,), like)) == first != found[0]


def test_the_order_of_memory_is_that_of_the_tensor():
    x = torch.randn(3, 7, 5)
    assert empty_like(x).stride() == x.stride()
    assert empty_like(x.mT).stride() == x.mT.stride() and empty_like(x.mT).shape == (3, 5, 7)
    assert empty((0, 3), x).shape == (0, 3)


def test_a_thread_keeps_no_more_memory_than_the_bound(monkeypatch):
    """A later call is none the worse for it."""
    x = torch.randn(3, 48, 48, generator=torch.Generator().manual_seed(0))
    method = GramNewtonSchulz()
    expected = method(x)
    for pieces in (2, 0):
        monkeypatch.setattr(numerics, "_pieces", numerics._Pieces())
        monkeypatch.setattr(numerics, "KEPT_BYTES", pieces * x.nbytes)
        assert torch.equal(method(x), expected)
        kept = sum(size * len(same) for size, same in numerics._pieces.by_size.items())
        assert kept <= pieces * x.nbytes
        assert torch.equal(method(x), expected)


def test_a_result_is_not_written_over():
    x = torch.randn(2, 64, 64, generator=torch.Generator().manual_seed(0))
    for dtype in (None, torch.bfloat16):
        method = GramNewtonSchulz(dtype=dtype)
        first = method(x)
        kept, before = first[1].mT, first.clone()
        place = address(first)
        del first
        assert all(address(method(x)) != place for _ in range(3))
        assert torch.equal(kept, before[1].mT)


def test_a_large_piece_leaves_small_ones_where_they_are():
    like = torch.zeros(1)
    empty((SIZE,), like)
    kept = dict(numerics._pieces.by_size)
    for _ in range(3):
        assert empty((numerics.LARGEST_PIECE,), like).numel() == numerics.LARGEST_PIECE
    assert numerics._pieces.by_size == kept
