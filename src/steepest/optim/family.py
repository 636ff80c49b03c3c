"""Muon's successors: each is Muon with a map beside the polar factor, or another way to step."""

from __future__ import annotations

from typing import Any, ClassVar, Unpack, cast

from torch import Tensor

from steepest.optim.choices import SLOTS, ShapeRule
from steepest.optim.muon import Muon
from steepest.optim.options import StepOptions
from steepest.optim.presets import PRESETS, Preset
from steepest.optim.routed import Params
from steepest.polar import PolarMethod


class MuonVariant(Muon):
    """Muon with the values of a row of the table; every one can be changed by its argument.

    A subclass names its row:

        class Mine(MuonVariant):
            preset = Preset(norm=Spectral(), momentum=0.95, after=SemiorthogonalNorm(), source="…")

    Args:
        params: A module, a `Routing`, parameters, (name, parameter) pairs, or groups of them.
        lr: Learning rate, as of `Muon`; about the angle of a step for `Hyperball`.
        weight_decay: Decoupled decay; None means that of the row.
        momentum: Weight of the past in the average; None means that of the row.
        nesterov: Whether the average looks one step ahead; None means as in the row.
        adjust_lr_fn: The factor of `lr` by the shape of a matrix, as of `Muon`; None means that of
            the row.
        polar: The polar method; None means `Auto(error=0.05)`.
        options: The options of every optimizer: see `StepOptions`. Of these `before`, `after` and
            `retraction` are those of the row unless they are given.

    Raises:
        ValueError: as `Muon`.
    """

    preset: ClassVar[Preset]

    def __init__(
        self,
        params: Params,
        lr: float | Tensor | None = None,
        *,
        weight_decay: float | None = None,
        momentum: float | None = None,
        nesterov: bool | None = None,
        adjust_lr_fn: ShapeRule = None,
        polar: PolarMethod | None = None,
        **options: Unpack[StepOptions],
    ) -> None:
        row = self.preset
        maps = {key: getattr(row, key) for key in SLOTS}
        super().__init__(
            params,
            lr,
            row.weight_decay if weight_decay is None else weight_decay,
            row.momentum if momentum is None else momentum,
            row.nesterov if nesterov is None else nesterov,
            adjust_lr_fn=adjust_lr_fn or row.adjust_lr_fn,
            polar=polar,
            **cast(Any, {**maps, **options}),
        )


class NorMuon(MuonVariant):
    """The rows of the polar factor over the root of an average of their mean squares.

    `transforms.RowSecondMoment` comes after the polar factor. With an exact one a matrix that is
    not tall moves as under `Muon`: its rows are all of norm 1. The arguments are those of
    `MuonVariant`.
    """

    preset = PRESETS["NorMuon"]


class AdaMuon(MuonVariant):
    """The polar factor of the signs of the average, its entries scaled as by Adam.

    `transforms.Sign` comes before the polar factor, `transforms.SecondMoment` after it, and the
    Frobenius norm is that of a semi-orthogonal matrix. The arguments are those of `MuonVariant`.
    """

    preset = PRESETS["AdaMuon"]


class Muon2(MuonVariant):
    """Muon²: the polar factor of Adam's direction.

    `transforms.GradientSecondMoment` comes before the polar factor. The arguments are those of
    `MuonVariant`.
    """

    preset = PRESETS["Muon2"]


class MuonEq(MuonVariant):
    """The polar factor of the average with rows of equal norm.

    `transforms.NormalizedRows` comes before the polar factor. The arguments are those of
    `MuonVariant`.
    """

    preset = PRESETS["MuonEq"]


class MuonPlus(MuonVariant):
    """Muon+: the polar factor with columns, then rows, of norm 1.

    `transforms.NormalizedColumns` and `transforms.NormalizedRows` come after the polar factor. Of
    an exact one the sides that are not the longer have norm 1 already. The arguments are those of
    `MuonVariant`.
    """

    preset = PRESETS["MuonPlus"]


class Aurora(MuonVariant):
    """A polar factor whose rows are nearly of one norm, also for tall matrices.

    `transforms.BalancedRows` comes before the polar factor, and costs a second one. The arguments
    are those of `MuonVariant`.
    """

    preset = PRESETS["Aurora"]


class SOAPMuon(MuonVariant):
    """The polar factor of SOAP's direction.

    `transforms.Eigenbasis` comes before the polar factor. It keeps two bases and two averages of
    the sides of a matrix, and waits for the device in every step. The arguments are those of
    `MuonVariant`.
    """

    preset = PRESETS["SOAPMuon"]


class Hyperball(MuonVariant):
    """Muon on the sphere: every matrix keeps its Frobenius norm, and `lr` is about an angle.

    `retractions.Sphere` takes the steps; there is no weight decay. The arguments are those of
    `MuonVariant`.
    """

    preset = PRESETS["Hyperball"]


class Muown(MuonVariant):
    """Muon on the directions of the rows, Adam on their magnitudes.

    `retractions.RowMagnitudes` takes the steps. The arguments are those of `MuonVariant`.
    """

    preset = PRESETS["Muown"]


class MuonFloor(MuonVariant):
    """Muon whose steps grow with the weights.

    `retractions.UpdateFloor` takes the steps. The arguments are those of `MuonVariant`.
    """

    preset = PRESETS["MuonFloor"]


class MuonBrake(MuonVariant):
    """Muon whose weights grow by half of what a step would add to their norm.

    `retractions.RadialBrake` takes the steps. The arguments are those of `MuonVariant`.
    """

    preset = PRESETS["MuonBrake"]
