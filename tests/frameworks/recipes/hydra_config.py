"""Hydra: the module takes the place of the parameters."""

from hydra.utils import instantiate
from omegaconf import OmegaConf

CONFIG = OmegaConf.create(
    """
    _target_: steepest.Muon
    lr: 0.02
    adamw_betas: [0.9, 0.95]
    polar:
      _target_: steepest.polar.Auto
      error: 0.01
    """
)


def optimizer(model):
    return instantiate(CONFIG, params=model)
