"""The optimizers of `steepest train` by name, with their settings; torch is not needed for it."""

from __future__ import annotations

from collections.abc import Mapping

from steepest.apps.train.settings import OptimizerConfig

# Settings tuned on the default text and model; docs/tuning.md has the runs behind them.
TUNED: Mapping[str, OptimizerConfig] = {
    "muon": OptimizerConfig(lr=0.04, weight_decay=0.1, adamw_lr=4e-3),
    "adamw": OptimizerConfig(lr=4e-3, weight_decay=0.01),
    "torch-muon": OptimizerConfig(lr=0.04, weight_decay=0.1, adamw_lr=4e-3),
    "sgd": OptimizerConfig(lr=0.2, weight_decay=0.0),
    "normalized-sgd": OptimizerConfig(lr=0.4, weight_decay=0.0),
    "sign": OptimizerConfig(lr=1e-3, weight_decay=0.0),
    "lion": OptimizerConfig(lr=1e-3, weight_decay=0.1),
    "spectral": OptimizerConfig(lr=0.2, weight_decay=0.0, adamw_lr=4e-3),
    "polargrad": OptimizerConfig(lr=0.4, weight_decay=0.0, adamw_lr=4e-3),
    "scion": OptimizerConfig(lr=0.04, weight_decay=0.0),
    "normuon": OptimizerConfig(lr=0.04, weight_decay=0.1, adamw_lr=4e-3),
    "adamuon": OptimizerConfig(lr=0.03, weight_decay=0.1, adamw_lr=4e-3),
    "muon2": OptimizerConfig(lr=0.04, weight_decay=0.1, adamw_lr=4e-3),
    "muoneq": OptimizerConfig(lr=0.03, weight_decay=0.1, adamw_lr=4e-3),
    "muonplus": OptimizerConfig(lr=0.04, weight_decay=0.1, adamw_lr=4e-3),
    "aurora": OptimizerConfig(lr=0.04, weight_decay=0.1, adamw_lr=4e-3),
    "soapmuon": OptimizerConfig(lr=0.04, weight_decay=0.1, adamw_lr=4e-3),
    "hyperball": OptimizerConfig(lr=0.06, weight_decay=0.0, adamw_lr=4e-3),
    "muown": OptimizerConfig(lr=0.045, weight_decay=0.0, adamw_lr=4e-3),
    "muonfloor": OptimizerConfig(lr=0.04, weight_decay=0.0, adamw_lr=4e-3),
    "muonbrake": OptimizerConfig(lr=0.06, weight_decay=0.1, adamw_lr=4e-3),
    "descent": OptimizerConfig(lr=0.04, weight_decay=0.1, adamw_lr=4e-3, norm="spectral"),
}
