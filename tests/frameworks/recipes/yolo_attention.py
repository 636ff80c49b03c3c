"""ultralytics: queries, keys and values of different width in one weight, head by head."""

import steepest
from steepest.views import MatrixView

HEADS = 2
VIEW = MatrixView(cols=(1, 2, 3), split=(32, 32, 64) * HEADS)
PARTS = {"*.attn.qkv.conv.weight": VIEW}


def optimizer(model, lr=0.01):
    return steepest.Muon(model, lr=lr, adjust_lr_fn="match_rms_adamw", overrides=PARTS)
