"""timm's layer-wise decay of the learning rate, cut by the routing."""

from timm.optim import param_groups_layer_decay

import steepest


def groups(model, weight_decay=0.1, layer_decay=0.75, lr=0.02, adamw_lr=3e-4):
    routing = steepest.route(model)
    told = dict(zip(map(id, routing.parameters), routing, strict=True))
    out = []
    for group in param_groups_layer_decay(model, weight_decay, layer_decay=layer_decay):
        for target in ("matrix", "table", "vector"):
            members = [p for p in group["params"] if told[id(p)].target == target]
            names = [told[id(p)].name for p in members]
            made = {"params": list(zip(names, members, strict=True))}
            if target == "matrix":
                made |= {"views": tuple(told[id(p)].view for p in members), "lr": lr}
            else:
                made |= {"adamw": True, "lr": adamw_lr, "weight_decay": 0.0}
            made["lr"] *= group["lr_scale"]
            out += [made] if members else []
    return out


def optimizer(model):
    return steepest.Muon(groups(model), lr=0.02)
