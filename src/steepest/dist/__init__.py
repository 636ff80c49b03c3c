"""More than one process: who holds what, and how whole matrices come together."""

from steepest.dist.agree import agreed, same_everywhere, summed
from steepest.dist.counter import CollectiveCounter
from steepest.dist.exchange import BUCKET, Exchange, Parcel, Team, Waiting
from steepest.dist.layout import (
    Layout,
    balanced,
    bucketed,
    is_sharded,
    layout_of,
    local,
    local_like,
    sharded_like,
    whole,
)

__all__ = [
    "BUCKET",
    "CollectiveCounter",
    "Exchange",
    "Layout",
    "Parcel",
    "Team",
    "Waiting",
    "agreed",
    "balanced",
    "bucketed",
    "is_sharded",
    "layout_of",
    "local",
    "local_like",
    "same_everywhere",
    "sharded_like",
    "summed",
    "whole",
]
