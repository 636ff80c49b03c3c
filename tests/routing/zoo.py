"""Small models with the names and shapes of the ones people train."""

from __future__ import annotations

from collections import OrderedDict

import torch
from torch import nn


def sequential() -> nn.Sequential:
    """A network without a single name."""
    return nn.Sequential(nn.Linear(16, 32), nn.ReLU(), nn.Linear(32, 32), nn.Linear(32, 10))


class Net(nn.Module):
    """Two convolutions and two linear layers, as tutorials write them."""

    def __init__(self) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(1, 8, 3)
        self.conv2 = nn.Conv2d(8, 16, 3)
        self.fc1 = nn.Linear(64, 32)
        self.fc2 = nn.Linear(32, 10)


class CausalSelfAttention(nn.Module):
    """Fused projections, as in nanoGPT."""

    def __init__(self, width: int, heads: int) -> None:
        super().__init__()
        self.n_head = heads
        self.c_attn = nn.Linear(width, 3 * width)
        self.c_proj = nn.Linear(width, width)


class MLP(nn.Module):
    """Two layers with GPT-2's names."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.c_fc = nn.Linear(width, 4 * width)
        self.c_proj = nn.Linear(4 * width, width)


class Block(nn.Module):
    """Attention and MLP."""

    def __init__(self, width: int, heads: int) -> None:
        super().__init__()
        self.ln_1 = nn.LayerNorm(width)
        self.attn = CausalSelfAttention(width, heads)
        self.ln_2 = nn.LayerNorm(width)
        self.mlp = MLP(width)


class GPT(nn.Module):
    """nanoGPT: the head shares its weight with the token embedding.

    Context and width are chosen so that the position embedding has the shape of `c_fc`.
    """

    def __init__(
        self, width: int = 16, heads: int = 4, depth: int = 2, vocab: int = 50, tied: bool = True
    ) -> None:
        super().__init__()
        self.transformer = nn.ModuleDict(
            {
                "wte": nn.Embedding(vocab, width),
                "wpe": nn.Embedding(4 * width, width),
                "h": nn.ModuleList([Block(width, heads) for _ in range(depth)]),
                "ln_f": nn.LayerNorm(width),
            }
        )
        self.lm_head = nn.Linear(width, vocab, bias=False)
        if tied:
            self.lm_head.weight = self.transformer["wte"].weight


class Conv1D(nn.Module):
    """The linear layer of Hugging Face's GPT-2: weight in × out."""

    def __init__(self, nf: int, nx: int) -> None:
        super().__init__()
        self.nf = nf
        self.nx = nx
        self.weight = nn.Parameter(torch.randn(nx, nf))
        self.bias = nn.Parameter(torch.zeros(nf))


class GPT2Attention(nn.Module):
    """Self-attention, or cross-attention with its separate query projection."""

    def __init__(self, width: int, heads: int, cross: bool = False) -> None:
        super().__init__()
        self.num_heads = heads
        self.c_attn = Conv1D((2 if cross else 3) * width, width)
        if cross:
            self.q_attn = Conv1D(width, width)
        self.c_proj = Conv1D(width, width)


class GPT2Block(nn.Module):
    """A decoder block that also attends to an encoder."""

    def __init__(self, width: int, heads: int) -> None:
        super().__init__()
        self.ln_1 = nn.LayerNorm(width)
        self.attn = GPT2Attention(width, heads)
        self.crossattention = GPT2Attention(width, heads, cross=True)
        self.mlp = nn.ModuleDict(
            {"c_fc": Conv1D(4 * width, width), "c_proj": Conv1D(width, 4 * width)}
        )


class GPT2(nn.Module):
    """Hugging Face's GPT2LMHeadModel."""

    def __init__(self, width: int = 16, heads: int = 4) -> None:
        super().__init__()
        self.transformer = nn.ModuleDict(
            {
                "wte": nn.Embedding(50, width),
                "wpe": nn.Embedding(32, width),
                "h": nn.ModuleList([GPT2Block(width, heads) for _ in range(2)]),
            }
        )
        self.lm_head = nn.Linear(width, 50, bias=False)
        self.lm_head.weight = self.transformer["wte"].weight


class ViTBlock(nn.Module):
    """A block with timm's names, and layer scale."""

    def __init__(self, width: int, heads: int) -> None:
        super().__init__()
        self.norm1 = nn.LayerNorm(width)
        self.attn = nn.Module()
        self.attn.num_heads = heads  # type: ignore[assignment]
        self.attn.qkv = nn.Linear(width, 3 * width)
        self.attn.proj = nn.Linear(width, width)
        self.ls1 = nn.Module()
        self.ls1.gamma = nn.Parameter(torch.ones(width))
        self.norm2 = nn.LayerNorm(width)
        self.mlp = nn.Module()
        self.mlp.fc1 = nn.Linear(width, 4 * width)
        self.mlp.fc2 = nn.Linear(4 * width, width)


class ViT(nn.Module):
    """A vision transformer with timm's names."""

    def __init__(self, width: int = 16, heads: int = 4, classes: int = 10) -> None:
        super().__init__()
        self.cls_token = nn.Parameter(torch.zeros(1, 1, width))
        self.reg_token = nn.Parameter(torch.zeros(1, 4, width))
        self.pos_embed = nn.Parameter(torch.zeros(1, 17, width))
        self.patch_embed = nn.Module()
        self.patch_embed.proj = nn.Conv2d(3, width, 4, stride=4)
        self.blocks = nn.Sequential(*[ViTBlock(width, heads) for _ in range(2)])
        self.norm = nn.LayerNorm(width)
        self.head = nn.Linear(width, classes)


class BasicBlock(nn.Module):
    """Two 3×3 convolutions, and a 1×1 one where the shape changes."""

    def __init__(self, inputs: int, outputs: int, stride: int) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(inputs, outputs, 3, stride, 1, bias=False)
        self.bn1 = nn.BatchNorm2d(outputs)
        self.conv2 = nn.Conv2d(outputs, outputs, 3, 1, 1, bias=False)
        self.bn2 = nn.BatchNorm2d(outputs)
        if stride != 1 or inputs != outputs:
            self.downsample = nn.Sequential(
                nn.Conv2d(inputs, outputs, 1, stride, bias=False), nn.BatchNorm2d(outputs)
            )


class ResNet18(nn.Module):
    """torchvision's ResNet-18 at full width, without its forward."""

    def __init__(self, classes: int = 1000) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(3, 64, 7, 2, 3, bias=False)
        self.bn1 = nn.BatchNorm2d(64)
        widths = (64, 64, 128, 256, 512)
        for i in range(1, 5):
            stride = 1 if i == 1 else 2
            self.add_module(
                f"layer{i}",
                nn.Sequential(
                    BasicBlock(widths[i - 1], widths[i], stride),
                    BasicBlock(widths[i], widths[i], 1),
                ),
            )
        self.fc = nn.Linear(512, classes)


class LlamaAttention(nn.Module):
    """Grouped-query attention with separate projections."""

    def __init__(self, width: int, heads: int, kv_heads: int) -> None:
        super().__init__()
        self.num_heads = heads
        size = width // heads
        self.q_proj = nn.Linear(width, heads * size, bias=False)
        self.k_proj = nn.Linear(width, kv_heads * size, bias=False)
        self.v_proj = nn.Linear(width, kv_heads * size, bias=False)
        self.o_proj = nn.Linear(heads * size, width, bias=False)


class FusedAttention(nn.Module):
    """One projection under a given name; `told` are attributes it shows."""

    def __init__(self, name: str, inputs: int, outputs: int, **told: int) -> None:
        super().__init__()
        for key, value in told.items():
            setattr(self, key, value)
        self.add_module(name, nn.Linear(inputs, outputs, bias=False))
        self.o_proj = nn.Linear(inputs, inputs, bias=False)


class LlamaBlock(nn.Module):
    """Attention and a gated MLP, its gate and up projections fused."""

    def __init__(self, width: int, heads: int, kv_heads: int) -> None:
        super().__init__()
        self.self_attn = LlamaAttention(width, heads, kv_heads)
        self.mlp = nn.ModuleDict(
            {
                "gate_up_proj": nn.Linear(width, 6 * width, bias=False),
                "down_proj": nn.Linear(3 * width, width, bias=False),
            }
        )
        self.input_layernorm = nn.RMSNorm(width)


class Llama(nn.Module):
    """A decoder with grouped-query attention and a head of its own."""

    def __init__(self, width: int = 16, heads: int = 4, kv_heads: int = 2) -> None:
        super().__init__()
        self.model = nn.Module()
        self.model.embed_tokens = nn.Embedding(50, width)
        self.model.layers = nn.ModuleList([LlamaBlock(width, heads, kv_heads) for _ in range(2)])
        self.model.norm = nn.RMSNorm(width)
        self.lm_head = nn.Linear(width, 50, bias=False)


class GroupedExperts(nn.Module):
    """Stacked experts × out × in, with torchtitan's names."""

    def __init__(self, experts: int = 4, width: int = 8, inner: int = 12) -> None:
        super().__init__()
        self.w1 = nn.Parameter(torch.randn(experts, inner, width))
        self.w2 = nn.Parameter(torch.randn(experts, width, inner))
        self.w3 = nn.Parameter(torch.randn(experts, inner, width))
        self.b1_bias = nn.Parameter(torch.zeros(experts, inner))


class PairedExperts(nn.Module):
    """Stacked gate_up and down projections, out × in or in × out."""

    def __init__(
        self, experts: int = 4, width: int = 8, inner: int = 12, input_first: bool = False
    ) -> None:
        super().__init__()
        up, down = (2 * inner, width), (width, inner)
        if input_first:
            up, down = up[::-1], down[::-1]
        self.gate_up_proj = nn.Parameter(torch.randn(experts, *up))
        self.down_proj = nn.Parameter(torch.randn(experts, *down))


class GptOssExperts(PairedExperts):
    """Like the above, but gate and up alternate; Hugging Face's class name."""

    def __init__(self) -> None:
        super().__init__(input_first=True)


class FusedExperts(nn.Module):
    """Gate and up in one parameter with nothing beside it that tells the axis."""

    def __init__(self) -> None:
        super().__init__()
        self.gate_up_proj = nn.Parameter(torch.randn(4, 24, 8))


class TopKRouter(nn.Module):
    """The router of a mixture of experts, with a weight of its own."""

    def __init__(self, experts: int, width: int) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.randn(experts, width))


class Routed(nn.Module):
    """A router beside its experts."""

    def __init__(self) -> None:
        super().__init__()
        self.gate = TopKRouter(4, 8)
        self.experts = GroupedExperts()


class KarpathyHead(nn.Module):
    """One attention head, as in the well-known lecture."""

    def __init__(self, width: int, size: int) -> None:
        super().__init__()
        self.key = nn.Linear(width, size, bias=False)
        self.query = nn.Linear(width, size, bias=False)
        self.value = nn.Linear(width, size, bias=False)


class HeadsInAList(nn.Module):
    """Attention heads in a ModuleList called `heads`; they are not output heads."""

    def __init__(self, name: str = "sa", width: int = 16) -> None:
        super().__init__()
        self.token_embedding_table = nn.Embedding(50, width)
        attention = nn.Module()
        attention.heads = nn.ModuleList([KarpathyHead(width, 4) for _ in range(4)])
        attention.proj = nn.Linear(width, width)
        self.add_module(name, attention)
        self.lm_head = nn.Linear(width, 50)


class Convolutions(nn.Module):
    """Every kind of convolution, with a classifier in front so that none of them is the last."""

    def __init__(self) -> None:
        super().__init__()
        self.plain = nn.Conv2d(3, 8, 3)
        self.grayscale = nn.Conv2d(1, 8, 3)
        self.pointwise = nn.Conv1d(8, 16, 1)
        self.volume = nn.Conv3d(2, 6, (2, 3, 3))
        self.grouped = nn.Conv2d(8, 12, 3, groups=4)
        self.depthwise = nn.Conv2d(8, 8, 3, groups=8)
        self.multiplied = nn.Conv2d(8, 16, 3, groups=8)
        self.one_out = nn.Conv2d(16, 4, 3, groups=4)
        self.up = nn.ConvTranspose2d(8, 6, 3)
        self.up_grouped = nn.ConvTranspose2d(8, 12, 3, groups=4)
        self.up_depthwise = nn.ConvTranspose1d(8, 8, 3, groups=8)
        self.classifier = nn.Linear(8, 10)


class Recurrent(nn.Module):
    """The three recurrent layers, a projected LSTM, and the three cells."""

    def __init__(self) -> None:
        super().__init__()
        self.lstm = nn.LSTM(6, 8, num_layers=2, bidirectional=True)
        self.projected = nn.LSTM(6, 8, proj_size=4)
        self.gru = nn.GRU(6, 8)
        self.rnn = nn.RNN(6, 8)
        self.lstm_cell = nn.LSTMCell(6, 8)
        self.gru_cell = nn.GRUCell(6, 8)
        self.rnn_cell = nn.RNNCell(6, 8)
        self.series = nn.LSTM(1, 8)
        self.fc = nn.Linear(8, 10)


class RMSNorm(nn.Module):
    """Somebody's own normalisation, its gain shaped for images."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.ones(width, 2, 2))


def vgg() -> nn.Sequential:
    """A `classifier` of three layers, of which only the last is the head."""
    return nn.Sequential(
        OrderedDict(
            features=nn.Sequential(nn.Conv2d(3, 8, 3), nn.Conv2d(8, 16, 3)),
            classifier=nn.Sequential(nn.Linear(16, 12), nn.ReLU(), nn.Linear(12, 10)),
        )
    )
