"""A process in which the frameworks reach no network and report to nobody; import it first."""

from __future__ import annotations

import os
import sys
import tempfile
from importlib import metadata
from pathlib import Path

import torch

SETTINGS = {
    "HF_HUB_OFFLINE": "1",
    "TRANSFORMERS_OFFLINE": "1",
    "HF_HUB_DISABLE_TELEMETRY": "1",
    "TRL_EXPERIMENTAL_SILENCE": "1",
    "HF_HUB_DISABLE_PROGRESS_BARS": "1",
    "TOKENIZERS_PARALLELISM": "false",
    "WANDB_MODE": "disabled",
    "YOLO_OFFLINE": "true",
    "YOLO_AUTOINSTALL": "false",
    "YOLO_CONFIG_DIR": str(Path(tempfile.gettempdir()) / "steepest-frameworks-yolo"),
    "OMP_NUM_THREADS": "1",
}
"""Environment of the frameworks, for this process and those that it starts."""

LIBRARIES: list[torch.library.Library] = []


def define_torchvision_operators() -> None:
    """Declare two operators that torchvision's wheel for CUDA does not bring to a torch for CPUs.

    Its models need neither of them, but its import registers more for them.
    """
    if torch.version.cuda or sys.platform != "linux":
        return
    try:
        installed = metadata.version("torchvision")
    except metadata.PackageNotFoundError:
        return
    if "+cpu" not in installed:
        library = torch.library.Library("torchvision", "DEF")
        for name in ("nms", "qnms"):
            library.define(f"{name}(Tensor dets, Tensor scores, float iou_threshold) -> Tensor")
        LIBRARIES.append(library)  # it takes its operators with it when it goes


os.environ.update(SETTINGS)
define_torchvision_operators()
torch.set_num_threads(1)
