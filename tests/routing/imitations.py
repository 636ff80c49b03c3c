"""Small imitations of architectures whose names or order mislead, and what routing says of them."""

from __future__ import annotations

from collections.abc import Callable
from types import SimpleNamespace
from typing import Any

import torch
from torch import nn

from tests.routing import zoo

CONFIG = SimpleNamespace(num_attention_heads=4, num_key_value_heads=2, head_dim=4)


def module(kind: str = "Module", **members: Any) -> nn.Module:
    """A module of a class of this name; integers and configurations become attributes."""
    made = type(kind, (nn.Module,), {})()
    for name, member in members.items():
        setattr(made, name, member)
    return made  # type: ignore[no-any-return]


def lin(inputs: int, outputs: int) -> nn.Linear:
    return nn.Linear(inputs, outputs, bias=False)


def parameter(*shape: int) -> nn.Parameter:
    return nn.Parameter(torch.zeros(shape))


def blocks(width: int = 16) -> nn.ModuleList:
    return nn.ModuleList([nn.ModuleDict({"up": lin(width, width)}) for _ in range(2)])


def conv_norm(inputs: int, outputs: int) -> nn.Sequential:
    return nn.Sequential(nn.Conv2d(inputs, outputs, 1, bias=False), nn.BatchNorm2d(outputs))


def hybrid() -> nn.Module:
    """Blocks that share the configuration of attention and are none, before an output head."""
    return module(
        embed=nn.Embedding(9, 16),
        conv=module("ShortConv", config=CONFIG, in_proj=lin(16, 48), out_proj=lin(16, 16)),
        ffn=module("GatedMLP", config=CONFIG, in_proj=lin(16, 64), out_proj=lin(32, 16)),
        plain=module("PlainMLP", config=CONFIG, in_proj=lin(16, 64), out_proj=lin(64, 16)),
        wide=module("WideMLP", config=CONFIG, in_proj=lin(16, 64), down_proj=lin(60, 16)),
        zamba=module("ZambaMambaMixer", in_proj=lin(16, 64), out_proj=lin(32, 16)),
        self_attn=module("Attention", config=CONFIG, qkv_proj=lin(16, 32), o_proj=lin(16, 16)),
        mixer=module(
            *("Mamba2Mixer",),
            intermediate_size=32,
            n_groups=2,
            ssm_state_size=4,
            num_heads=4,
            D=parameter(4, 8),
            in_proj=lin(16, 2 * 32 + 2 * 8 + 4),
            out_proj=lin(32, 16),
        ),
        lm_head=lin(16, 9),
    )


HYBRID = {
    "conv.in_proj.weight": "3 × 16×16",
    "ffn.in_proj.weight": "2 × 32×16",
    "plain.in_proj.weight": "64×16",
    "wide.in_proj.weight": "?64×16",
    "zamba.in_proj.weight": "?64×16",
    "self_attn.qkv_proj.weight": "16×16 + 8×16 + 8×16",
    "mixer.in_proj.weight": "32×16 + 32×16 + 8×16 + 8×16 + 4×16",
    "mixer.D": "vector",
    "lm_head.weight": "head",
}


def keys_and_values() -> nn.Module:
    """Key and value in one weight, or one matrix that is both."""

    def attention(kv: nn.Module, **told: Any) -> nn.Module:
        return module("Block", q_proj=lin(16, 16), kv_proj=kv, o_proj=lin(16, 16), **told)

    return module(
        both=attention(lin(16, 32)),
        latent=attention(lin(16, 4), head_dim=4),
        grouped=attention(lin(16, 16), head_dim=4, num_heads=4, num_key_value_heads=2),
        shared=attention(lin(16, 8), head_dim=4, num_heads=4, num_key_value_heads=2),
        untold=attention(lin(16, 8)),
        levit=module("Attn", num_heads=2, key_dim=2, val_dim=6, kv=module(linear=lin(16, 16))),
        lm_head=lin(16, 9),
    )


KEYS_AND_VALUES = {
    "both.kv_proj.weight": "2 × 16×16",
    "latent.kv_proj.weight": "4×16",
    "grouped.kv_proj.weight": "2 × 8×16",
    "shared.kv_proj.weight": "8×16",
    "untold.kv_proj.weight": "?8×16",
    "levit.kv.linear.weight": "2×16 + 6×16 + 2×16 + 6×16",
}


def fused() -> nn.Module:
    """Fused projections in layouts that their classes or their numbers tell."""
    return module(
        hiera=module("Att", qkv=lin(16, 96), proj=lin(32, 32)),
        deberta=module("DisentangledSelfAttention", num_attention_heads=4, in_proj=lin(16, 48)),
        codegen=module("CodeGenAttention", qkv_proj=lin(16, 48), out_proj=lin(16, 16)),
        lite=module("LiteMLA", qkv=module(conv=nn.Conv2d(16, 48, 1, bias=False))),
        mobile=module("LinearAttention", qkv_proj=nn.Conv2d(16, 33, 1)),
        efficient=module("Attention", num_heads=2, key_dim=2, val_dim=6, qkv=lin(16, 20)),
        xlnet=module(
            *("RelativeAttention",),
            n_head=4,
            d_head=8,
            q=parameter(16, 4, 8),
            r=parameter(16, 4, 8),
            o=parameter(16, 4, 8),
        ),
        raschka=module("Attend", query=parameter(8, 8), key=parameter(8, 8)),
        glu=module("GEGLU", proj=lin(16, 64)),
        mlp=module("Mlp", fc1=lin(16, 64), act=nn.SiLU(), fc2=lin(32, 16)),
        hc=module("HyperConnection", fn=parameter(6, 32)),
        lm_head=lin(16, 9),
    )


FUSED = {
    "hiera.qkv.weight": "3 × 32×16",
    "deberta.in_proj.weight": "12 × 4×16",
    "codegen.qkv_proj.weight": "12 × 4×16",
    "lite.qkv.conv.weight": "?48×16",
    "mobile.qkv_proj.weight": "1×16 + 16×16 + 16×16",
    "efficient.qkv.weight": "2×16 + 2×16 + 6×16 + 2×16 + 2×16 + 6×16",
    "xlnet.q": "32×16",
    "xlnet.r": "32×16",
    "xlnet.o": "16×32",
    "raschka.query": "8×8",
    "glu.proj.weight": "2 × 32×16",
    "mlp.fc1.weight": "2 × 32×16",
    "hc.fn": "6×32",
}


def diffusion() -> nn.Module:
    """The output is registered before the layers that embed a caption."""
    return module(
        blocks=blocks(),
        proj_out=lin(16, 8),
        adaln=module(linear=lin(16, 96)),
        caption_projection=module(linear_1=lin(4, 16), linear_2=lin(16, 16)),
    )


def named_final_layer() -> nn.Module:
    """The output is in a container that is known by a part of its name."""
    final = module(linear=lin(16, 8), adaLN_modulation=nn.Sequential(nn.SiLU(), lin(16, 16)))
    return module(all_final_layer=nn.ModuleDict({"2-1": final}), layers=blocks())


def segmentation() -> nn.Module:
    """A head with a classifier in it, and with more layers behind that."""
    return module(
        backbone=blocks(),
        stem=module(conv_out=lin(16, 16)),
        head=nn.Sequential(conv_norm(16, 16), conv_norm(16, 24)),
        decode_head=module(classifier=lin(16, 3), fpn_bottleneck=module(conv=lin(16, 16))),
        depth_head=module(head=nn.ModuleList([lin(16, 16), nn.ReLU(), lin(16, 5)])),
        unet=module(conv_in=nn.Conv2d(3, 8, 3), conv_out=nn.Conv2d(8, 3, 3)),
        query_pos_head=module(layers=nn.ModuleList([lin(4, 16), lin(16, 16)])),
        pool_head=module(q_proj=lin(8, 8), k_proj=lin(8, 8), v_proj=lin(8, 8), o_proj=lin(8, 8)),
        bias=module(rel_pos_x_bias=lin(8, 4)),
        projector=module(linear_1=lin(16, 16), linear_2=lin(16, 16)),
    )


SEGMENTATION = {
    "stem.conv_out.weight": "16×16",
    "head.1.0.weight": "24×16",
    "decode_head.classifier.weight": "head",
    "decode_head.fpn_bottleneck.conv.weight": "16×16",
    "depth_head.head.0.weight": "16×16",
    "depth_head.head.2.weight": "head",
    "unet.conv_out.weight": "head",
    "query_pos_head.layers.1.weight": "16×16",
    "pool_head.o_proj.weight": "8×8",
    "bias.rel_pos_x_bias.weight": "embedding",
    "projector.linear_2.weight": "16×16",
}


def pooled() -> nn.Module:
    """A head that pools by attention ends in a feed-forward block; the output is another."""
    pool = module(attention=nn.MultiheadAttention(16, 4), mlp=zoo_mlp())
    return module(text_head=lin(16, 16), vision=module(head=pool))


def encoder() -> nn.Module:
    """The last layer is the second of a feed-forward block."""
    return module(layers=blocks(), mlp=zoo_mlp())


def zoo_mlp() -> nn.Module:
    return module(fc1=lin(16, 32), fc2=lin(32, 16))


def two_towers() -> nn.Module:
    """Projections of two towers, one of them as large as a table of positions."""
    return module(
        position_embedding=nn.Embedding(12, 16),
        towers=blocks(),
        visual_projection=lin(16, 12),
        text_projection=lin(16, 12),
    )


def positions_only() -> nn.Module:
    """The last layer is as large as a table of positions, which says nothing."""
    return module(wpe=nn.Embedding(12, 16), towers=blocks(), mapping=lin(16, 12))


def forecast() -> nn.Module:
    """The output is the sum of the two last layers of a residual block."""

    def residual(outputs: int) -> nn.Module:
        return module(hidden=lin(16, 16), output_layer=lin(16, outputs), residual_layer=lin(16, 7))

    return module(
        input_patch=residual(16), layers=blocks(), output_projection_point=residual(7), x=lin(16, 9)
    )


def detector(kind: str) -> nn.Module:
    """Branches for boxes and classes over two scales, each ending in a bare convolution."""

    def branch(outputs: int) -> nn.Sequential:
        return nn.Sequential(conv_norm(8, 8), nn.Conv2d(8, outputs, 1))

    def list_of(outputs: int) -> nn.ModuleList:
        return nn.ModuleList([branch(outputs) for _ in range(2)])

    return nn.Sequential(conv_norm(3, 8), module(kind, cv2=list_of(6), cv3=list_of(4)))


def decoder_first() -> nn.Module:
    """The output layer is registered before the blocks, and is as large as the embedding."""
    return module(
        embed=nn.Embedding(20, 16),
        decoder=module(output_layer=lin(16, 20), decoders=blocks()),
    )


def ast() -> nn.Module:
    """A classifier whose only layer is called dense."""
    return module(layers=blocks(), classifier=module(layernorm=nn.LayerNorm(16), dense=lin(16, 2)))


def routers() -> nn.Module:
    """Routers of every name beside their experts, and a gate that is none."""
    experts = nn.ModuleList([zoo_mlp() for _ in range(2)])
    return module(
        switch=module(router=module(classifier=lin(16, 2)), experts=experts),
        gate=module(gate=lin(16, 2), experts=experts, shared_expert_gate=lin(16, 1)),
        tutel=module(gate=module(wg=lin(16, 2)), experts=experts),
        own=zoo.Routed(),
        lm_head=lin(16, 9),
    )


def parallel_experts() -> nn.Module:
    """Stacked experts whose modules have a weight each, with gate and up in the first."""
    moe = module(
        input_linear=module("ParallelExperts", weight=parameter(3, 24, 8)),
        output_linear=module("ParallelExperts", weight=parameter(3, 8, 12)),
        router=module(layer=lin(8, 3)),
    )
    return module(moe=moe, lm_head=lin(8, 9))


def delta() -> nn.Module:
    """PEFT's rows of an embedding, and an embedding of positions in parts."""
    return module(
        tokens=module(trainable_tokens_delta=nn.ParameterDict({"default": parameter(3, 16)})),
        axial=module("AxialPositionEmbeddings", weights=nn.ParameterList([parameter(1, 8, 4)])),
        rel=module(height_rel=parameter(7, 16)),
        pool=module(latent_query=parameter(8, 16)),
        lm_head=lin(16, 9),
    )


IMITATIONS: dict[str, tuple[Callable[[], nn.Module], dict[str, str]]] = {
    "hybrid": (hybrid, HYBRID),
    "keys and values": (keys_and_values, KEYS_AND_VALUES),
    "fused": (fused, FUSED),
    "diffusion": (
        diffusion,
        {"proj_out.weight": "head", "caption_projection.linear_2.weight": "16×16"},
    ),
    "final layer": (
        named_final_layer,
        {
            "all_final_layer.2-1.linear.weight": "head",
            "all_final_layer.2-1.adaLN_modulation.1.weight": "16×16",
        },
    ),
    "segmentation": (segmentation, SEGMENTATION),
    "pooled": (pooled, {"text_head.weight": "head", "vision.head.mlp.fc2.weight": "16×32"}),
    "encoder": (encoder, {"mlp.fc2.weight": "?16×32"}),
    "two towers": (
        two_towers,
        {"visual_projection.weight": "12×16", "text_projection.weight": "12×16"},
    ),
    "positions": (positions_only, {"mapping.weight": "?12×16"}),
    "forecast": (
        forecast,
        {
            "input_patch.output_layer.weight": "16×16",
            "output_projection_point.hidden.weight": "16×16",
            "output_projection_point.output_layer.weight": "head",
            "output_projection_point.residual_layer.weight": "head",
        },
    ),
    "detector": (
        lambda: detector("Detect"),
        {"1.cv2.1.1.weight": "head", "1.cv3.0.1.weight": "head", "1.cv3.0.0.0.weight": "8×8"},
    ),
    "unknown detector": (
        lambda: detector("Branches"),
        {"1.cv2.1.1.weight": "?6×8", "1.cv3.0.1.weight": "?4×8", "1.cv3.0.0.0.weight": "8×8"},
    ),
    "decoder first": (decoder_first, {"decoder.output_layer.weight": "head"}),
    "dense": (ast, {"classifier.dense.weight": "head"}),
    "routers": (
        routers,
        {
            "switch.router.classifier.weight": "2×16",
            "gate.gate.weight": "2×16",
            "gate.shared_expert_gate.weight": "vector",
            "tutel.gate.wg.weight": "2×16",
            "own.gate.weight": "4×8",
        },
    ),
    "parallel experts": (
        parallel_experts,
        {"moe.input_linear.weight": "6 × 12×8", "moe.output_linear.weight": "3 × 8×12"},
    ),
    "delta": (
        delta,
        {
            "tokens.trainable_tokens_delta.default": "embedding",
            "axial.weights.0": "vector",
            "rel.height_rel": "vector",
            "pool.latent_query": "vector",
        },
    ),
}
