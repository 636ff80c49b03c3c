"""Optimizers: the step loop, the named optimizers, and the routing of a model's parameters."""

from steepest.optim.muon import Muon as Muon
from steepest.optim.routing import Assignment as Assignment
from steepest.optim.routing import Routing as Routing
from steepest.optim.routing import route as route
from steepest.optim.steepest import SteepestOptimizer as SteepestOptimizer
