"""Learning rates that fall from layer to layer."""

import pytest
import torch
from torch import nn

from steepest import Muon, layer_decay, route
from steepest.routing.layer_decay import layer_depths


def block(width=8, experts=0):
    parts = {"attn": nn.Linear(width, width), "norm": nn.LayerNorm(width)}
    if experts:
        many = [nn.Sequential(nn.Linear(width, width), nn.ReLU()) for _ in range(experts)]
        parts["experts"] = nn.ModuleList([nn.Sequential(e) for e in many])
    else:
        parts["mlp"] = nn.Sequential(nn.Linear(width, width), nn.ReLU())
    return nn.ModuleDict(parts)


def transformer(experts=0):
    return nn.ModuleDict(
        {
            "embed": nn.Embedding(9, 8),
            "blocks": nn.ModuleList([block(experts=experts) for _ in range(3)]),
            "norm": nn.LayerNorm(8),
            "lm_head": nn.Linear(8, 9, bias=False),
        }
    )


def convolutional():
    def stage(width, depth):
        blocks = nn.Sequential(*(block(width) for _ in range(depth)))
        return nn.ModuleDict({"down": nn.Conv2d(width, width, 1, groups=width), "blocks": blocks})

    stages = nn.Sequential(stage(8, 2), stage(16, 1), stage(16, 2))
    return nn.ModuleDict({"stem": nn.Conv2d(3, 8, 4), "stages": stages, "head": nn.Linear(16, 3)})


@pytest.mark.parametrize("experts", [0, 4])
def test_the_layers_of_a_transformer(experts):
    depths = layer_depths(transformer(experts))
    assert depths["embed.weight"] == 0
    for name, depth in depths.items():
        if name.startswith("blocks."):
            assert depth == 1 + int(name.split(".")[1]), name
    assert depths["norm.weight"] == depths["lm_head.weight"] == 4


def test_a_stage_is_the_blocks_that_it_consists_of():
    depths = layer_depths(convolutional())
    assert depths["stem.weight"] == 0
    assert depths["stages.0.blocks.1.attn.weight"] == 2
    assert depths["stages.1.down.weight"] == depths["stages.1.blocks.0.attn.weight"] == 3
    assert depths["stages.2.blocks.1.attn.weight"] == 5
    assert depths["head.weight"] == 6


def test_heads_and_embeddings_have_their_layers_wherever_they_are_registered():
    parts = transformer()
    order = ("lm_head", "norm", "blocks", "embed")
    depths = layer_depths(nn.ModuleDict({name: parts[name] for name in order}))
    assert (depths["lm_head.weight"], depths["embed.weight"]) == (4, 0)
    groups = layer_decay(transformer(), 0.5, lr=1.0, overrides={"blocks.0.attn.weight": "adamw"})
    rates = {name: g["lr"] for g in groups for name, _ in g["params"]}
    assert rates["blocks.0.attn.weight"] == pytest.approx(3e-4 / 8), "an override is not a head"


def tower(depth):
    return nn.ModuleDict(
        {
            "embed": nn.Linear(8, 8),
            "layers": nn.ModuleList([block() for _ in range(depth)]),
            "norm": nn.LayerNorm(8),
        }
    )


def test_towers_end_in_the_same_layer():
    parts = {"scale": nn.LayerNorm(8), "text": tower(2), "mix": nn.Linear(8, 8), "vision": tower(3)}
    depths = layer_depths(nn.ModuleDict(parts))
    assert [depths[f"text.layers.{i}.attn.weight"] for i in range(2)] == [2, 3]
    assert [depths[f"vision.layers.{i}.attn.weight"] for i in range(3)] == [1, 2, 3]
    assert depths["scale.weight"] == depths["text.embed.weight"] == 0
    assert depths["vision.embed.weight"] == 0
    assert depths["mix.weight"] == depths["text.norm.weight"] == depths["vision.norm.weight"] == 4


def test_numbered_stages_follow_each_other():
    def stage(width):
        return nn.Sequential(block(width), block(width))

    stem = nn.Sequential(*(nn.Sequential(nn.Linear(2, 2), nn.ReLU()) for _ in range(2)))
    parts = {"stem": stem, "layer1": stage(8), "down": nn.Linear(8, 16), "layer2": stage(16)}
    depths = layer_depths(nn.ModuleDict(parts))
    found = [depths[f"layer{i}.{j}.attn.weight"] for i in (1, 2) for j in (0, 1)]
    assert found == [1, 2, 3, 4]
    assert (depths["stem.1.0.weight"], depths["down.weight"]) == (0, 3)


class Mixer(nn.Module):
    """A block whose parts are small sequences."""

    def __init__(self):
        super().__init__()
        self.mix = nn.Sequential(*(nn.Sequential(nn.Linear(8, 8), nn.Tanh()) for _ in range(2)))
        self.mlp = nn.Sequential(*(nn.Sequential(nn.Linear(8, 8), nn.Tanh()) for _ in range(2)))


def test_a_list_of_two_classes_that_repeat_is_a_stack():
    blocks = nn.ModuleList([block(), Mixer(), block(), Mixer()])
    depths = layer_depths(nn.ModuleDict({"blocks": blocks}))
    assert {name: 1 + int(name.split(".")[1]) for name in depths} == depths


def test_a_step_of_a_layer_is_shorter_by_the_decay_for_each_layer_above_it():
    m = transformer()
    groups = layer_decay(m, 0.5, lr=0.1, adamw_lr=0.01)
    optimizer = Muon(groups, weight_decay=0.0, momentum=0.0)
    depths, routing = layer_depths(m), route(m)
    found = {n: (g["lr"], g["adamw"]) for g in optimizer.param_groups for n in g["param_names"]}
    assert found == {
        name: ((0.1 if matrix else 0.01) * 0.5 ** (4 - depth), not matrix)
        for name, depth in depths.items()
        for matrix in [routing[name].target == "matrix"]
    }
    before = {i: m["blocks"][i]["attn"].weight.detach().clone() for i in range(3)}
    for p in m.parameters():
        p.grad = torch.randn(p.shape, generator=torch.Generator().manual_seed(0))
    optimizer.step()
    for i, old in before.items():
        step = torch.linalg.matrix_norm(m["blocks"][i]["attn"].weight.detach() - old, 2)
        assert float(step) == pytest.approx(0.1 * 0.5 ** (3 - i), rel=0.06)


@pytest.mark.parametrize(
    ("arguments", "match"),
    [
        ({"decay": 0.0, "lr": 0.1}, r"decay=0\.0"),
        ({"decay": 1.5, "lr": 0.1}, r"decay=1\.5"),
        ({"lr": -1.0}, r"lr=-1\.0"),
        ({"lr": 0.1, "adamw_lr": 0.0}, r"adamw_lr=0\.0"),
    ],
)
def test_what_is_out_of_range_is_named(arguments, match):
    with pytest.raises(ValueError, match=match):
        layer_decay(transformer(), **arguments)


def test_a_model_without_blocks_is_refused():
    with pytest.raises(ValueError, match="no list of blocks"):
        layer_decay(nn.Sequential(nn.Linear(4, 4), nn.Linear(4, 4)), lr=0.1)
