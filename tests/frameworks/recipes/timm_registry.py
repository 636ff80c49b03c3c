"""timm: a name for its factory, with the routing in the place of its own grouping."""

from timm.optim import OptimInfo, create_optimizer_v2
from timm.optim._optim_factory import default_registry

import steepest

default_registry.register(
    OptimInfo(
        name="steepest", opt_class=steepest.Muon, description="", has_eps=True, has_momentum=True
    )
)


def optimizer(model):
    return create_optimizer_v2(
        model,
        "steepest",
        lr=0.02,
        momentum=0.95,
        weight_decay=0.1,
        param_group_fn=steepest.route,
    )
