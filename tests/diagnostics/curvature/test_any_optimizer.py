"""The instruments work with every optimizer of torch: the list is torch's own."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from steepest import diagnostics

# SparseAdam takes sparse gradients only, which no instrument looks into.
EVERY = sorted(
    name
    for name, value in vars(torch.optim).items()
    if isinstance(value, type)
    and issubclass(value, torch.optim.Optimizer)
    and name not in ("Optimizer", "SparseAdam")
)


@pytest.mark.parametrize("name", EVERY)
def test_every_optimizer_of_torch(name: str) -> None:
    net = nn.Sequential(nn.Linear(8, 16), nn.ReLU(), nn.Linear(16, 4))
    params = [p for p in net.parameters() if p.ndim == 2 or name != "Muon"]
    optimizer = getattr(torch.optim, name)(params, lr=1e-3)
    x, y = torch.randn(32, 8), torch.randint(4, (32,))

    def loss() -> torch.Tensor:
        return nn.functional.cross_entropy(net(x), y)

    def closure() -> torch.Tensor:
        optimizer.zero_grad()
        found = loss()
        found.backward()
        return found

    with diagnostics.Monitor(net, optimizer, every=1, quiet=True) as monitor:
        for _ in range(3):
            before = net[0].weight.detach().clone()
            optimizer.step(closure)
    assert [record["step"] for record in monitor.records] == [1, 2, 3]
    moved = torch.linalg.matrix_norm(net[0].weight.detach() - before, 2)
    ratio = moved / torch.linalg.matrix_norm(before, 2)
    assert monitor.records[-1]["0/update_ratio"] == pytest.approx(float(ratio), rel=1e-3)
    report = diagnostics.compare_directions(loss, net, optimizer=optimizer)
    assert report["gradient"].gradient_correlation < 0
    assert report["muon"].gradient_correlation < 0


@pytest.mark.parametrize("name", ["Adagrad", "Adamax", "RMSprop", "SGD"])
def test_without_averages_of_adam_its_first_step_is_taken(name: str) -> None:
    weight = nn.Parameter(torch.randn(4, 4))
    optimizer = getattr(torch.optim, name)([weight], lr=0.1)
    for _ in range(5):
        weight.grad = torch.randn(4, 4)
        optimizer.step()
    g = torch.randn(4, 4)
    found = diagnostics.adam_step({"w": g}, params={"w": weight}, optimizer=optimizer)["w"]
    torch.testing.assert_close(found, -g / (g.abs() + 1e-8))
