"""Routing: which parameters are matrices, how their axes are read, and who steps the others."""

from steepest.routing.layer_decay import layer_decay as layer_decay
from steepest.routing.matrices import matrix_views as matrix_views
from steepest.routing.table import Assignment as Assignment
from steepest.routing.table import Routing as Routing
from steepest.routing.table import route as route
