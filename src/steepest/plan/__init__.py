"""`steepest plan`: what Muon costs on many devices, before they are rented."""

from steepest.plan.hardware import Device as Device
from steepest.plan.hardware import Links as Links
from steepest.plan.mesh import Mesh as Mesh
from steepest.plan.predict import Plan as Plan
from steepest.plan.predict import plan as plan
