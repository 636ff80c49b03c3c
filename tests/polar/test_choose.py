"""Auto picks by accuracy first and predicted cost second, and always the same."""

import re

import pytest
import torch

from steepest import polar_factor
from steepest.polar import Auto, CostTable, GramEigh, GramNewtonSchulz, Svd
from steepest.polar._measured import AVX512
from steepest.polar.costs import seconds_at
from steepest.polar.tables import ACCELERATED, table_of
from tests.matrices import log_spaced, naive_polar, spectral_distance, with_spectrum

HOST = torch.device("cpu")
SHAPES = [(8, 8), (16, 300), (128, 128), (512, 128), (768, 3072), (4096, 4096)]


@pytest.mark.parametrize("shape", SHAPES, ids=str)
@pytest.mark.parametrize("error", [0.3, 0.05, 0.01, 1e-3])
@pytest.mark.parametrize("device", ["cpu", "cuda"])
def test_the_choice_keeps_the_promise(shape, error, device):
    method = Auto(error=error).choose(*shape, torch.float32, torch.device(device))
    stated = method.accuracy(*shape, torch.float32)
    assert stated.error <= error
    # Dividing by a power of m and multiplying by it again may end one bit higher.
    assert stated.resolution <= Auto().resolution * (1 + 1e-12)


def test_an_accelerator_gets_products_only():
    """A decomposition on an accelerator waits for the host."""
    for shape in SHAPES:
        method = Auto().choose(*shape, torch.float32, torch.device("cuda"))
        assert isinstance(method, GramNewtonSchulz)


def test_the_table_decides():
    slow_products = CostTable(product=((1, 1.0), (2, 8.0)), eigh=((1, 1e-9), (2, 1e-9)))
    slow_eigh = CostTable(product=((1, 1e-9), (2, 8e-9)), eigh=((1, 1.0), (2, 8.0)))
    cheap_svd = CostTable(product=((1, 1.0), (2, 8.0)), svd=((1, 1e-9), (2, 1e-9)))
    arguments = (32, 32, torch.float32, HOST)
    assert Auto(table=slow_products).choose(*arguments) == GramEigh()
    assert isinstance(Auto(table=slow_eigh).choose(*arguments), GramNewtonSchulz)
    assert Auto(table=cheap_svd).choose(*arguments) == Svd()


@pytest.mark.parametrize("processor", ["zen5-bf16", "amx"])
@pytest.mark.parametrize("m", [64, 128, 256])
def test_square_and_wide_matrices_share_an_iteration_in_half_precision(processor, m):
    """Without another product for a tight bound of σ₁."""
    auto = Auto(table=table_of(processor, several=True))
    shapes = [(m, m), (m, 3 * m), (4 * m, m)]
    first, *others = (auto.choose(*shape, torch.float32, HOST) for shape in shapes)
    assert all(other is first for other in others)
    assert isinstance(first, GramNewtonSchulz)
    assert first.dtype == torch.bfloat16 and not first.tight


def test_an_error_of_rounding_needs_double_precision():
    method = Auto(error=2e-6, resolution=1e-4).choose(64, 64, torch.float32, HOST)
    assert method.compute_dtype(torch.float32, HOST) == torch.float64


def test_the_ranking_explains_the_choice():
    auto = Auto(error=0.01)
    ranking = auto.explain((3, 5, 96, 48), torch.float32, "cpu").predictions
    first = ranking[0]
    assert first.method == auto.choose(96, 48, torch.float32, HOST)
    admitted = [p for p in ranking if p.admitted]
    assert admitted == list(ranking[: len(admitted)])
    assert [p.seconds for p in admitted] == sorted(p.seconds for p in admitted)
    for p in ranking:
        assert p.accuracy == p.method.accuracy(96, 48, torch.float32)
        within = p.accuracy.error <= 0.01 and p.accuracy.resolution <= auto.resolution * (1 + 1e-12)
        assert p.admitted == within
    assert len({p.method for p in ranking}) == len(ranking)
    assert not all(p.admitted for p in ranking)
    one = auto.explain((96, 48)).predictions[0].seconds
    assert first.seconds == pytest.approx(15 * one)


def test_the_ranking_prints_as_a_table():
    ranking = Auto().explain((64, 64))
    lines = str(ranking).splitlines()
    assert lines[0].split() == ["milliseconds", "error", "resolution", "method"]
    end = next(i for i, line in enumerate(lines) if line.startswith("and "))
    rows, where = lines[1:end], lines[end + 1 :]
    assert int(lines[end].split()[1]) == len(ranking.predictions) - len(rows)
    assert type(ranking.predictions[0].method).__name__ in rows[0]
    assert max(map(len, lines)) <= 110
    assert where[0] == f"processor: {ranking.processor}" and ranking.processor
    assert " ".join(where[1:]) == f"costs: {ranking.source}" and "measured" in ranking.source


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.bfloat16])
@pytest.mark.parametrize("device", ["cpu", "cuda"])
@pytest.mark.parametrize("shape", [(8, 8), (128, 512), (2048, 8192)])
@pytest.mark.parametrize("error", [0.05, 1e-3])
def test_a_printed_ranking_is_short_and_shows_every_kind(shape, dtype, device, error):
    ranking = Auto(error=error).explain(shape, dtype, device)
    text = str(ranking).partition("processor:")[0]
    rows = [line for line in text.splitlines()[1:] if not line.startswith("and ")]
    assert len(rows) <= 13
    for p in ranking.predictions:
        name = type(p.method).__name__
        assert any(name in row and ("not accurate" in row) != p.admitted for row in rows)
    digits = [n.replace(".", "").lstrip("0") for n in re.findall(r"\d*\.\d+", text)]
    assert max(map(len, digits)) <= 3
    assert not re.search(r"torch\.|Schedule", text)


def test_the_ranking_says_that_costs_were_given():
    pairs = ((1, 1.0), (2, 8.0))
    for table in (CostTable(product=pairs), CostTable(product=pairs, source="guessed")):
        ranking = Auto(table=table).explain((64, 64))
        assert (ranking.processor, ranking.source) == ("", table.source)
        assert str(ranking).splitlines()[-2:] == [
            "processor: the one of the given table",
            f"costs: {table.source or 'no source is given'}",
        ]


@pytest.mark.parametrize("shape", [(3,), (0, 4), ()])
def test_a_shape_that_holds_no_matrix_has_no_ranking(shape):
    with pytest.raises(ValueError, match="shape="):
        Auto().explain(shape)


def test_the_promise_holds_on_a_matrix():
    x = with_spectrum(log_spaced(1 / Auto().resolution, 48), 48, 100).float()
    for error in (0.3, 0.05, 1e-3):
        out = torch.linalg.svdvals(Auto(error=error)(x).double())
        assert float((out - 1).abs().max()) <= error


def test_the_choice_is_that_of_the_transposed_shape():
    for m, n in SHAPES:
        assert Auto().choose(m, n, torch.float32, HOST) == Auto().choose(n, m, torch.float32, HOST)


@pytest.mark.parametrize("costs", [AVX512.product, AVX512.eigh, AVX512.svd, ACCELERATED])
def test_costs_are_interpolated_by_a_power_law(costs):
    for size, seconds in costs:
        assert seconds_at(costs, size) == pytest.approx(seconds)
    assert [size for size, _ in costs] == sorted({size for size, _ in costs})
    predicted = [seconds_at(costs, m) for m in (1, 5, 40, 100, 700, 3000, 10_000)]
    assert predicted == sorted(predicted)


def test_what_no_method_reaches_is_refused_with_the_remedy():
    with pytest.raises(
        ValueError, match=r"error=1e-09: no method .* the best reaches .* wider type"
    ):
        Auto(error=1e-9)(torch.eye(4))
    assert torch.equal(
        Auto(error=1e-9, resolution=1e-6)(torch.eye(2).double()), torch.eye(2).double()
    )


@pytest.mark.parametrize("argument", ["error", "resolution"])
@pytest.mark.parametrize("value", [0.0, 1.0, -1.0, float("nan")])
def test_bad_arguments(argument, value):
    with pytest.raises(ValueError, match=f"{argument}="):
        Auto(**{argument: value})


def test_polar_factor_is_exact_unless_told_otherwise():
    x = with_spectrum(log_spaced(1e6, 10), 10, 20)
    assert spectral_distance(polar_factor(x), naive_polar(x)) < 1e-9
    rough = torch.linalg.svdvals(polar_factor(x, method=Auto(error=0.3)))
    assert float((rough - 1).abs().max()) > 0.01


@pytest.mark.parametrize("value", [float("nan"), float("inf"), float("-inf")])
def test_polar_factor_refuses_non_finite_input(value):
    x = torch.ones(2, 2)
    x[1, 0] = value
    with pytest.raises(ValueError, match="non-finite"):
        polar_factor(x)


def test_polar_factor_refuses_a_vector(unchecked):
    with pytest.raises(ValueError, match=r"x='3 torch.float32'"):
        polar_factor(torch.ones(3))


def test_rounding_of_the_resolution_excludes_no_size():
    """res/m^⅛·m^⅛ is one bit above res for one size in twenty."""
    asked = Auto().resolution
    off = [m for m in range(1, 500) if asked / m**0.125 * m**0.125 > asked]
    assert len(off) > 6
    for m in off[:6]:
        ranking = Auto().explain((m, m)).predictions
        assert any(isinstance(p.method, GramNewtonSchulz) and p.admitted for p in ranking)
