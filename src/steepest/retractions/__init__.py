"""Ways in which weights take a step, other than decay and a sum."""

from steepest.retractions.brake import RadialBrake as RadialBrake
from steepest.retractions.floor import UpdateFloor as UpdateFloor
from steepest.retractions.muown import RowMagnitudes as RowMagnitudes
from steepest.retractions.retraction import Combination as Combination
from steepest.retractions.retraction import Products as Products
from steepest.retractions.retraction import Retraction as Retraction
from steepest.retractions.retraction import StepSize as StepSize
from steepest.retractions.sphere import Sphere as Sphere
from steepest.retractions.split import SplitDecay as SplitDecay
