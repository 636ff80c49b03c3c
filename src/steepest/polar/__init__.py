"""Polar factors of matrices: exact, iterative, and the choice between them."""

from steepest.polar.base import Accuracy as Accuracy
from steepest.polar.base import PolarMethod as PolarMethod
from steepest.polar.certify import Certificate as Certificate
from steepest.polar.certify import Interval as Interval
from steepest.polar.certify import certify as certify
from steepest.polar.choose import Auto as Auto
from steepest.polar.choose import polar_factor as polar_factor
from steepest.polar.costs import CostTable as CostTable
from steepest.polar.design import best_quintic as best_quintic
from steepest.polar.design import design_schedule as design_schedule
from steepest.polar.design import polar_express_coefficients as polar_express_coefficients
from steepest.polar.exact import GramEigh as GramEigh
from steepest.polar.exact import Svd as Svd
from steepest.polar.iterate import GramNewtonSchulz as GramNewtonSchulz
from steepest.polar.iterate import NewtonSchulz as NewtonSchulz
from steepest.polar.schedule import CANS as CANS
from steepest.polar.schedule import CLASSIC as CLASSIC
from steepest.polar.schedule import JORDAN as JORDAN
from steepest.polar.schedule import JORDAN_POLISHED as JORDAN_POLISHED
from steepest.polar.schedule import JORDAN_QUINTIC as JORDAN_QUINTIC
from steepest.polar.schedule import POLAR_EXPRESS as POLAR_EXPRESS
from steepest.polar.schedule import YOU as YOU
from steepest.polar.schedule import Schedule as Schedule
from steepest.polar.schedule import polar_express as polar_express
