"""One norm for all parameters together: as one vector, or as the largest over their matrices."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping
from typing import Any

from torch import Tensor, nn

from steepest._common.errors import invalid
from steepest.diagnostics.curvature.loss import Named, Params, as_named, as_vector
from steepest.norms import MaxOf, Norm, ProductNorm
from steepest.routing import matrix_views
from steepest.routing.matrices import Views
from steepest.views import MatrixView


def views_among(
    params: Params, tensors: Named, *, views: Views | None = None, optimizer: Any = None
) -> dict[str, MatrixView]:
    """The answer of `steepest.routing.matrix_views` for the tensors that are looked at.

    Args:
        params: a module, or whatever else the tensors were taken from.
        tensors: those that are looked at, by name.
        views: overrides by name.
        optimizer: the optimizer that steps them, if there is one.

    Raises:
        ValueError: a view for a name that there is not.
    """
    model = params if isinstance(params, nn.Module) else tensors
    found = matrix_views(model, optimizer=optimizer, views=views)
    return {name: found[name] for name in tensors if name in found}


class JointNorm(ABC):
    """A norm of named tensors: a product norm of the pieces they are cut into.

    The laws of `ProductNorm` hold with the names of the parameters in the place of the pieces'.

    Args:
        norm: the norm of the pieces.
        names: the parameters that it measures, in order.
        left: the parameters that it has no number for.
    """

    def __init__(self, norm: ProductNorm, names: tuple[str, ...], left: tuple[str, ...]) -> None:
        self.norm, self.names, self.left = norm, names, left

    @abstractmethod
    def split(self, x: Named) -> dict[str, Tensor]:
        """The pieces of named tensors."""

    @abstractmethod
    def join(self, pieces: Named) -> dict[str, Tensor]:
        """The named tensors whose pieces these are."""

    def __call__(self, x: Named) -> float:
        """The norm."""
        return float(self.norm(self.split(x)))

    def dual(self, g: Named) -> float:
        """The dual norm."""
        return float(self.norm.dual(self.split(g)))

    def dualize(self, g: Named) -> dict[str, Tensor]:
        """The duality map."""
        return self.join(self.norm.dualize(self.split(g)))


class _Vector(JointNorm):
    """All entries of all tensors as one vector."""

    def __init__(self, norm: Norm, tensors: Named) -> None:
        super().__init__(MaxOf({"": norm}), tuple(tensors), ())
        self._like = tensors

    def split(self, x: Named) -> dict[str, Tensor]:
        return {"": as_vector({k: x[k] for k in self.names})}

    def join(self, pieces: Named) -> dict[str, Tensor]:
        return as_named(pieces[""], self._like)


class _Blocks(JointNorm):
    """Each tensor by itself, as it is or as its matrices."""

    def __init__(
        self, norm: ProductNorm, tensors: Named, views: Mapping[str, MatrixView], left: list[str]
    ) -> None:
        super().__init__(norm, tuple(tensors), tuple(left))
        self._like, self._views = tensors, views

    def split(self, x: Named) -> dict[str, Tensor]:
        return {
            piece: part
            for k in self.names
            for piece, part in zip(
                self._pieces(k),
                self._views[k].matrices(x[k].detach()) if k in self._views else [x[k].detach()],
                strict=True,
            )
        }

    def join(self, pieces: Named) -> dict[str, Tensor]:
        return {
            k: self._views[k].restore([pieces[i] for i in self._pieces(k)], p.shape)
            if k in self._views
            else pieces[k]
            for k, p in self._like.items()
        }

    def _pieces(self, name: str) -> list[str]:
        return piece_names(name, self._like[name], self._views.get(name))


def piece_names(name: str, p: Tensor, view: MatrixView | None) -> list[str]:
    """The names of the pieces of a parameter: its own, with a number for each matrix stack."""
    return [name] if view is None else [f"{name}[{i}]" for i in range(len(view.shapes(p.shape)))]


def joint_norm(
    norm: Norm | ProductNorm,
    tensors: Named,
    views: Mapping[str, MatrixView] | None = None,
    *,
    exact: bool = True,
) -> JointNorm:
    """The norm of all of these tensors together.

    Args:
        norm: a norm of named blocks, which takes the tensors that it names; of the entries of a
            tensor, which takes all of them as one vector; of anything else (matrices, kernels, the
            rows of a tensor), which is the largest over those that it fits.
        tensors: the tensors to measure, by name.
        views: the matrices that some of them are, for a norm of matrices.
        exact: whether to take singular values from an SVD, whichever polar method the norm has.

    Raises:
        ValueError: a block that is not there, a norm that fits nothing, or no norm at all.
    """
    if not isinstance(norm, Norm | ProductNorm):
        raise invalid("norm", norm, "give a norm object such as steepest.norms.Spectral()")
    if exact:
        norm = norm.with_polar(None)
    if isinstance(norm, ProductNorm):
        if not norm.blocks.keys() <= tensors.keys():
            unknown = sorted(norm.blocks.keys() - tensors.keys())
            raise invalid("norm", unknown, f"its blocks name some of {list(tensors)}")
        kept = {k: p for k, p in tensors.items() if k in norm.blocks}
        return _Blocks(norm, kept, {}, [k for k in tensors if k not in kept])
    # A norm of entries is symmetric where it takes the whole tensor.
    if norm.axes is None and norm.symmetric:
        return _Vector(norm, tensors)
    chosen = {k: p for k, p in tensors.items() if _fits(norm, p, (views or {}).get(k))}
    if not chosen:
        raise invalid(
            "norm",
            norm,
            "none of the parameters is a matrix of the kind that it measures: give `views`, other "
            "parameters, or a norm of entries such as norms.L2()",
        )
    used = {k: v for k, v in (views or {}).items() if k in chosen and norm.axes == 2}
    parts = {i: norm for k, p in chosen.items() for i in piece_names(k, p, used.get(k))}
    return _Blocks(MaxOf(parts), chosen, used, [k for k in tensors if k not in chosen])


def _fits(norm: Norm, p: Tensor, view: MatrixView | None) -> bool:
    """Whether a norm has a number for a parameter."""
    if norm.axes == 2:
        return view is not None
    try:
        norm.validate(p, check=False)
    except ValueError:
        return False
    return True
