"""Routing: which parameters are matrices, how their axes are read, and who steps the others."""

from steepest.routing.assignment import Override as Override
from steepest.routing.layer_decay import layer_decay as layer_decay
from steepest.routing.matrices import Model as Model
from steepest.routing.matrices import Views as Views
from steepest.routing.matrices import matrix_views as matrix_views
from steepest.routing.query_key import HeadRows as HeadRows
from steepest.routing.query_key import QueryKey as QueryKey
from steepest.routing.query_key import query_keys as query_keys
from steepest.routing.rule import Kind as Kind
from steepest.routing.rule import Target as Target
from steepest.routing.table import Assignment as Assignment
from steepest.routing.table import Routing as Routing
from steepest.routing.table import route as route
