"""The types of numbers and the devices that the settings of a run name."""

from __future__ import annotations

from collections.abc import Mapping

import torch

from steepest._common.errors import invalid
from steepest.apps.train.settings import Config as Config
from steepest.apps.train.settings import ModelConfig as ModelConfig
from steepest.apps.train.settings import OptimizerConfig as OptimizerConfig
from steepest.apps.train.settings import choose

DTYPES: Mapping[str, torch.dtype] = {
    "float32": torch.float32,
    "bfloat16": torch.bfloat16,
    "float64": torch.float64,
}


def resolve_device(name: str, dtype: str) -> str:
    """The device to use: "auto" is a CUDA GPU where there is one, else the CPU.

    Raises:
        ValueError: this machine has no such device, or it cannot compute in `dtype`, or there is
            no such type.
    """
    choose("dtype", dtype, DTYPES)
    if name == "auto":
        name = "cuda" if torch.cuda.is_available() else "cpu"
    try:
        device = torch.device(name)
        if device.type not in ("cpu", "cuda", "mps", "xpu"):
            raise RuntimeError("no device to train on")
        ones = torch.ones(2, 2, device=device, dtype=DTYPES[dtype])
        ones.matmul(ones)
    except (RuntimeError, AssertionError, TypeError):
        raise invalid(
            "device", name, f"cannot compute in {dtype} on this machine; try --device cpu"
        ) from None
    return str(device)
