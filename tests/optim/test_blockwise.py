"""Blocks of 8 bits: their error, their form that does not change, and two other packages."""

import importlib
import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from steepest.optim.blockwise import BLOCK, SPARE_BITS, block_count, dequantise, quantise

DTYPES = [torch.float32, torch.float64]
SHAPES = st.tuples(st.integers(0, 5), st.sampled_from([0, 1, 31, 64, 255, 256, 257, 300, 512, 769]))


def drawn(shape, dtype, seed, exponent=0):
    """Entries of very different sizes, some of them zero."""
    x = torch.randn(shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)
    return (x * x.abs().sqrt() * (x > -1.5) * 10.0**exponent).to(dtype)


def blocks_of(x):
    """The blocks, one by one, each with the place of its unit."""
    for i, row in enumerate(x.flatten(1)):
        length = math.ceil(len(row) / max(1, math.ceil(len(row) / BLOCK)))
        for j, block in enumerate(row.split(length) if len(row) else ()):
            assert len(block) <= BLOCK
            yield (i, j), block


def round_trip(x, shrinking=None):
    count = block_count(x.shape[1:].numel())
    codes, units = quantise(x, count, shrinking)
    assert codes.dtype == torch.int8 and codes.shape == x.shape
    assert units.dtype == x.dtype and units.shape == (len(x), count)
    return codes, units, dequantise(codes, units)


@given(SHAPES, st.sampled_from(DTYPES), st.integers(0, 9), st.integers(-34, 37))
def test_no_entry_is_further_off_than_half_a_unit(shape, dtype, seed, exponent):
    x = drawn(shape, dtype, seed, exponent)
    codes, units, back = round_trip(x)
    assert back.shape == x.shape and back.dtype == dtype
    for (place, block), (_, found), (_, own) in zip(
        blocks_of(x.double()), blocks_of(back.double()), blocks_of(codes), strict=True
    ):
        largest = float(block.abs().max())
        assert float((block - found).abs().max()) <= largest / 253
        assert torch.equal(found, own * units[place].double()), "a product is exact"
        assert int(own.abs().max()) == (127 if largest > 1e-35 else 0)


@given(SHAPES, st.sampled_from(DTYPES), st.integers(0, 9))
def test_the_codes_are_those_of_the_definition(shape, dtype, seed):
    x = drawn(shape, dtype, seed)
    codes, units, _ = round_trip(x)
    for (place, block), (_, own) in zip(blocks_of(x), blocks_of(codes), strict=True):
        unit = float(units[place])
        largest = float(block.abs().max()) / 127
        assert largest * (1 - 2.0**-15) <= unit <= max(largest * (1 + 2.0**-19), 1e-37)
        # Python rounds half to even as well.
        expected = [round(v / unit) for v in block.tolist()]
        near_a_tie = [abs(v / unit % 1 - 0.5) < 1e-4 for v in block.tolist()]
        for code, other, tie in zip(own.tolist(), expected, near_a_tie, strict=True):
            assert code == other or (tie and abs(code - other) == 1)


@given(SHAPES, st.sampled_from(DTYPES), st.integers(0, 9), st.integers(-38, 37))
def test_what_was_quantised_is_so_again_bit_for_bit(shape, dtype, seed, exponent):
    codes, units, back = round_trip(drawn(shape, dtype, seed, exponent))
    for shrinking in (None, torch.ones_like(codes, dtype=torch.bool)):
        again, same_units, _ = round_trip(back, shrinking)
        assert torch.equal(again, codes) and torch.equal(same_units, units)


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
def test_no_last_digit_decides_on_a_unit(dtype):
    """Units of all last digits that they have, in blocks of one entry each."""
    first, step = 2**SPARE_BITS, 1 / 127 if dtype == torch.float32 else 2.0**-7 / 127
    x = 1 + step * torch.arange(20_000, dtype=dtype)[:, None]
    codes, units, back = round_trip(x)
    assert bool((codes == 127).all())
    bits = units.view(torch.int32 if dtype == torch.float32 else torch.int64)
    assert bool((bits % first == 0).all()) and len(bits.unique()) > 10_000
    for near in (back, back.nextafter(0 * back), back.nextafter(2 * back)):
        assert torch.equal(round_trip(near)[1], units)


@given(SHAPES, st.integers(0, 9))
def test_the_opposite_has_opposite_codes(shape, seed):
    x = drawn(shape, torch.float32, seed)
    codes, units, _ = round_trip(x)
    opposite, same_units, _ = round_trip(-x)
    assert torch.equal(opposite, -codes) and torch.equal(same_units, units)


def test_rows_lie_in_any_memory_order():
    x = drawn((6, 5, 8, 8), torch.float32, 0)
    kept = round_trip(x)
    for other in (x.to(memory_format=torch.channels_last), x.mT.contiguous().mT):
        for a, b in zip(kept, round_trip(other), strict=True):
            assert torch.equal(a, b)


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
def test_the_ends_of_the_type(dtype):
    info = torch.finfo(dtype)
    x = torch.zeros(4, 300, dtype=dtype)
    x[1, :2] = torch.tensor([info.max, -info.max / 2], dtype=dtype)
    x[2, :2] = torch.tensor([info.smallest_normal * 200, -info.smallest_normal], dtype=dtype)
    x[3, :2] = torch.tensor([info.smallest_normal * 100, -info.smallest_normal / 4], dtype=dtype)
    codes, units, back = round_trip(x)
    assert not codes[0].any() and not back[0].any(), "a zero block"
    assert codes[1, :2].tolist() == [127, -64] and bool(back.isfinite().all())
    assert codes[2, :2].tolist() == [127, -1]
    assert codes[3, :2].tolist() == [100, 0], "a unit is a normal number"
    assert float(units.min()) == info.smallest_normal


def test_blocks_that_a_row_lacks_have_no_unit():
    x = drawn((3, 300), torch.float32, 0)
    codes, units = quantise(x, 4)
    assert not units[:, 2:].any() and units[:, :2].all()
    assert torch.equal(dequantise(codes, units), round_trip(x)[2])


@given(st.sampled_from([0.5, 0.9, 0.95, 0.99, 0.999]), st.integers(0, 4))
def test_what_only_shrinks_becomes_zero(momentum, seed):
    """Beside an entry that stays: rounded to the nearest code it would stop on its way."""
    x = drawn((1, 100), torch.float32, seed)
    x[0, 0] = 2 * x.abs().max()
    _, _, x = round_trip(x)
    shrinking = torch.ones_like(x, dtype=torch.bool)
    shrinking[0, 0] = False
    for _ in range(math.ceil(math.log(1 / 127) / math.log(momentum))):
        before = x.abs()
        x = torch.where(shrinking, momentum * x, x)
        _, _, x = round_trip(x, shrinking)
        assert bool((x.abs() <= before).all())
    assert not x[0, 1:].any() and x[0, 0]
    stops = round_trip(torch.tensor([[127.0, 10.0 * 0.95]]))[0]
    assert stops.tolist() == [[127, 10]]


def test_a_row_that_shrinks_as_a_whole_keeps_its_direction():
    x = drawn((300, 64), torch.float32, 1)
    codes, _, x = round_trip(x)
    shrinking = torch.ones_like(x, dtype=torch.bool)
    for _ in range(100):
        # As the step does it.
        now, _, x = round_trip(x.lerp(torch.zeros_like(x), 0.05), shrinking)
    assert torch.equal(now, codes)


# Made by bitsandbytes 0.50.2: `functional.quantize_blockwise` of these 64 numbers in one block,
# with `create_linear_map()`; torchao 0.18.0 has the same: `quantize_8bit_with_qmap`, map k/127.
CODES = """
  0  107  -96   52  -37  -17 -126 -121  117  -80  -64  127  -62  -76  119 -118 -127   -3  -51   35
-108  117   25  119 -113   22  -67   19 -125 -103  127  -41  -20  115  -13  -28  126  -85 -115   57
-102  -31 -127  125   89  123 -126  -56 -119   93  -83  -30  100   51   72   44   81   71   76   15
 -33  124 -123 -117
"""


def test_codes_of_bitsandbytes_and_torchao():
    x = (torch.arange(64.0) ** 2).sin()
    codes, units, _ = round_trip(x[None])
    assert codes[0].tolist() == list(map(int, CODES.split()))
    assert float(units) == pytest.approx(0.9999908804893494 / 127, rel=2.0**-15)


def by_bitsandbytes(x, functional):
    table = functional.create_linear_map()
    places, state = functional.quantize_blockwise(x, code=table, blocksize=x.shape[1])
    return (table[places.long()] * 127).round().view_as(x), state.absmax


def by_torchao(x, utils):
    table = torch.arange(-128, 128) / 127
    scaled, largest = utils.scale_tensor(x, x.shape[1])
    return (utils.quantize_8bit_with_qmap(scaled, table).float() - 128).view_as(x), largest


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize(
    ("package", "quantised"),
    [("bitsandbytes.functional", by_bitsandbytes), ("torchao.optim.quant_utils", by_torchao)],
)
def test_as_the_package_where_it_is_installed(package, quantised):
    """But for ties: the last digits of a unit are those of a product that is exact."""
    pytest.importorskip(package.partition(".")[0])
    x = drawn((200, BLOCK), torch.float32, 0)
    theirs, largest = quantised(x, importlib.import_module(package))
    codes, units, _ = round_trip(x)
    different = codes != theirs
    assert float(different.float().mean()) < 0.005
    assert float((codes - theirs).abs().max()) <= 1
    torch.testing.assert_close(units[:, 0], largest.view(-1) / 127, rtol=2.0**-15, atol=0)
