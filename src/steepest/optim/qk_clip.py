"""QK-clip: queries and keys of heads whose attention logits have become too large are shrunk."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor, nn

from steepest._common.checks import positive
from steepest._common.errors import invalid, shape_text
from steepest._common.numerics import is_known, widened
from steepest.routing import HeadRows, QueryKey, query_keys
from steepest.sharding import RankGroup, is_sharded, layout_of, local

# Kimi K2, arXiv 2507.20534: the threshold and the share of the query.
THRESHOLD = 100.0
ALPHA = 0.5

Maxima = Mapping[str, Tensor] | Sequence[Tensor]
"""The largest logit of each head, shape (heads,), for each layer: by its name, or in order."""


class QKClip:
    """QK-clip of MuonClip: the largest logit of no head stays above a threshold τ.

        S_h = max of scale·⟨q_i, k_j⟩ over i, j and the batch, measured in the forward pass
        γ_h = min(1, τ/S_h), of heads that share a key that of the largest S
        rows of query and key of head h, with their biases, are multiplied by γ_h^α and γ_h^(1−α)

    so that all logits of the head are multiplied by γ_h. In multi-head latent attention the key for
    positions is shared by all heads and stays: the rows of the query that meet it get γ_h. Other
    heads are left alone, bit for bit, and so is a head whose S is negative or not finite.

    The call comes after the step of the optimizer, with the maxima of the step's own forward pass.
    What to shrink is decided on the device. Sharded weights are multiplied where they lie.

    Args:
        layers: A model, whose layers `steepest.routing.query_keys` finds; or layers by name.
        threshold: The threshold τ, as large as logits may be.
        alpha: The share of the query, in [0, 1].
        group: The processes of which each has seen a part of the batch, whose maxima are compared;
            None if the caller has done that, or there is one.

    Attributes:
        layers: the layers by name.
        recorded: maxima that `after_step` will use, by the name of the layer.

    Raises:
        ValueError: a value out of range, or a model without a layer whose heads can be told.

    Examples:
        >>> attention = nn.MultiheadAttention(16, num_heads=4)
        >>> clip = QKClip({"attention": query_keys(attention)[""]})
        >>> {name: factors.tolist() for name, factors in
        ...  clip({"attention": torch.tensor([50.0, 400.0, -1.0, 100.0])}).items()}
        {'attention': [1.0, 0.25, 1.0, 1.0]}

    Sources:
        Kimi K2, arXiv 2507.20534; Su, https://spaces.ac.cn/archives/11126. Neither has keys that
        heads share, but for positions: that the largest S decides then is ours.
    """

    def __init__(
        self,
        layers: nn.Module | Mapping[str, QueryKey],
        threshold: float = THRESHOLD,
        *,
        alpha: float = ALPHA,
        group: dist.ProcessGroup | None = None,
    ) -> None:
        if isinstance(layers, nn.Module):
            model, layers = layers, query_keys(layers)
            if not layers:
                raise invalid(
                    "layers",
                    type(model).__name__,
                    "no layer whose query and key rows can be told, or all normalise them: give "
                    "{name: steepest.routing.QueryKey(…)}",
                )
        if not 0 <= alpha <= 1:
            raise invalid("alpha", alpha, "give the share of the query, in [0, 1]")
        self.layers = dict(layers)
        self.threshold = positive("threshold", threshold)
        self.alpha = alpha
        self.group = group
        self.recorded: dict[str, Tensor] = {}
        self._places: dict[tuple[HeadRows, torch.device], Tensor] = {}

    @torch.no_grad()
    def __call__(self, maxima: Maxima) -> dict[str, Tensor]:
        """Shrink the queries and keys of heads whose maxima are above the threshold.

        Args:
            maxima: The largest logit of each head, for all layers or some; as logits are, with
                the scale of the attention.

        Returns:
            The factor of the logits of each head, by the name of the layer.

        Raises:
            ValueError: another layer, or another number of heads.
        """
        given = self._named(maxima)
        tops = {name: _largest(self.layers[name], s) for name, s in given.items()}
        if self.group is not None:
            tops = self._compared(tops)
        found = {}
        for name, top in tops.items():
            layer = self.layers[name]
            shared = torch.where(top > self.threshold, self.threshold / top, 1.0)
            found[name] = shared.repeat_interleave(layer.heads // layer.key_heads)
            if not is_known(shared) or bool((shared < 1).any()):
                for rows, factors in self._scaled(layer, found[name], shared):
                    self._multiply(rows, factors)
        return found

    def record(self, name: str, maxima: Tensor) -> None:
        """Keep the maxima of a layer for `after_step`; of several forward passes the largest.

        Args:
            name: The name of the layer.
            maxima: The largest logit of each head, shape (heads,).
        """
        (new,) = self._named({name: maxima.detach()}).values()
        old = self.recorded.get(name)
        self.recorded[name] = new if old is None else torch.fmax(old, new)

    def after_step(self, *_: Any) -> None:
        """Clip by the recorded maxima and forget them: a hook for `register_step_post_hook`."""
        recorded, self.recorded = self.recorded, {}
        if recorded or self.group is not None:
            self(recorded)

    def _named(self, maxima: Maxima) -> dict[str, Tensor]:
        """The maxima by name, checked."""
        if not isinstance(maxima, Mapping):
            if len(maxima) != len(self.layers):
                raise invalid("maxima", len(maxima), f"give one for each of {list(self.layers)}")
            maxima = dict(zip(self.layers, maxima, strict=True))
        for name, s in maxima.items():
            if name not in self.layers:
                raise invalid("maxima", name, f"the layers are {', '.join(self.layers)}")
            heads = self.layers[name].heads
            if tuple(s.shape) != (heads,):
                text = f"{name}: shape {shape_text(s.shape)}"
                raise invalid("maxima", text, f"give the largest logit of each of {heads} heads")
        return dict(maxima)

    def _compared(self, tops: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """The largest maxima of all processes, which may lack some layers."""
        every = []
        for name, layer in self.layers.items():
            device = local(layer.query[0].param).device
            none = torch.full((layer.key_heads,), -torch.inf, device=device)
            every.append(tops[name].to(device) if name in tops else none)
        flat = torch.cat(every)
        dist.all_reduce(flat, dist.ReduceOp.MAX, group=self.group)
        return dict(zip(self.layers, flat.split([len(top) for top in every]), strict=True))

    def _scaled(
        self, layer: QueryKey, heads: Tensor, shared: Tensor
    ) -> Iterator[tuple[HeadRows, Tensor]]:
        """The rows to multiply, with a factor for each of their heads."""
        yield from ((rows, heads**self.alpha) for rows in layer.query)
        yield from ((rows, heads) for rows in layer.rotary)
        yield from ((rows, shared ** (1 - self.alpha)) for rows in layer.key)

    def _multiply(self, rows: HeadRows, factors: Tensor) -> None:
        """Multiply the rows of a parameter that lie on this rank; others by exactly 1."""
        param, own = rows.param, local(rows.param)
        factors = torch.cat([factors.to(own.device), factors.new_ones(1, device=own.device)])
        every = factors.index_select(0, self._place(rows, own.device))
        shape = [1] * param.ndim
        shape[rows.dim] = -1
        if not is_sharded(param):
            own.mul_(every.view(shape))
            return
        for cell in layout_of(param).cells(RankGroup.of_mesh(param.device_mesh).rank):
            own[cell.local].mul_(every[cell.whole[rows.dim]].view(shape))

    def _place(self, rows: HeadRows, device: torch.device) -> Tensor:
        """The number of the head of each row; one more than the last for the rows of none."""
        key = rows, device
        if key not in self._places:
            slices = rows.slices
            found = torch.full((rows.param.shape[rows.dim],), len(slices))
            for head, own in enumerate(slices):
                found[own] = head
            self._places[key] = found.to(device)
        return self._places[key]


def _largest(layer: QueryKey, maxima: Tensor) -> Tensor:
    """The largest finite maximum of the heads of each key; −inf where there is none."""
    s = maxima.to(widened(maxima.dtype)) if maxima.is_floating_point() else maxima.float()
    s = torch.where(s.isfinite(), s, -torch.inf)
    return s.view(layer.key_heads, -1).amax(1)
