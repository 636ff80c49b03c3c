"""Lines to write where a framework makes the optimizer from parameters alone."""

from __future__ import annotations

from collections.abc import Mapping

from torch import Tensor

from steepest._common.callers import callers, module_of
from steepest._common.numerics import host_value

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


ARGUMENTS: Mapping[str, str] = {"SteepestDescent": "norm=…, ", "LionK": "K=…, "}
"""Arguments that an optimizer has to have beside the model and the learning rate."""

READINGS = (
    ", or say with `views` which matrices it is: steepest.views.conv({spatial}) for the kernel of "
    "a convolution, MatrixView(batch=…, rows=…, cols=…) for a stack of matrices"
)


def no_matrix(cls: type, param: Tensor, name: str, lr: float | Tensor | None) -> ValueError:
    """The error for a parameter that came without its module and is not a matrix.

    Args:
        cls: The optimizer.
        param: The parameter.
        name: Its name, or its place in the group.
        lr: The learning rate of its group.
    """
    path = f"steepest.{cls.__name__}" if cls.__module__.startswith("steepest.") else cls.__name__
    package = framework()
    if package is not None:
        text = f": under {package} write {REMEDIES[package].format(cls=path)}"
    else:
        rate = "…" if lr is None else f"{host_value(lr):g}"
        others = "gives" if cls.__name__ == "Scion" else "sends"
        where = "norms of their own" if cls.__name__ == "Scion" else "to AdamW"
        call = f"{path}(model, {ARGUMENTS.get(cls.__name__, '')}lr={rate})"
        text = (
            f". Pass the module instead: `{call}` {others} biases, embeddings and "
            f"heads {where}. It is not a matrix "
            f"({name}): without the module pass names, model.named_parameters(), or "
            'unrouted="adamw" to tell matrices by their shape, or put it into a group with '
            "adamw=True"
        )
    if param.ndim > 2:
        text += READINGS.format(spatial=param.ndim - 2)
    return ValueError(f"{cls.__name__} got a parameter of shape {tuple(param.shape)}{text}")
