"""The comparison of two steps: the theorem, naive definitions, every kind of layer, refusals."""

from __future__ import annotations

from functools import partial

import pytest
import torch
from torch import nn
from torch.nn import functional as F

from steepest.diagnostics import compare_geometries
from steepest.diagnostics.geometry.bounds import guarantees
from tests.diagnostics.dense import dense_hessian, flat
from tests.matrices import naive_polar
from tests.refusals import assert_refused

EXACT = partial(compare_geometries, steps=300, tolerance=1e-9)
"""So many steps that c has all its digits."""


def drawn(*shape, seed=0):
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(shape, generator=generator, dtype=torch.float64)


def half_mean_square(model, batch):
    """(1/2n)‖Z − Y‖², n samples in the last batch axis but one."""
    z, y = model(batch[0]), batch[1]
    return (z - y).square().sum() / (2 * z.shape[0])


def network(*layers, seed=0):
    """Modules in a row, in double precision, with weights of this seed."""
    torch.manual_seed(seed)
    return nn.Sequential(*layers).double()


# out, in, samples, rank of the input
PROBLEMS = [
    (6, 4, 9, 4),  # tall
    (3, 8, 20, 8),  # wide: the input has more singular values than there are outputs
    (5, 5, 3, 3),  # fewer samples than inputs
    (8, 12, 30, 3),  # an input without full rank
    (2, 9, 5, 4),
    (1, 7, 11, 7),  # one output: both steps are the same
    (7, 1, 4, 1),
    (10, 10, 10, 10),
    (4, 16, 16, 1),
    (1, 1, 1, 1),
]


@pytest.mark.parametrize("shape", PROBLEMS, ids=str)
def test_least_squares_never_violates_the_guarantees(shape):
    out, inner, samples, rank = shape
    a = drawn(100, inner, rank, seed=1) @ drawn(100, rank, samples, seed=2)
    a = a * torch.logspace(0, 2, inner, dtype=torch.float64)[:, None]
    w, y = drawn(100, out, inner, seed=3), drawn(100, out, samples, seed=4)

    def loss(weight):
        return (weight @ a - y).square().sum((-2, -1)) / (2 * samples)

    g = (w @ a - y) @ a.mT / samples
    unit = torch.stack([naive_polar(each) for each in g])
    squares = torch.linalg.svdvals(a).square()[:, None]
    found = guarantees(g[:, None], unit[:, None], squares, 1 / samples)
    before = loss(w)
    # Rounding of the loss, which is a sum of terms as large as itself.
    rounding = 1e-12 * before
    for direction, length, sure in (
        (g, found.euclidean_length, found.euclidean),
        (unit, found.spectral_length, found.spectral),
    ):
        fall = before - loss(w - length[:, None, None] * direction)
        assert bool((fall >= sure - rounding).all())
        assert bool((sure > 0).all())
        if out == 1 or rank == 1:  # one singular value: each bound is the loss itself somewhere
            assert float((fall / sure).min()) < 2
    ratio = found.nuclear_rank / found.spread
    torch.testing.assert_close(found.spectral / found.euclidean, ratio)


def test_least_squares_through_compare():
    for seed in range(24):
        out, inner, samples, rank = PROBLEMS[seed % len(PROBLEMS)]
        x = drawn(samples, rank, seed=seed) @ drawn(rank, inner, seed=seed + 100)
        model = network(nn.Linear(inner, out, bias=seed % 2 == 0), seed=seed)
        batch = (x, drawn(samples, out, seed=seed + 200))
        (row,) = compare_geometries(model, half_mean_square, batch)
        assert row.curvature == pytest.approx(1 / samples, rel=1e-9)
        rounding = 1e-12 * float(half_mean_square(model, batch).detach())
        assert row.measured_euclidean >= row.guaranteed_euclidean - rounding
        assert row.measured_spectral >= row.guaranteed_spectral - rounding


def naive(model, loss, batch, name, inputs):
    """All numbers of a layer from SVDs and dense Hessians; its inputs are (in, samples)."""
    module = model.get_submodule(name)
    weight, shift = module.weight, None

    def shifted(_, __, output):
        return output if shift is None else output + shift

    hook = module.register_forward_hook(shifted)
    shapes = []
    spy = module.register_forward_hook(lambda _, __, z: shapes.append(z.shape))
    value = loss(model, batch)
    (g,) = torch.autograd.grad(value, weight)
    shift = torch.zeros(shapes[0], dtype=torch.float64, requires_grad=True)
    c = float(torch.linalg.eigvalsh(dense_hessian(lambda: loss(model, batch), [shift]))[-1])
    h = dense_hessian(lambda: loss(model, batch), [weight])
    hook.remove()
    spy.remove()
    matrix = g.flatten(1)
    sigma = torch.linalg.svdvals(matrix)
    squares = torch.linalg.svdvals(inputs).square()
    rough, even = c * squares[0], c * squares[: len(matrix)].sum()
    unit = naive_polar(matrix).view_as(g)
    falls = {}
    for geometry, d in (
        ("euclidean", g / rough),
        ("spectral", unit * sigma.sum() / even),
    ):
        with torch.no_grad():
            weight -= d
            falls[f"measured_{geometry}"] = float(value.detach() - loss(model, batch))
            weight += d
        slope, sharp = float((g * d).sum()), float(flat([d]) @ h @ flat([d]))
        falls[f"best_{geometry}"] = slope**2 / (2 * sharp) if sharp > 0 else None
    return {
        "nuclear_rank": float(sigma.sum() ** 2 / sigma.square().sum()),
        "stable_rank": float(squares.sum() / squares[0]),
        "spread": float(squares[: len(matrix)].sum() / squares[0]),
        "curvature": c,
        "guaranteed_euclidean": float(sigma.square().sum() / (2 * rough)),
        "guaranteed_spectral": float(sigma.sum() ** 2 / (2 * even)),
        **falls,
    }


def classified(model, batch):
    return F.cross_entropy(model(batch[0]), batch[1])


def test_every_number_is_its_naive_definition():
    model = network(
        nn.Conv2d(1, 3, 3, padding=1),
        nn.ReLU(inplace=True),
        nn.MaxPool2d(2),
        nn.Flatten(),
        nn.Linear(12, 6),
        nn.Tanh(),
        nn.Linear(6, 4),
    )
    x = drawn(5, 1, 4, 4)
    batch = (x, torch.tensor([0, 1, 2, 3, 1]))
    verdict = EXACT(model, classified, batch)
    assert [row.layer for row in verdict] == ["0", "4", "6"]
    patches = F.unfold(x, 3, padding=1).movedim(1, 0).flatten(1)
    inputs = {"0": patches, "4": model[:4](x).mT, "6": model[:6](x).mT}
    for row in verdict:
        wanted = naive(model, classified, batch, row.layer, inputs[row.layer].detach())
        for key, value in wanted.items():
            found = getattr(row, key)
            close = found is value if value is None else found == pytest.approx(value, rel=1e-6)
            assert close, (row.layer, key)
        assert row.guaranteed_ratio == pytest.approx(row.nuclear_rank / row.spread, rel=1e-9)


def same_numbers(a, b):
    """Two rows, but for their names and shapes, and for how far each iteration has come.

    A curvature is at least the largest eigenvalue and exceeds it by at most the residual, which is
    that of one run of Lanczos. 1e-12 of it stand for the rounding of its Hessian products.
    """
    error = a.curvature_error + b.curvature_error
    assert abs(a.curvature - b.curvature) <= error + 1e-12 * a.curvature
    assert error <= 2e-9 * a.curvature, "asked for"
    for key, value in a.to_json().items():
        if isinstance(value, float) and key not in ("curvature", "curvature_error"):
            assert b.to_json()[key] == pytest.approx(value, rel=1e-6), key


def test_an_embedding_is_a_linear_layer_of_one_hot_inputs():
    ids = torch.tensor([[0, 3, 3], [1, 0, 3]])
    embedded = network(nn.Embedding(5, 3), nn.Tanh(), nn.Linear(3, 2))
    linear = network(nn.Linear(5, 3, bias=False), nn.Tanh(), nn.Linear(3, 2))
    linear[0].weight = nn.Parameter(embedded[0].weight.detach().mT.clone())
    linear[2] = embedded[2]
    y = drawn(2, 3, 2)
    row = EXACT(embedded, half_mean_square, (ids, y))["0"]
    same_numbers(row, EXACT(linear, half_mean_square, (F.one_hot(ids, 5).double(), y))["0"])
    assert row.stable_rank == pytest.approx(2.0), "3 + 2 + 1 over 3"


def test_groups_are_the_blocks_of_one_matrix():
    model = network(nn.Conv1d(4, 6, 1, groups=2, bias=False))
    x, y = drawn(3, 4, 5), drawn(3, 6, 5)
    row = EXACT(model, half_mean_square, (x, y))["0"]
    (g,) = torch.autograd.grad(half_mean_square(model, (x, y)), model[0].weight)
    blocks = torch.block_diag(*g[..., 0].split(3))
    sigma = torch.linalg.svdvals(blocks)
    assert row.nuclear_rank == pytest.approx(float(sigma.sum() ** 2 / sigma.square().sum()))
    parts = [torch.linalg.svdvals(x.movedim(1, 0)[k : k + 2].flatten(1)).square() for k in (0, 2)]
    top = max(float(p[0]) for p in parts)
    assert row.spread == pytest.approx(sum(float(p.sum()) for p in parts) / top)
    # All singular values count here, and the bound is the loss itself.
    assert row.measured_spectral >= row.guaranteed_spectral * (1 - 1e-12)


class Tied(nn.Module):
    """A transformer block over tokens whose head is the embedding, and a table of positions."""

    def __init__(self, tied=True):
        super().__init__()
        self.embedding = nn.Embedding(7, 8)
        self.positions = nn.Parameter(torch.randn(5, 8) * 0.02)
        self.qkv = nn.Linear(8, 24, bias=False)
        self.proj = nn.Linear(8, 8)
        self.head = nn.Linear(8, 7, bias=False)
        if tied:
            self.head.weight = self.embedding.weight

    def forward(self, ids):
        x = self.embedding(ids) + self.positions[: ids.shape[1]]
        q, k, v = self.qkv(x).unflatten(-1, (3, 2, 4)).permute(2, 0, 3, 1, 4)
        out = F.scaled_dot_product_attention(q, k, v, is_causal=True)
        return self.head(x + self.proj(out.transpose(1, 2).flatten(2))).flatten(0, 1)


def test_a_transformer_with_tied_embeddings():
    torch.manual_seed(0)
    model = Tied()
    ids = torch.randint(7, (4, 6))
    verdict = compare_geometries(model, classified, (ids[:, :-1], ids[:, 1:].flatten()))
    by_layer = {row.layer: row for row in verdict}
    assert list(by_layer) == ["positions", "embedding", "qkv", "proj"]
    assert by_layer["embedding"].calls == 2
    assert "shared by embedding and linear" in by_layer["embedding"].note
    assert "never arrives" in by_layer["positions"].note
    for name in ("qkv", "proj"):
        assert by_layer[name].measured_spectral > 0 and not by_layer[name].note
    text = str(verdict)
    assert all(f"{name}: " in text for name in by_layer) and "Not judged: positions (" in text
    assert_refused(
        lambda: compare_geometries(
            model, classified, (ids[:, :-1], ids[:, 1:].flatten()), layers=["positions"]
        ),
        "positions",
        "never arrives",
    )


class Twice(nn.Module):
    """One layer for two inputs, side by side or one after the other; or once by its transpose."""

    def __init__(self, way):
        super().__init__()
        self.layer, self.way = nn.Linear(3, 3, bias=False), way

    def forward(self, x):
        first = torch.tanh(self.layer(x[:4]))
        if self.way == "beside":
            return torch.cat([first, torch.tanh(self.layer(x[4:]))])
        return torch.tanh(self.layer(first) if self.way == "after" else first @ self.layer.weight)


def test_a_layer_that_is_used_twice():
    x, y = drawn(9, 3), drawn(9, 3, seed=1)
    beside = network(Twice("beside"))
    row = EXACT(beside, half_mean_square, (x, y))["0.layer"]
    assert row.calls == 2
    once = network(beside[0].layer, nn.Tanh())
    same_numbers(row, EXACT(once, half_mean_square, (x, y))["0"])
    for way, note in (("after", "one use feeding another"), ("product", "shared by linear and")):
        verdict = compare_geometries(network(Twice(way)), half_mean_square, (x[:4], y[:4]))
        assert note in verdict["0.layer.weight"].note
        assert verdict.summary.startswith("No layer could be judged. Not judged: 0.layer (")


def test_a_loss_that_sees_the_weight_elsewhere_too():
    model = network(nn.Linear(3, 2))

    def decayed(m, batch):
        return half_mean_square(m, batch) + m[0].weight.square().sum()

    (row,) = compare_geometries(model, decayed, (drawn(4, 3), drawn(4, 2)))
    assert "not seen" in row.note and row.favours == "neither" and row.nuclear_rank is None


def test_where_there_is_nothing_to_compare():
    x, y = drawn(6, 3), drawn(6, 2)
    model = network(nn.Linear(3, 2))
    (row,) = compare_geometries(model, lambda m, b: -half_mean_square(m, b), (x, y))
    assert "curves upwards" in row.note
    (row,) = compare_geometries(model, half_mean_square, (x, model(x).detach()))
    assert "gradient is zero" in row.note
    (row,) = compare_geometries(model, half_mean_square, (x[:1], y[:1]))
    assert row.favours == "neither" and "rank one" in row.sentence
    assert row.measured_spectral == pytest.approx(row.measured_euclidean)
    attention = nn.TransformerEncoderLayer(4, 2, 8, batch_first=True).double()
    verdict = compare_geometries(attention, half_mean_square, (drawn(2, 3, 4), drawn(2, 3, 4)))
    assert {r.layer for r in verdict if not r.note} == {"linear1", "linear2"}
    assert "MultiheadAttention" in verdict["self_attn.in_proj_weight"].note


def test_nothing_is_left_changed():
    model = network(nn.Linear(4, 6), nn.BatchNorm1d(6), nn.Dropout(0.5), nn.Linear(6, 2))
    batch = (drawn(8, 4), drawn(8, 2))
    for p in model.parameters():
        p.grad = torch.ones_like(p)
    before = {k: v.clone() for k, v in model.state_dict().items()}
    random = torch.get_rng_state()
    calls = []

    def failing(m, b):
        calls.append(m)
        if len(calls) > failing.good:
            raise RuntimeError("out of luck")
        return half_mean_square(m, b)

    for failing.good in (1, 2, 100):
        calls.clear()
        if failing.good < 3:
            with pytest.raises(RuntimeError, match="out of luck"):
                compare_geometries(model, failing, batch)
        else:
            first, again = (compare_geometries(model, failing, batch) for _ in range(2))
            assert first == again, "the same dropout in every evaluation"
        assert all(torch.equal(v, before[k]) for k, v in model.state_dict().items())
        assert torch.equal(torch.get_rng_state(), random)
        assert all(bool((p.grad == 1).all()) for p in model.parameters())
        assert model.training


def test_refusals():
    model, batch = network(nn.Linear(3, 2)), (drawn(4, 3), drawn(4, 2))
    compare, good = compare_geometries, half_mean_square
    frozen = network(nn.Linear(3, 3), nn.Linear(3, 2))
    frozen[0].requires_grad_(False)

    def cast(m, b):
        with torch.autocast("cpu", torch.bfloat16):
            return m(b[0].float()).float().square().mean()

    for call, value, remedy in (
        (lambda: compare(network(nn.Linear(3, 2)).bfloat16(), good, batch), "bfloat16", "float()"),
        (lambda: compare(network(nn.Linear(3, 2)).float(), cast, batch), "bfloat16", "autocast"),
        (lambda: compare(model, lambda m, b: m(b[0]), batch), "4×2", "return one number"),
        (lambda: compare(model, lambda m, b: good(m, b).detach(), batch), "graph", ".detach()"),
        (lambda: compare(model, F.cross_entropy, batch), "cross_entropy", "loss(model, batch)"),
        (lambda: compare(model, nn.MSELoss(), batch[1]), "loss=", "loss(model, batch)"),
        (lambda: compare(model, lambda m: m(batch[0]), batch), "positional", "loss(model, batch)"),
        (lambda: compare(model, good, batch, layers=["1"]), "['1']", "['0']"),
        (lambda: compare(model, good, batch, layers=[]), "[]", "['0']"),
        (lambda: compare(frozen, good, batch, layers=["0"]), "['0']", "frozen"),
        (lambda: compare(nn.LayerNorm(3).double(), good, batch), "LayerNorm", "matrix"),
    ):
        assert_refused(call, value, remedy)
    with pytest.raises(TypeError, match="of the model itself"):
        compare(model, lambda m, b: raised(m(b[0])), batch)


def raised(_):
    raise TypeError("of the model itself")
