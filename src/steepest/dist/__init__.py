"""More than one process: who holds what, and how whole matrices come together."""

from steepest.dist.agree import agreed as agreed
from steepest.dist.agree import same_everywhere as same_everywhere
from steepest.dist.agree import summed as summed
from steepest.dist.counter import CollectiveCounter as CollectiveCounter
from steepest.dist.exchange import BUCKET as BUCKET
from steepest.dist.exchange import Exchange as Exchange
from steepest.dist.exchange import Parcel as Parcel
from steepest.dist.exchange import Team as Team
from steepest.dist.exchange import Waiting as Waiting
from steepest.dist.layout import Layout as Layout
from steepest.dist.layout import balanced as balanced
from steepest.dist.layout import bucketed as bucketed
from steepest.dist.layout import is_sharded as is_sharded
from steepest.dist.layout import layout_of as layout_of
from steepest.dist.layout import local as local
from steepest.dist.layout import local_like as local_like
from steepest.dist.layout import sharded_like as sharded_like
from steepest.dist.layout import whole as whole
