"""timm: a name for its factory, with the routing in the place of its own grouping."""

from timm.optim import OptimInfo, create_optimizer_v2, default_registry

import steepest

default_registry.register(
    OptimInfo(name="steepest", opt_class=steepest.Muon, has_eps=True, has_momentum=True)
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
