"""Optimizers: the step loop, the named optimizers, and what is read off a model."""

from steepest.optim._constrained import Constrained as Constrained
from steepest.optim._flow import Atom as Atom
from steepest.optim._flow import Chain as Chain
from steepest.optim._flow import Flow as Flow
from steepest.optim._flow import Parallel as Parallel
from steepest.optim._flow import Residual as Residual
from steepest.optim.descent import SteepestDescent as SteepestDescent
from steepest.optim.lionk import LionK as LionK
from steepest.optim.modular import modular as modular
from steepest.optim.muon import Muon as Muon
from steepest.optim.named import PRESETS as PRESETS
from steepest.optim.named import SGD as SGD
from steepest.optim.named import Lion as Lion
from steepest.optim.named import NormalizedSGD as NormalizedSGD
from steepest.optim.named import PolarGrad as PolarGrad
from steepest.optim.named import Preset as Preset
from steepest.optim.named import Scion as Scion
from steepest.optim.named import SignSGD as SignSGD
from steepest.optim.named import SpectralDescent as SpectralDescent
from steepest.optim.routing import Assignment as Assignment
from steepest.optim.routing import Routing as Routing
from steepest.optim.routing import route as route
from steepest.optim.steepest import SteepestOptimizer as SteepestOptimizer
