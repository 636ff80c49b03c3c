"""AdamW, for the parameters that are not matrices."""

from __future__ import annotations

from typing import Any

import torch


def adamw(p: Any, state: dict[str, Any], group: dict[str, Any]) -> None:
    """Take AdamW's step of one parameter."""
    if not state:
        state.update(step=0, exp_avg=torch.zeros_like(p), exp_avg_sq=torch.zeros_like(p))
    state["step"] += 1
    lr, (beta1, beta2) = group["lr"], group["adamw_betas"]
    m = state["exp_avg"].lerp_(p.grad, 1 - beta1)
    v = state["exp_avg_sq"].mul_(beta2).addcmul_(p.grad, p.grad, value=1 - beta2)
    scale = (v / (1 - beta2 ** state["step"])).sqrt_().add_(1e-8)
    p.mul_(1 - lr * group["weight_decay"])
    p.addcdiv_(m, scale, value=-lr / (1 - beta1 ** state["step"]))
