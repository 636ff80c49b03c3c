"""QK-clip: logits above the threshold come down to it, and nothing else changes."""

from __future__ import annotations

import copy

import pytest
import torch
from torch import nn
from torch._subclasses.fake_tensor import FakeTensorMode

import steepest
from steepest import QKClip
from steepest.routing import HeadRows, QueryKey, query_keys
from tests.optim.attention import LAYERS, WIDTH, Attended, grouped, latent, modules, separate

every_layer = pytest.mark.parametrize("make", LAYERS.values(), ids=LAYERS.keys())


def made(make) -> tuple[Attended, torch.Tensor]:
    torch.manual_seed(0)
    layer = make()
    layer.model.double()
    return layer, torch.randn(12, WIDTH, dtype=torch.float64)


def largest(layer: Attended, x: torch.Tensor) -> torch.Tensor:
    return layer.logits(x).detach().amax((1, 2))


@every_layer
def test_logits_of_clipped_heads_come_down_to_the_threshold(make) -> None:
    layer, x = made(make)
    before, s = layer.logits(x).detach(), largest(layer, x)
    tau = float(s.sort().values[1:3].mean())  # between the heads
    clip = QKClip(layer.model, tau)
    keys = clip.layers[layer.name].key_heads
    top = s.view(keys, -1).amax(1).repeat_interleave(4 // keys)
    assert (top > tau).any()
    clip({layer.name: s})
    factor = (tau / top).clamp(max=1)
    torch.testing.assert_close(layer.logits(x).detach(), factor.view(-1, 1, 1) * before)
    torch.testing.assert_close(largest(layer, x).clamp(max=tau), largest(layer, x))


@every_layer
def test_one_head_is_clipped_and_all_other_numbers_stay(make) -> None:
    layer, _ = made(make)
    clip = QKClip(layer.model, 1.0)
    found = clip.layers[layer.name]
    before = {n: p.detach().clone() for n, p in layer.model.named_parameters()}
    clip({layer.name: torch.tensor([0.5, -3.0, 4.0, 1.0], dtype=torch.float64)})
    # The third of four query heads, and those that share its key.
    each = found.heads // found.key_heads
    key = 2 // each
    allowed = {}
    for rows in (*found.query, *found.key, *found.rotary):
        mask = allowed.setdefault(rows.param, torch.zeros_like(rows.param, dtype=torch.bool))
        for head, place in enumerate(rows.slices):
            mine = key == (head if len(rows.slices) < found.heads else head // each)
            mask.narrow(rows.dim, place.start, place.stop - place.start).fill_(mine)
    for name, p in layer.model.named_parameters():
        mask = allowed.get(p, torch.zeros_like(p, dtype=torch.bool))
        assert torch.equal(p != before[name], mask & (before[name] != 0)), name


@every_layer
def test_a_second_call_finds_nothing_to_clip(make) -> None:
    layer, x = made(make)
    clip = QKClip(layer.model, 0.1)
    clip([largest(layer, x)])
    before = copy.deepcopy(layer.model.state_dict())
    clip([largest(layer, x)])
    for name, value in layer.model.state_dict().items():
        torch.testing.assert_close(value, before[name], rtol=1e-14, atol=0)
    # Just at the threshold: bit for bit.
    before = copy.deepcopy(layer.model.state_dict())
    factors = clip([torch.full((4,), 0.1, dtype=torch.float64)])
    assert all(torch.equal(v, before[k]) for k, v in layer.model.state_dict().items())
    assert factors[layer.name].tolist() == [1.0] * 4


@pytest.mark.parametrize("bad", [float("nan"), float("inf"), -float("inf"), -400.0, 0.0])
@pytest.mark.parametrize("make", [separate, grouped, latent])
def test_negative_and_bad_maxima_clip_nothing(make, bad) -> None:
    layer, _ = made(make)
    clip = QKClip(layer.model, 100.0)
    before = copy.deepcopy(layer.model.state_dict())
    clip([torch.full((4,), bad)])
    assert all(torch.equal(v, before[k]) for k, v in layer.model.state_dict().items())
    # Beside a head that is clipped they do no harm.
    clip([torch.tensor([bad, bad, bad, 400.0])])
    assert all(v.isfinite().all() for v in layer.model.state_dict().values())
    name = next(n for n in before if n.startswith("self_attn.q") and n.endswith("weight"))
    now = dict(layer.model.state_dict())[name]
    if "q_a" not in name:
        assert torch.equal(now[: len(now) // 2], before[name][: len(now) // 2])
        assert not torch.equal(now, before[name])


def test_the_share_of_the_query() -> None:
    layer, _ = made(separate)
    q, k = (layer.model.self_attn.get_parameter(f"{n}_proj.weight") for n in "qk")
    old = q.detach().clone(), k.detach().clone()
    QKClip(layer.model, 1.0, alpha=0.75)([torch.tensor([16.0, 0.0, 0.0, 0.0])])
    torch.testing.assert_close(q[:4], old[0][:4] / 8)
    torch.testing.assert_close(k[:4], old[1][:4] / 2)


def test_the_rows_for_positions_carry_all_of_the_factor() -> None:
    layer, _ = made(latent)
    q = layer.model.self_attn.q_b_proj.weight
    old = q.detach().clone()
    QKClip(layer.model, 1.0)([torch.tensor([16.0, 0.0, 0.0, 0.0])])
    torch.testing.assert_close(q[:4], old[:4] / 4)
    torch.testing.assert_close(q[4:6], old[4:6] / 16)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16, torch.float32], ids=str)
def test_half_precision_is_rounded_once(dtype) -> None:
    layer, _ = made(separate)
    layer.model.to(dtype)
    q = layer.model.self_attn.q_proj.weight
    old = q.detach().clone()
    QKClip(layer.model, 1.0)([torch.tensor([2.0, 0.0, 0.0, 0.0], dtype=dtype)])
    exact = (old[:4].double() / 2**0.5).float().to(dtype)
    torch.testing.assert_close(q[:4], exact, rtol=1e-6, atol=0)
    assert torch.equal(q[4:], old[4:]) and q.dtype == dtype


def test_after_a_step_of_an_optimizer() -> None:
    layer, x = made(separate)
    optimizer = steepest.Muon(layer.model, lr=0.02, overrides={"lm_head.*": "adamw"})
    clip = QKClip(layer.model, 0.25)
    optimizer.register_step_post_hook(clip.after_step)
    # Two forward passes, one step: the larger one counts.
    for part in x.chunk(2):
        clip.record(layer.name, largest(layer, part))
        layer.logits(part).square().mean().backward()
    parts = torch.stack([largest(layer, part) for part in x.chunk(2)])
    twin = copy.deepcopy(layer.model)
    grads = {n: p.grad for n, p in layer.model.named_parameters()}
    other = steepest.Muon(twin, lr=0.02, overrides={"lm_head.*": "adamw"})
    for n, p in twin.named_parameters():
        p.grad = grads[n]
    optimizer.step()
    other.step()
    QKClip(twin, 0.25)({layer.name: parts.amax(0)})
    pairs = zip(layer.model.parameters(), twin.parameters(), strict=True)
    assert all(torch.equal(a, b) for a, b in pairs)
    assert clip.recorded == {}
    clip.after_step()  # nothing recorded, nothing clipped
    pairs = zip(layer.model.parameters(), twin.parameters(), strict=True)
    assert all(torch.equal(a, b) for a, b in pairs)


def test_it_never_waits_for_the_device() -> None:
    with FakeTensorMode():
        weight = nn.Parameter(torch.zeros(24, 8, device="cuda"))
        clip = QKClip({"one": QueryKey([HeadRows(weight, 6, (0, 1))], [HeadRows(weight, 6, (2,))])})
        clip.record("one", torch.zeros(2, device="cuda"))
        clip.record("one", torch.zeros(2, device="cuda"))
        clip.after_step()
        assert clip([torch.zeros(2, device="cuda")])["one"].device.type == "cuda"


def test_layers_by_hand() -> None:
    qkv = nn.Parameter(torch.ones(3 * 2 * 4, 8))
    layers = {"one": QueryKey([HeadRows(qkv, 6, (0, 1))], [HeadRows(qkv, 6, (2, 3))])}
    QKClip(layers, 1.0)([torch.tensor([4.0, 1.0])])
    assert qkv[:, 0].tolist() == [0.5] * 4 + [1.0] * 4 + [0.5] * 4 + [1.0] * 12


def test_what_is_refused() -> None:
    layer, _ = made(separate)
    clip = QKClip(layer.model)
    for maxima, message in [
        ({"other": torch.ones(4)}, "the layers are self_attn"),
        ([], "one for each of"),
        ([torch.ones(3)], "each of 4 heads"),
        ([torch.ones(1, 4)], "each of 4 heads"),
    ]:
        with pytest.raises(ValueError, match=message):
            clip(maxima)
    with pytest.raises(ValueError, match="no layer whose query"):
        QKClip(nn.Linear(3, 3))
    with pytest.raises(ValueError, match="threshold"):
        QKClip(layer.model, 0.0)
    with pytest.raises(ValueError, match="alpha"):
        QKClip(layer.model, alpha=1.5)
    with pytest.raises(ValueError, match="split"):
        HeadRows(torch.ones(6, 2), 4)
    with pytest.raises(ValueError, match="blocks"):
        HeadRows(torch.ones(6, 2), (2, 4), (2,))
    with pytest.raises(ValueError, match="heads"):
        QueryKey([HeadRows(torch.ones(6, 2), 3)], [HeadRows(torch.ones(6, 2), 2)])


def test_layers_that_normalise_or_do_not_tell_are_left_out() -> None:
    normal, _ = made(separate)
    normal.model.self_attn.q_norm = nn.LayerNorm(4)
    assert query_keys(normal.model) == {}
    normal.model.self_attn.q_norm = nn.Identity()
    assert list(query_keys(normal.model)) == ["self_attn"]
    del normal.model.self_attn.num_heads
    assert query_keys(normal.model) == {}
    alone = nn.ModuleDict({"attn": modules(qkv=nn.Linear(8, 20))})
    alone.attn.num_heads = 2
    assert query_keys(alone) == {}


NOT_KNOWN = {
    "no key": {"q_proj": nn.Linear(8, 8)},
    "heads that do not divide the query": {"q_proj": nn.Linear(8, 7), "k_proj": nn.Linear(8, 8)},
    "heads that do not divide the key": {"q_proj": nn.Linear(8, 8), "k_proj": nn.Linear(8, 6)},
    "a fused weight of no three parts": {"qkv": nn.Linear(8, 23)},
    "key and value that are no halves": {"q_proj": nn.Linear(8, 8), "kv_proj": nn.Linear(8, 12)},
}


@pytest.mark.parametrize("layers", NOT_KNOWN.values(), ids=NOT_KNOWN.keys())
def test_sizes_that_do_not_fit_are_left_out(layers) -> None:
    attention = nn.Module()
    attention.num_heads = 2
    for name, layer in layers.items():
        setattr(attention, name, layer)
    assert query_keys(nn.ModuleDict({"attention": attention})) == {}
