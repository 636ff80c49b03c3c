"""Maps beside the duality map: of the average before it, of the direction after it."""

from steepest.transforms.composed import Composed as Composed
from steepest.transforms.eigenbasis import Eigenbasis as Eigenbasis
from steepest.transforms.moments import GradientSecondMoment as GradientSecondMoment
from steepest.transforms.moments import RowSecondMoment as RowSecondMoment
from steepest.transforms.moments import SecondMoment as SecondMoment
from steepest.transforms.normalized import BalancedRows as BalancedRows
from steepest.transforms.normalized import NormalizedColumns as NormalizedColumns
from steepest.transforms.normalized import NormalizedRows as NormalizedRows
from steepest.transforms.normalized import SemiorthogonalNorm as SemiorthogonalNorm
from steepest.transforms.normalized import Sign as Sign
from steepest.transforms.transform import State as State
from steepest.transforms.transform import StateShapes as StateShapes
from steepest.transforms.transform import Transform as Transform
