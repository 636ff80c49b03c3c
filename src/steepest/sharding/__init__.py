"""More than one process: who holds what, and how whole matrices come together."""

from steepest.sharding.agree import MARKS as MARKS
from steepest.sharding.agree import all_reduce_codes as all_reduce_codes
from steepest.sharding.agree import all_reduce_sum as all_reduce_sum
from steepest.sharding.agree import same_everywhere as same_everywhere
from steepest.sharding.counter import CollectiveCounter as CollectiveCounter
from steepest.sharding.exchange import BUCKET as BUCKET
from steepest.sharding.exchange import AsyncResult as AsyncResult
from steepest.sharding.exchange import Exchange as Exchange
from steepest.sharding.exchange import OwnedTensor as OwnedTensor
from steepest.sharding.exchange import RankGroup as RankGroup
from steepest.sharding.layout import Layout as Layout
from steepest.sharding.layout import assign_owners as assign_owners
from steepest.sharding.layout import is_sharded as is_sharded
from steepest.sharding.layout import layout_of as layout_of
from steepest.sharding.layout import local as local
from steepest.sharding.layout import local_like as local_like
from steepest.sharding.layout import make_buckets as make_buckets
from steepest.sharding.layout import placements_along as placements_along
from steepest.sharding.layout import sharded_as as sharded_as
from steepest.sharding.layout import sharded_like as sharded_like
from steepest.sharding.layout import whole as whole
