"""Norms of several named tensors at once: the largest, its dual the sum, and the modular norm."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterable, Mapping, Sequence, Set
from copy import copy
from typing import Any

import torch
from torch import Tensor

from steepest._common.errors import invalid
from steepest._common.numerics import in_double, looked_at, real_dtype, widened
from steepest._common.text import table
from steepest.norms._vectors import falling_root
from steepest.norms.norm import Norm, ball_radius, gaussian
from steepest.norms.scaled import Scaled
from steepest.polar import PolarMethod

Tensors = Mapping[str, Tensor]
"""Tensors by name: the blocks of a norm of named blocks, such as the parameters of a model."""


class ProductNorm(ABC):
    """A norm of named tensors, made of one norm for each name.

    The laws are those of `Norm`, with a mapping in the place of a tensor and ⟨g, x⟩ summed over the
    names. A batch, where a block's norm gives several numbers, counts as that many blocks.

    Args:
        blocks: the norm of each block by its name.

    Raises:
        ValueError: there is no block, or something in it is not a norm of tensors.
    """

    def __init__(self, blocks: Mapping[str, Norm]) -> None:
        if not _is_mapping(blocks) or not blocks:
            raise invalid(
                "blocks", blocks, "give a mapping with at least one block: a name and its norm"
            )
        for name, norm in blocks.items():
            if not isinstance(norm, Norm):
                raise invalid(
                    f"blocks[{name!r}]", norm, "give a norm object such as norms.Spectral()"
                )
        self.blocks: dict[str, Norm] = dict(blocks)

    def __eq__(self, other: object) -> bool:
        # A modular norm is the largest of its scaled blocks, and equal to that.
        if not isinstance(other, ProductNorm) or isinstance(self, MaxOf) != isinstance(
            other, MaxOf
        ):
            return False
        return self.blocks == other.blocks

    def __hash__(self) -> int:
        return hash((isinstance(self, MaxOf), frozenset(self.blocks.items())))

    def __repr__(self) -> str:
        return f"{type(self).__name__}({self.blocks})"

    def validate(self, x: Tensors, argument: str = "x") -> None:
        """Raise unless `x` has exactly the names of the blocks."""
        check_names(argument, x, self.blocks)

    def _values(self, x: Tensors, check: bool) -> dict[str, Tensor]:
        self.validate(x)
        return {name: norm(x[name], check=check) for name, norm in self.blocks.items()}

    @property
    @abstractmethod
    def dual(self) -> ProductNorm:
        """The dual norm."""

    @abstractmethod
    def __call__(self, x: Tensors, *, check: bool = True) -> Tensor:
        """The norm: one real number."""

    @abstractmethod
    def dualize(self, g: Tensors, *, check: bool = True) -> dict[str, Tensor]:
        """The duality map: tensors of the same names and shapes."""

    @abstractmethod
    def project(
        self, x: Tensors, radius: float | Tensor = 1.0, *, check: bool = True
    ) -> dict[str, Tensor]:
        """The nearest point, in Frobenius distance, of the ball of this radius."""

    def with_polar(self, polar: PolarMethod | None) -> ProductNorm:
        """The same norm, with the singular values of every block by this method."""
        changed = copy(self)
        changed.blocks = {name: norm.with_polar(polar) for name, norm in self.blocks.items()}
        return changed

    def sharp(self, g: Tensors, *, check: bool = True) -> dict[str, Tensor]:
        """The sharp operator: the duality map times the dual norm."""
        value = self.dual(g, check=check)
        unit = self.dualize(g, check=False)
        # In half precision the dual norm may be too large where the product is not.
        return {
            k: (t * value.to(real_dtype(widened(t.dtype)))).to(t.dtype) for k, t in unit.items()
        }

    def init(
        self,
        shapes: Mapping[str, Sequence[int]],
        *,
        generator: torch.Generator | None = None,
        dtype: torch.dtype | None = None,
        device: torch.device | str | None = None,
    ) -> dict[str, Tensor]:
        """Random tensors of norm 1: the duality map of Gaussian tensors.

        Raises:
            ValueError: other names than those of the blocks, or as `Norm.init`.
        """
        check_names("shapes", shapes, self.blocks)
        drawn = {
            k: gaussian(shapes[k], generator=generator, dtype=dtype, device=device)
            for k in self.blocks
        }
        made = self.dualize({k: wide for k, (wide, _) in drawn.items()}, check=False)
        return {k: made[k].to(kept) for k, (_, kept) in drawn.items()}


def _is_mapping(x: object) -> bool:
    return isinstance(x, Mapping)


def check_names(argument: str, given: object, wanted: Iterable[str]) -> None:
    """Raise unless both name the same blocks."""
    if not isinstance(given, Mapping | Set):
        raise invalid(
            argument, type(given).__name__, f"give a mapping with the names {list(wanted)}"
        )
    have, want = set(given), set(wanted)
    if have != want:
        raise invalid(
            argument,
            sorted(have ^ want),
            "give exactly the names that there are: "
            + "; ".join(
                f"{word} {sorted(names)}"
                for word, names in (("missing", want - have), ("unknown", have - want))
                if names
            ),
        )


class MaxOf(ProductNorm):
    """The largest norm of a named block.

        n(x) = max n_k(x_k);  n.dual(g) = Σ n_k.dual(g_k);  n.dualize(g)_k = n_k.dualize(g_k)

    Steepest descent in it moves every block by the same length η = n.dual(g)/λ, which is shared.

    Examples:
        >>> import torch
        >>> from steepest import norms
        >>> n = MaxOf({"w": norms.Spectral(), "b": norms.LInf()})
        >>> g = {"w": torch.eye(2), "b": torch.tensor([1.0, -3.0])}
        >>> float(n(g)), float(n.dual(g)), n.dual.dual == n
        (3.0, 6.0, True)

    Sources:
        Large et al., Scalable optimization in the modular norm, arXiv 2405.14813; Bernstein &
        Newhouse, arXiv 2409.20325, proposition 5.
    """

    @property
    def dual(self) -> SumOf:
        """The sum of the dual norms."""
        return SumOf({name: norm.dual for name, norm in self.blocks.items()})

    def __call__(self, x: Tensors, *, check: bool = True) -> Tensor:
        """The largest norm of a block."""
        return _gather(self._values(x, check)).amax()

    def dualize(self, g: Tensors, *, check: bool = True) -> dict[str, Tensor]:
        """The duality map of each block; a zero block stays zero."""
        self.validate(g, "g")
        return {k: norm.dualize(g[k], check=check) for k, norm in self.blocks.items()}

    def project(
        self, x: Tensors, radius: float | Tensor = 1.0, *, check: bool = True
    ) -> dict[str, Tensor]:
        """Each block projected on its ball."""
        self.validate(x)
        return {k: norm.project(x[k], radius, check=check) for k, norm in self.blocks.items()}


class SumOf(ProductNorm):
    """The sum of the norms of named blocks, the dual of `MaxOf`.

    The duality map moves the block with the largest dual norm alone; blocks that tie share.
    """

    @property
    def dual(self) -> MaxOf:
        """The largest dual norm of a block."""
        return MaxOf({name: norm.dual for name, norm in self.blocks.items()})

    def __call__(self, x: Tensors, *, check: bool = True) -> Tensor:
        """The sum of the norms of the blocks."""
        return _gather(self._values(x, check)).sum()

    def dualize(self, g: Tensors, *, check: bool = True) -> dict[str, Tensor]:
        """The duality map of the block with the largest dual norm, zero for the others."""
        self.validate(g, "g")
        sizes = self.dual._values(g, check)
        every = _gather(sizes)
        top, ties = every.amax(), (every == every.amax()).sum()
        out = {}
        for k, norm in self.blocks.items():
            weight = (sizes[k].to(top) == top) / ties
            weight = weight.to(sizes[k])
            out[k] = (norm.dualize(g[k], check=False) * norm.broadcast(weight, g[k])).to(g[k].dtype)
        return out

    def project(
        self, x: Tensors, radius: float | Tensor = 1.0, *, check: bool = True
    ) -> dict[str, Tensor]:
        """The nearest point: every block loses its projection on one dual ball."""
        sizes = _gather(self.dual._values(x, check)).double()
        r = ball_radius(radius, sizes, ())
        wide = {k: in_double(t) for k, t in x.items()}

        def rest(mu: Tensor) -> dict[str, Tensor]:
            return {k: t - self.blocks[k].dual.project(t, mu, check=False) for k, t in wide.items()}

        def excess(mu: Tensor) -> Tensor:
            return self(rest(mu), check=False) - r

        outside = excess(torch.zeros_like(r)) > 0
        if looked_at(outside) is False:
            return {k: t.clone() for k, t in x.items()}
        mu = falling_root(excess, torch.zeros_like(r), sizes.amax())
        near = rest(torch.where(outside, mu, 0.0))
        return {k: t.to(x[k].dtype) for k, t in near.items()}


def _gather(values: Mapping[str, Tensor]) -> Tensor:
    """All numbers in one vector, in the widest of their types."""
    parts = [v.reshape(-1) for v in values.values()]
    dtype = max((p.dtype for p in parts), key=lambda t: t.itemsize)
    return torch.cat([p.to(parts[0].device, dtype) for p in parts])


def _weighted(name: str, part: Any) -> Norm:
    """s times the norm, of a pair (norm, s)."""
    good = isinstance(part, tuple) and len(part) == 2 and isinstance(part[0], Norm)
    if not good or not isinstance(part[1], int | float) or not 0 < part[1] < float("inf"):
        raise invalid(f"parts[{name!r}]", part, "give a pair of a norm object and a number s > 0")
    norm: Norm = part[0]
    return norm if part[1] == 1 else Scaled(norm, part[1])


class Modular(MaxOf):
    """The modular norm max s_k·n_k(x_k) of a network's parameters, by name.

        n.dualize(g)_k = n_k.dualize(g_k)/s_k;  n.dual(g) = Σ n_k.dual(g_k)/s_k

    so that steepest descent with sharpness λ steps ΔW_k = −(η/s_k)·dualize_k(G_k) with one shared
    η = Σ n_k.dual(G_k)/(λ·s_k). `steepest.modular(model)` builds it from a module.

    Args:
        parts: the norm n_k and the number s_k > 0 of each parameter, by its name.
        massless: names of parameters with mass 0: they belong to the network but are not moved.

    Raises:
        ValueError: no part, an s_k that is not positive, or a name in both.

    Examples:
        >>> from steepest import norms
        >>> n = Modular({"w": (norms.Spectral(), 2.0), "b": (norms.RMS(), 1.0)})
        >>> n.dual.dual.blocks == n.blocks
        True

    Sources:
        Large et al., arXiv 2405.14813; Bernstein & Newhouse, arXiv 2410.21265.
    """

    def __init__(
        self, parts: Mapping[str, tuple[Norm, float]], *, massless: Iterable[str] = ()
    ) -> None:
        if not _is_mapping(parts):
            raise invalid("parts", parts, "give a mapping of names to pairs (norm, s)")
        super().__init__({name: _weighted(name, part) for name, part in parts.items()})
        if isinstance(massless, str):
            raise invalid("massless", massless, "give a list of names")
        self.parts: dict[str, tuple[Norm, float]] = dict(parts)
        self.massless = frozenset(massless)
        if self.massless & self.blocks.keys():
            raise invalid(
                "massless", sorted(self.massless & self.blocks.keys()), "these have a norm"
            )

    def with_polar(self, polar: PolarMethod | None) -> Modular:
        """The same norm, with the singular values of every block by this method."""
        parts = {name: (norm.with_polar(polar), s) for name, (norm, s) in self.parts.items()}
        return Modular(parts, massless=self.massless)

    def __str__(self) -> str:
        rows = [(name, f"{s:.4g}", str(norm)) for name, (norm, s) in self.parts.items()]
        rows += [(name, "-", "mass 0: not moved") for name in sorted(self.massless)]
        return table(("parameter", "s", "norm"), rows, left={"parameter", "norm"})
