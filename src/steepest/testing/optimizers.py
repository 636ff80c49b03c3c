"""The laws that users and frameworks expect of any optimizer of torch: a function each, and all."""

from __future__ import annotations

import copy
import io
from collections.abc import Callable
from typing import Any, TypeAlias

import torch
from torch import Tensor, nn
from torch.optim.lr_scheduler import LambdaLR

from steepest.testing._tensors import assert_true, on

Make: TypeAlias = Callable[[nn.Module], torch.optim.Optimizer]
"""A function that makes the optimizer for a model."""


class TinyModel(nn.Module):
    """An embedding, a convolution, two hidden layers of one shape, a gain and a head."""

    def __init__(self) -> None:
        super().__init__()
        self.embedding = nn.Embedding(10, 8)
        self.conv = nn.Conv1d(8, 8, 3, padding=1)
        self.up = nn.Linear(8, 12)
        self.norm = nn.LayerNorm(12)
        self.down = nn.Linear(12, 8)
        self.head = nn.Linear(8, 10)

    def forward(self, tokens: Tensor) -> Tensor:
        """Ten logits for each token, shape (batch, length, 10)."""
        x = self.embedding(tokens)
        x = x + self.conv(x.transpose(1, 2)).transpose(1, 2)
        y: Tensor = self.head(x + self.down(self.norm(self.up(x)).relu()))
        return y


def model(seed: int = 0) -> TinyModel:
    """The model, with the same numbers for the same seed."""
    torch.manual_seed(seed)
    return TinyModel()


def loss(m: nn.Module, seed: int = 0) -> Tensor:
    """How badly a model of this kind repeats the tokens that a seed draws."""
    generator = torch.Generator().manual_seed(seed)
    tokens = torch.randint(0, 10, (4, 6), generator=generator)
    dtype = next(m.parameters()).dtype
    return nn.functional.cross_entropy(m(tokens).to(dtype).flatten(0, 1), tokens.flatten())


def train(m: nn.Module, optimizer: torch.optim.Optimizer, steps: int = 3, start: int = 0) -> None:
    """Take steps, each on tokens of its own."""
    for t in range(start, start + steps):
        optimizer.zero_grad()
        loss(m, t).backward()
        optimizer.step()


def parameters(m: nn.Module) -> list[Tensor]:
    """Copies of the parameters."""
    return [p.detach().clone() for p in m.parameters()]


def same(a: list[Tensor], b: list[Tensor]) -> bool:
    """Whether all of them are equal, bit for bit."""
    return len(a) == len(b) > 0 and all(torch.equal(x, y) for x, y in zip(a, b, strict=True))


def descends(make: Make) -> None:
    """Twenty steps on one batch lower the loss and move every parameter."""
    m = model()
    before, first = parameters(m), loss(m).item()
    optimizer = make(m)
    for _ in range(20):
        optimizer.zero_grad()
        loss(m).backward()
        optimizer.step()
    last = loss(m).item()
    assert_true(last < 0.8 * first, f"20 steps lower the loss: {last} < 0.8·{first}")
    still = [torch.equal(a, b) for a, b in zip(before, parameters(m), strict=True)]
    assert_true(not any(still), "every parameter moves")


def leaves_gradients_alone(make: Make, dtype: torch.dtype = torch.float32) -> None:
    """A step does not write to a gradient, and does not replace it."""
    m = model().to(dtype)
    optimizer = make(m)
    for _ in range(2):
        optimizer.zero_grad()
        loss(m).backward()
        grads = [p.grad for p in m.parameters() if p.grad is not None]
        before = [g.clone() for g in grads]
        optimizer.step()
        now = [p.grad for p in m.parameters()]
        assert_true(all(a is b for a, b in zip(grads, now, strict=True)), "p.grad stays")
        assert_true(same(before, grads), "gradients are not written to")


def calls_its_closure(make: Make) -> None:
    """`step(closure)` calls it once, with gradients enabled, and returns what it returned."""
    m = model()
    optimizer = make(m)
    calls: list[float] = []

    def closure() -> float:
        assert_true(torch.is_grad_enabled(), "the closure runs with gradients enabled")
        optimizer.zero_grad()
        value = loss(m)
        value.backward()
        calls.append(value.item())
        return value  # type: ignore[return-value]

    returned: Any = optimizer.step(closure)
    assert_true([returned.item()] == calls, "step returns what the closure returned")
    nothing: Any = optimizer.step()
    assert_true(nothing is None, "step() returns None")


def obeys_a_scheduler(make: Make) -> None:
    """A schedule reaches every group, and at lr = 0 nothing moves and nothing decays."""
    m = model()
    optimizer = make(m)
    bases = [float(group["lr"]) for group in optimizer.param_groups]
    scheduler = LambdaLR(optimizer, lambda t: 0.0 if t else 0.5)
    now = [float(group["lr"]) for group in optimizer.param_groups]
    assert_true(now == [base / 2 for base in bases], "a scheduler reaches every group")
    train(m, optimizer, 1)
    scheduler.step()
    before = parameters(m)
    train(m, optimizer, 1)
    assert_true(same(before, parameters(m)), "at lr = 0 nothing moves and nothing decays")


def leaves_alone_what_has_no_gradient(make: Make) -> None:
    """A parameter whose gradient is None has no zero gradient, no decay and no state."""
    m = model()
    optimizer = make(m)
    loss(m).backward()
    m.up.weight.grad = m.embedding.weight.grad = None
    before = [m.up.weight.detach().clone(), m.embedding.weight.detach().clone()]
    optimizer.step()
    now = [m.up.weight.detach(), m.embedding.weight.detach()]
    assert_true(same(before, now), "a parameter without a gradient stays as it is")
    none = m.up.weight not in optimizer.state and m.embedding.weight not in optimizer.state
    assert_true(none, "a parameter without a gradient has no state")


def resumes(make: Make) -> None:
    """Saved, read with `weights_only=True` and loaded, it goes on bit for bit; so does a copy."""
    m, other = model(), model()
    optimizer, twin = make(m), make(other)
    train(m, optimizer)
    file = io.BytesIO()
    torch.save(optimizer.state_dict(), file)
    file.seek(0)
    other.load_state_dict(m.state_dict())
    twin.load_state_dict(torch.load(file, weights_only=True))
    third, copied = copy.deepcopy((m, optimizer))
    train(m, optimizer, start=3)
    train(other, twin, start=3)
    train(third, copied, start=3)
    assert_true(same(parameters(m), parameters(other)), "a loaded state goes on bit for bit")
    assert_true(same(parameters(m), parameters(third)), "a deep copy goes on bit for bit")


def calls_step_hooks(make: Make) -> None:
    """Hooks run before and after a step."""
    m = model()
    optimizer = make(m)
    seen: list[str] = []
    optimizer.register_step_pre_hook(lambda *_: seen.append("before"))
    optimizer.register_step_post_hook(lambda *_: seen.append("after"))
    train(m, optimizer, 1)
    assert_true(seen == ["before", "after"], "hooks run before and after a step")


CONTRACT = (
    *(descends, leaves_gradients_alone, calls_its_closure, obeys_a_scheduler),
    *(leaves_alone_what_has_no_gradient, resumes, calls_step_hooks),
)


def check_optimizer(make: Make) -> None:
    """Hold an optimizer to what users and frameworks expect of any optimizer of torch.

    On a small model with an embedding, a convolution, linear layers, a normalisation and biases: it
    descends, leaves gradients alone, calls its closure once, obeys a scheduler in every group,
    leaves alone what has no gradient, goes on bit for bit after saving and loading, and calls its
    hooks.

    Args:
        make: a function of a module that returns an optimizer of all its parameters.

    Raises:
        AssertionError: a part of the contract is broken; the message says which.

    Examples:
        >>> from steepest import Muon
        >>> check_optimizer(lambda model: Muon(model, lr=0.05, adamw_lr=0.01))
    """
    for law in CONTRACT:
        with on(law.__name__):
            law(make)
