"""Many processes: what a rank holds of a tensor, and what travels between the ranks."""

from steepest.dist.counter import CollectiveCounter as CollectiveCounter
