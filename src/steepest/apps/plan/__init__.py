"""`steepest plan`: what Muon costs on many devices, before they are rented."""

from steepest.apps.plan.hardware import Device as Device
from steepest.apps.plan.hardware import Links as Links
from steepest.apps.plan.mesh import Mesh as Mesh
from steepest.apps.plan.predict import Plan as Plan
from steepest.apps.plan.predict import plan as plan
