"""Steepest-descent optimizers in the norm of your choice.

What is named here is imported when it is first used: torch takes a second, which the help of the
command line does not need.
"""

import typing as _typing

from steepest._common.lazy import lazy as _lazy
from steepest._common.version import VERSION as _VERSION

if _typing.TYPE_CHECKING:
    from steepest import diagnostics as diagnostics
    from steepest import maps as maps
    from steepest import modular_norm as modular_norm
    from steepest import norms as norms
    from steepest import optim as optim
    from steepest import polar as polar
    from steepest import retractions as retractions
    from steepest import routing as routing
    from steepest import sharding as sharding
    from steepest import testing as testing
    from steepest import transforms as transforms
    from steepest import views as views
    from steepest.diagnostics import constraint_report as constraint_report
    from steepest.modular_norm import Atom as Atom
    from steepest.modular_norm import Chain as Chain
    from steepest.modular_norm import Parallel as Parallel
    from steepest.modular_norm import Residual as Residual
    from steepest.modular_norm import modular as modular
    from steepest.optim import SGD as SGD
    from steepest.optim import AdaMuon as AdaMuon
    from steepest.optim import Aurora as Aurora
    from steepest.optim import EMANesterov as EMANesterov
    from steepest.optim import Hyperball as Hyperball
    from steepest.optim import Lion as Lion
    from steepest.optim import LionK as LionK
    from steepest.optim import LoRAMuon as LoRAMuon
    from steepest.optim import Muon as Muon
    from steepest.optim import Muon2 as Muon2
    from steepest.optim import MuonBrake as MuonBrake
    from steepest.optim import MuonEq as MuonEq
    from steepest.optim import MuonFloor as MuonFloor
    from steepest.optim import MuonPlus as MuonPlus
    from steepest.optim import Muown as Muown
    from steepest.optim import NormalizedSGD as NormalizedSGD
    from steepest.optim import NorMuon as NorMuon
    from steepest.optim import PolarGrad as PolarGrad
    from steepest.optim import QKClip as QKClip
    from steepest.optim import Scion as Scion
    from steepest.optim import SignSGD as SignSGD
    from steepest.optim import SOAPMuon as SOAPMuon
    from steepest.optim import SpectralDescent as SpectralDescent
    from steepest.optim import SteepestDescent as SteepestDescent
    from steepest.optim import Transfer as Transfer
    from steepest.optim import load_torch_checkpoint as load_torch_checkpoint
    from steepest.polar import polar_factor as polar_factor
    from steepest.routing import Routing as Routing
    from steepest.routing import layer_decay as layer_decay
    from steepest.routing import route as route
    from steepest.views import MatrixView as MatrixView

__version__ = _VERSION

# The same names again for the running program: the imports above are for type checkers.
__getattr__, __dir__ = _lazy(
    "steepest",
    {
        "steepest": (
            *("diagnostics", "maps", "modular_norm", "norms", "optim", "polar", "routing"),
            *("retractions", "sharding", "testing", "transforms", "views"),
        ),
        "steepest.diagnostics": ("constraint_report",),
        "steepest.modular_norm": ("Atom", "Chain", "Parallel", "Residual", "modular"),
        "steepest.optim": (
            *("SGD", "Lion", "LionK", "Muon", "NormalizedSGD", "PolarGrad", "Scion", "SignSGD"),
            *("SpectralDescent", "SteepestDescent"),
            *("NorMuon", "AdaMuon", "Muon2", "MuonEq", "MuonPlus", "Aurora", "SOAPMuon"),
            *("Hyperball", "Muown", "MuonFloor", "MuonBrake", "LoRAMuon", "QKClip"),
            *("EMANesterov", "Transfer", "load_torch_checkpoint"),
        ),
        "steepest.polar": ("polar_factor",),
        "steepest.routing": ("Routing", "layer_decay", "route"),
        "steepest.views": ("MatrixView",),
    },
)
