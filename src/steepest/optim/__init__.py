"""Optimizers: the step loop and the named optimizers."""

from steepest.optim.descent import SteepestDescent as SteepestDescent
from steepest.optim.lionk import LionK as LionK
from steepest.optim.muon import Muon as Muon
from steepest.optim.named import SGD as SGD
from steepest.optim.named import Lion as Lion
from steepest.optim.named import NormalizedSGD as NormalizedSGD
from steepest.optim.named import PolarGrad as PolarGrad
from steepest.optim.named import Scion as Scion
from steepest.optim.named import SignSGD as SignSGD
from steepest.optim.named import SpectralDescent as SpectralDescent
from steepest.optim.optimizer import SteepestOptimizer as SteepestOptimizer
from steepest.optim.options import StepOptions as StepOptions
from steepest.optim.parameter_view import ParameterView as ParameterView
from steepest.optim.presets import PRESETS as PRESETS
from steepest.optim.presets import Preset as Preset
from steepest.optim.rule import UpdateRule as UpdateRule
