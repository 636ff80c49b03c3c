"""More than one process: who holds what, and how whole matrices come together."""

from steepest.sharding.agree import agreed as agreed
from steepest.sharding.agree import same_everywhere as same_everywhere
from steepest.sharding.agree import summed as summed
from steepest.sharding.counter import CollectiveCounter as CollectiveCounter
from steepest.sharding.exchange import BUCKET as BUCKET
from steepest.sharding.exchange import Exchange as Exchange
from steepest.sharding.exchange import Parcel as Parcel
from steepest.sharding.exchange import Team as Team
from steepest.sharding.exchange import Waiting as Waiting
from steepest.sharding.layout import Layout as Layout
from steepest.sharding.layout import balanced as balanced
from steepest.sharding.layout import bucketed as bucketed
from steepest.sharding.layout import is_sharded as is_sharded
from steepest.sharding.layout import layout_of as layout_of
from steepest.sharding.layout import local as local
from steepest.sharding.layout import local_like as local_like
from steepest.sharding.layout import sharded_like as sharded_like
from steepest.sharding.layout import whole as whole
