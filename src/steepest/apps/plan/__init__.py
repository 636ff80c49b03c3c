"""`steepest plan`: what Muon costs on many devices, before they are rented.

`plan` and `Plan` are imported when they are first used: the flags of the command need no torch.
"""

import typing as _typing

from steepest._common.lazy import lazy as _lazy

if _typing.TYPE_CHECKING:
    from steepest.apps.plan.hardware import Device as Device
    from steepest.apps.plan.hardware import Links as Links
    from steepest.apps.plan.mesh import Mesh as Mesh
    from steepest.apps.plan.predict import plan as plan
    from steepest.apps.plan.result import Plan as Plan

__getattr__, __dir__ = _lazy(
    "steepest.apps.plan",
    {
        "steepest.apps.plan.hardware": ("Device", "Links"),
        "steepest.apps.plan.mesh": ("Mesh",),
        "steepest.apps.plan.predict": ("plan",),
        "steepest.apps.plan.result": ("Plan",),
    },
)
