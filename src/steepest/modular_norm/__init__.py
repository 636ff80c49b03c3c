"""The modular norm of a model: a norm for each layer, and how much each may move the output."""

from steepest.modular_norm.build import Key as Key
from steepest.modular_norm.build import modular as modular
from steepest.modular_norm.flow import Atom as Atom
from steepest.modular_norm.flow import Chain as Chain
from steepest.modular_norm.flow import Flow as Flow
from steepest.modular_norm.flow import FlowPart as FlowPart
from steepest.modular_norm.flow import Parallel as Parallel
from steepest.modular_norm.flow import Residual as Residual
