"""Lines to write where a framework makes the optimizer from parameters alone."""

from __future__ import annotations

from collections.abc import Mapping

from steepest._common.callers import callers, module_of

SHARDING = "torch.distributed.optim"
"""The package of ZeroRedundancyOptimizer, which gives each rank some of the parameters."""

REMEDIES: Mapping[str, str] = {
    "transformers": 'Trainer(…, optimizer_cls_and_kwargs=(lambda: {cls}, {{"lr": …}}))',
    "trl": 'optimizer_cls_and_kwargs=(lambda: {cls}, {{"lr": …}})',
    "sentence_transformers": 'optimizer_cls_and_kwargs=(lambda: {cls}, {{"lr": …}})',
    "accelerate": "{cls}(model, …)",
    "lightning": "def configure_optimizers(self): return {cls}(self, …)",
    "pytorch_lightning": "def configure_optimizers(self): return {cls}(self, …)",
    "jsonargparse": "an argument `optimizer: OptimizerCallable`, called as self.optimizer(self)",
    "timm": "create_optimizer_v2(model, …, param_group_fn=steepest.route)",
    "skorch": 'optimizer__unrouted="adamw", or a subclass that overrides initialize_optimizer',
    "stable_baselines3": 'optimizer_kwargs={{"unrouted": "adamw"}} in policy_kwargs',
    "fastai": "opt_func=lambda *_, **kw: OptimWrapper(opt={cls}(model, **kw))",
    "ultralytics": "a trainer whose build_optimizer returns {cls}(model, …)",
    "hydra": "instantiate(config, params=model)",
    SHARDING: 'ZeroRedundancyOptimizer(…, {cls}, unrouted="adamw", …)',
}
"""The line to write for a framework that makes the optimizer, by the name of its package."""


def framework() -> str | None:
    """The package of `REMEDIES` that is calling, the innermost one; None if there is none."""
    modules = (f"{module_of(frame)}." for frame in callers())
    found = (package for m in modules for package in REMEDIES if m.startswith(f"{package}."))
    return next(found, None)


def remedy(cls: str) -> str:
    """The line to write where a parameter without its module is no matrix.

    Args:
        cls: The name of the optimizer.
    """
    package = framework()
    if package is not None:
        return f"under {package} write {REMEDIES[package].format(cls=f'steepest.{cls}')}"
    return (
        "pass the module, so that its parameters are routed; or names, as in "
        'model.named_parameters(); or unrouted="adamw" to tell matrices by their shape'
    )
