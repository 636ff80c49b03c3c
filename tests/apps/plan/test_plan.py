"""Plans: tables of models, floating-point operations, times, and the mesh that is recommended."""

from __future__ import annotations

import json
import re
from dataclasses import replace
from typing import Any

import pytest
import torch
from torch import nn
from torch.utils.flop_counter import FlopCounterMode

from steepest.apps.plan import Links, Mesh, plan
from steepest.apps.plan.dtensor import newton_schulz
from steepest.apps.plan.flops import polar_flops
from steepest.apps.plan.hardware import DEVICES
from steepest.apps.plan.mesh import meshes
from steepest.apps.plan.models import MODELS, linear
from steepest.apps.plan.modules import of_module
from steepest.apps.plan.picture import COLOURS
from steepest.apps.plan.result import TITLES
from steepest.apps.plan.traffic import Collective
from steepest.apps.plan.training import step
from steepest.polar import Auto
from steepest.sharding import MARKS

LINKS = Links(node=4, inner=100.0, outer=10.0, inner_latency=1.0, outer_latency=5.0, launch=2.0)


def test_the_models_have_the_published_sizes() -> None:
    published = {
        "gpt2-small": 124_439_808,
        "gpt2-medium": 354_823_168,
        "gpt2-large": 774_030_080,
        "gpt2-xl": 1_557_611_200,
        "llama-8b": 8_030_261_248,
        "llama-70b": 70_553_706_496,
        "llama-405b": 405_853_388_800,
    }
    assert {name: MODELS[name].parameters for name in published} == published
    kimi = MODELS["moe-1t"]
    # "1.04T parameters, 32.6B of them active", the table of the embedding included.
    assert kimi.parameters == pytest.approx(1.04e12, rel=0.02)
    assert kimi.used + 163840 * 7168 == pytest.approx(32.6e9, rel=0.02)
    assert kimi.matrices == 61 * 5 + 3 + 60 * (4 + 3 * 384)


def test_a_module_on_the_meta_device_gives_the_table() -> None:
    layer = nn.TransformerEncoderLayer(768, 12, 3072, device="meta")
    found = of_module(nn.ModuleList([layer] + [type(layer)(768, 12, 3072, device="meta")] * 11))
    # The second to the twelfth are one module: weights that are shared are counted once.
    assert [w.count for w in found.weights] == [2] * 4
    table = MODELS["gpt2-small"]
    assert {w.shape: w.parts for w in found.weights} == {w.shape: w.parts for w in table.weights}
    assert found.added == table.added / 6 and found.blocks == 12
    with pytest.raises(ValueError, match="model='Embedding': it has no hidden matrix"):
        of_module(nn.Embedding(4, 4))


def test_flops_are_those_that_torch_counts() -> None:
    x = torch.randn(32, 96)
    method = Auto(error=0.05).choose(32, 96, torch.float32, torch.device("cuda"))
    with FlopCounterMode(display=False) as counter:
        method(x)
    assert polar_flops(32, 96) == polar_flops(96, 32) == counter.get_total_flops()
    p = nn.Parameter(x)
    p.grad = x.clone()
    optimizer = torch.optim.Muon([p])
    with FlopCounterMode(display=False) as counter:
        optimizer.step()
    found = newton_schulz(32, 96, 1, 1)
    assert found is not None and found.flops == counter.get_total_flops()
    assert newton_schulz(32, 96, 64, 1) is None


def test_times_of_collectives() -> None:
    gather = Collective(name="all_gather_into_tensor", ranks=8, calls=3, handed=50)
    # 7 × 50 bytes in rings over all four ports of a node; six hops inside, one between.
    assert gather.out == gather.into == 350
    assert gather.transfer(LINKS) == pytest.approx(350 / 40)
    assert gather.latency(LINKS) == pytest.approx(3 * (2 + 6 * 1 + 1 * 5))
    assert replace(gather, ranks=4).transfer(LINKS) == pytest.approx(150 / 100)
    # Ranks four devices apart share no node.
    assert replace(gather, ranks=2, stride=4).transfer(LINKS) == pytest.approx(50 / 10)
    total = replace(gather, name="all_reduce")
    assert total.out == pytest.approx(2 * 7 / 8 * 50)
    assert total.latency(LINKS) == pytest.approx(3 * (2 + 2 * 1 + 1 * 5))
    pairs = Collective(
        name="all_to_all_single", ranks=8, calls=1, handed=80, sent=80, received=40, partners=5
    )
    assert pairs.transfer(LINKS) == pytest.approx(40 / 10)  # half of them in the other node
    assert pairs.latency(LINKS) == pytest.approx(25e-6 + 5 + 4 * LINKS.message)
    alone = replace(pairs, ranks=1, sent=0, received=0)
    assert (alone.out, alone.transfer(LINKS), alone.latency(LINKS)) == (0, 0, 0)


def test_a_training_step_by_hand() -> None:
    mesh = "replicate=2,data=4,tensor=2"
    found = plan("llama-8b", mesh=mesh, tokens=16 * 8192, recompute="none")
    s, model = found.training, MODELS["llama-8b"]
    # Two products of 32 heads of 128 numbers in 32 layers, for half of 8192 keys; 3.5 times.
    attention = 3.5 * 32 * 2 * 2 * 4096 * 8192 / 2
    assert s.products == pytest.approx((6 * model.used + attention) * 8192 / (0.4 * 989e12))
    # Two rounds of 8192 tokens for each pair; sums between two nodes at 50 GB/s, two ports each.
    dense = model.parameters / 2
    gathers = 2 * 32 * (6.6e-6 + 3 * 0.6e-6) + 3 / 4 * dense * 4 / 450e9
    scatter = 32 * (6.6e-6 + 3 * 0.6e-6) + 3 / 4 * dense * 4 / 450e9
    copies = 2 * (32 * (6.6e-6 + 2.7e-6) + dense / 4 / 2 * 4 / 50e9)
    assert s.sharding == pytest.approx(2 * (gathers + scatter) + copies)
    assert s.seconds == max(s.products, s.sharding) + s.tensor
    muon = found["exchange"]
    assert found.share(muon) == pytest.approx(muon.seconds / (muon.seconds + s.seconds))
    assert s == step(found.task, found.batch)
    # What is computed again: a forward pass of all blocks; or of half the products.
    again = {
        way: plan("llama-8b", mesh=mesh, tokens=16 * 8192, recompute=way).training.products
        for way in ("selective", "full")
    }
    flop = 8192 / (0.4 * 989e12)
    blocks = 2 * (model.used - model.active) + attention / 3.5
    assert again["full"] - s.products == pytest.approx(blocks * flop)
    half = 2 * 32 * 4096 * (1024 + 4096 + 14336)
    assert again["selective"] - s.products == pytest.approx(half * flop)


def test_the_costs_of_an_exchange_by_hand() -> None:
    model = replace(MODELS["gpt2-small"], weights=(linear(4, 64, 64),), rest=(640, 1))
    found = plan(model, mesh="fsdp=4", tokens=64)
    cost, each = found["exchange"], 64 * 64 * 4
    # One matrix each: three parts of it are gathered and handed out, and three parts of others go.
    # Two bytes for each of five parameters, for whether a rank has to raise an error, and for each
    # of the marks by which the ranks compare the values of their groups.
    assert (cost.flops, cost.most, cost.busy) == (polar_flops(64, 64), 1, 1.0)
    assert cost.sent == pytest.approx(2 * 3 * each / 4 + 2 * 3 / 4 * 2 * (6 + MARKS))
    assert cost.state == each + 2 * 640
    assert cost.streamed == 7 * (each + 640)
    adamw = found["AdamW"]
    assert (adamw.sent, adamw.flops, adamw.state) == (0, 0, 2 * each + 2 * 640)
    parts = cost.parts
    slow, fast = sorted((parts["flops"], parts["bandwidth"] + parts["latency"]), reverse=True)
    assert cost.seconds == pytest.approx(slow + fast + parts["streaming"])
    gathered = found["gather all"]
    assert gathered.flops == 4 * cost.flops and gathered.sent == pytest.approx(4 * 3 * each / 4)


def test_the_recommended_mesh_is_the_fastest_that_fits() -> None:
    for name, devices in (("llama-8b", 64), ("moe-1t", 48)):
        best = plan(name, devices=devices)
        all_of_them = [plan(name, mesh=m) for m in meshes(devices, 8)]
        fitting = [p for p in all_of_them if p.fits(p["exchange"])]
        if name == "moe-1t":
            assert not fitting and "No mesh fits" in best.reason
            least = min(all_of_them, key=lambda p: p.memory(p["exchange"]).total)
            assert best.task.mesh == least.task.mesh
            assert best.limit(best["exchange"]) == "memory"
        else:
            fastest = min(fitting, key=lambda p: p.seconds(p["exchange"]))
            assert best.task.mesh == fastest.task.mesh
            assert (
                f"{len(fitting)} of {len(all_of_them)} meshes fit, and none is faster"
                in best.reason
            )


def test_a_mesh_divides_the_heads() -> None:
    # The hparams.json of GPT-2, table 3 of The Llama 3 herd of models, config.json of Kimi K2.
    heads = {name: (m.heads, m.kv_heads) for name, m in MODELS.items()}
    gpt2 = {"gpt2": 12, "gpt2-small": 12, "gpt2-medium": 16, "gpt2-large": 20, "gpt2-xl": 25}
    llama = {"llama-8b": 32, "llama-70b": 64, "llama-405b": 128}
    assert heads == {
        **{name: (count, 0) for name, count in gpt2.items()},
        **{name: (count, 8) for name, count in llama.items()},
        "moe-1t": (64, 0),
    }
    assert plan("gpt2-xl", devices=64, tokens=16384).task.mesh.tp == 1
    assert "of 7 meshes fit" in plan("gpt2-xl", devices=64).reason
    # Up to 72 devices of a rack, but no more than there are heads of keys and values.
    assert "of 22 meshes fit" in plan("llama-8b", device="gb200", devices=64).reason
    copies = plan("llama-8b", mesh="tp=16").notes()
    assert any(note.startswith("tp=16 is more than the 8 heads of keys") for note in copies)
    assert not any("copies" in note for note in plan("llama-8b", mesh="tp=8").notes())
    # Nothing says how many heads a module has.
    assert plan(nn.Linear(64, 64, device="meta"), mesh="tp=13").task.mesh.tp == 13
    odd = replace(MODELS["llama-8b"], heads=12, kv_heads=4)
    with pytest.raises(ValueError, match="mesh='tp=6': give a divisor or a multiple of 4"):
        plan(odd, mesh="tp=6")


def test_where_nothing_fits_each_remedy_does() -> None:
    given: dict[str, Any] = {"devices": 64, "sequences": 100, "recompute": "none"}

    def remedies(model: str, given: dict[str, Any]) -> dict[str, Any]:
        reason = plan(model, **given).reason
        assert reason.startswith("No mesh fits")
        found = re.findall(r"--(\w+) (\w+)", reason)
        return {name: value if name == "recompute" else int(value) for name, value in found}

    # The logits alone are too many, whatever is computed again.
    helps = remedies("llama-8b", given)
    assert helps.keys() == {"sequences", "length", "devices"}
    for name, value in helps.items():
        assert "meshes fit" in plan("llama-8b", **{**given, name: value}).reason
        assert "No mesh fits" in plan("llama-8b", **{**given, name: 2 * value}).reason or (
            name == "devices"
        )
    given = {"devices": 8, "sequences": 6, "recompute": "none"}
    helps = remedies("llama-8b", given)
    assert helps["recompute"] == "selective"
    assert "meshes fit" in plan("llama-8b", **{**given, "recompute": "selective"}).reason
    # What stays does not fit: fewer tokens at a time are of no use, nor is what is done already.
    assert remedies("moe-1t", {"devices": 48}).keys() == {"devices"}
    small = replace(DEVICES["h100"][0], memory=1e9)
    reason = plan("gpt2", devices=8, device=small, links=DEVICES["h100"][1]).reason
    assert "--" not in reason and reason.endswith("take devices with more memory.")


def test_filters_are_no_stacks_and_nothing_for_torch() -> None:
    for kind in (nn.Conv1d, nn.Conv2d):
        found = plan(kind(64, 128, 3, device="meta"), mesh="fsdp=4")
        assert found["torch DTensor"].refused == "takes matrices only"
        assert found.task.travelling and not found.task.at_home


def test_more_devices_than_matrices() -> None:
    found = plan("llama-405b", mesh="fsdp=4096")
    cost = found["exchange"]
    assert cost.busy == 882 / 4096 and cost.most == 1
    assert any(line.startswith("21.5% of the ranks take polar factors") for line in found.notes())
    assert any("more devices do not make it faster" in line for line in found.notes())


def test_experts_stay_where_every_rank_has_some() -> None:
    some, none = (plan("moe-1t", mesh=f"fsdp={n}") for n in (128, 512))
    assert {len(w.shape) for w in some.task.at_home} == {3} and not none.task.at_home
    experts = 60 * 3 * 3 * polar_flops(2048, 7168)  # three experts of each stack
    assert experts < some["exchange"].flops < 1.6 * experts
    # A stack of which some rank has nothing goes to one owner as a whole.
    assert none["exchange"].flops >= 384 * polar_flops(2048, 7168)
    assert none["torch DTensor"].refused and none.limit(none["torch DTensor"]) == "refused"


def test_a_plan_prints_and_is_plain_data() -> None:
    found = plan("gpt2", devices=8)
    text = str(found)
    names = {TITLES.get(name, name) for name in COLOURS}
    assert all(name in text for name in names) and found.reason in text
    data = json.loads(json.dumps(found.to_json(), allow_nan=False))
    assert data["mesh"] == vars(found.task.mesh)
    assert [c["name"] for c in data["optimizers"]] == list(COLOURS)
    half = plan("gpt2", mesh=found.task.mesh, dtype=torch.bfloat16)
    assert 2 * half["AdamW"].state == found["AdamW"].state


@pytest.mark.parametrize("where", [{"devices": 1}, {"mesh": "fsdp=2"}, {"mesh": "fsdp=8,tp=2"}])
@pytest.mark.parametrize("model", ["llama-8b", "moe-1t"])
def test_a_note_calls_a_way_as_the_table_does(model: str, where: dict[str, Any]) -> None:
    found = plan(model, **where)
    short = [c for c in found.costs if c.refused or not found.fits(c)]
    told = [line.partition(": ")[0] for line in found.notes()[-len(short) :]]
    assert told == [row[0] for row in found.rows() if row[-1] in ("refused", "memory")]
    assert "exchange" not in str(found)


def test_what_cannot_be_planned() -> None:
    def refused(message: str, **given: object) -> None:
        with pytest.raises(ValueError, match=message):
            plan(**{"model": "gpt2", **given})  # type: ignore[arg-type]

    refused("model='gpt9': choose from gpt2-small, .*nn.Module", model="gpt9")
    refused("device='h9': choose from a100", device="h9", devices=8)
    refused("mesh=None: give a mesh, or the number", mesh=None)
    refused("mesh='pipe=2': name each axis once", mesh="pipe=2")
    refused("mesh='data=2,fsdp=2': name each axis once", mesh="data=2,fsdp=2")
    refused("mesh='data=two': give data a whole number", mesh="data=two")
    refused("mesh='fsdp=0': give each axis one device", mesh="data=0")
    refused("mesh='fsdp=8': its axes multiply to 8, not to devices=4", mesh="data=8", devices=4)
    refused("devices=0: give a whole number from 1 to", devices=0)
    refused("devices=1048577: give a whole number from 1 to 1048576", devices=2**20 + 1)
    refused("mesh='fsdp=2097152': give at most 1048576 devices", mesh="data=2097152")
    refused("tokens=0: give a whole number >= 1", devices=8, tokens=0)
    refused("length=0: give a whole number >= 1", devices=8, length=0)
    refused("sequences=0: give a whole number >= 1", devices=8, sequences=0)
    refused("recompute='all': choose from none, selective, full", devices=8, recompute="all")
    refused("mesh='pp=13': give at most 12 stages", mesh="pp=13")
    refused("mesh='tp=13': give a divisor of 12, the heads of gpt2-small", mesh="tp=13")
    refused("links=None: give Links", device=DEVICES["h100"][0], devices=8)
    with pytest.raises(ValueError, match=r"outer=-1.0: give a positive number"):
        replace(LINKS, outer=-1.0)
    with pytest.raises(ValueError, match=r"utilization=1.5: give a number in \(0, 1\]"):
        replace(DEVICES["h100"][0], utilization=1.5)
    assert str(Mesh()) == "fsdp=1"
