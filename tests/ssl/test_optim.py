"""LARS by hand, the schedule's corners, groups of parameters."""

import pytest
import torch
from torch import nn

from benchmarks.ssl.optim import LARS, build_optimizer, rate_factor, set_rate
from tests.ssl.conftest import tiny


def test_lars_by_hand() -> None:
    w = nn.Parameter(torch.tensor([[3.0, 4.0]], dtype=torch.float64))
    b = nn.Parameter(torch.tensor([1.0, 2.0], dtype=torch.float64))
    optimizer = LARS([w, b], lr=0.5, momentum=0.9, weight_decay=0.1, eta=0.02)
    expected_w, expected_b = w.detach().clone(), b.detach().clone()
    velocity_w, velocity_b = torch.zeros_like(w), torch.zeros_like(b)
    for _ in range(3):
        w.grad, b.grad = torch.tensor([[1.0, -1.0]]).double(), torch.tensor([0.5, 0.25]).double()
        g = w.grad + 0.1 * expected_w
        g = g * 0.02 * expected_w.norm() / g.norm()
        velocity_w = 0.9 * velocity_w + g
        velocity_b = 0.9 * velocity_b + b.grad
        expected_w, expected_b = expected_w - 0.5 * velocity_w, expected_b - 0.5 * velocity_b
        optimizer.step()
    torch.testing.assert_close(w.detach(), expected_w)
    torch.testing.assert_close(b.detach(), expected_b)


def test_lars_of_zero_weights_or_gradients() -> None:
    zero, still = nn.Parameter(torch.zeros(2, 2)), nn.Parameter(torch.ones(2, 2))
    optimizer = LARS([zero, still], lr=1.0, weight_decay=0.0)
    zero.grad, still.grad = torch.ones(2, 2), torch.zeros(2, 2)
    optimizer.step()
    assert torch.equal(zero.detach(), -torch.ones(2, 2))  # not scaled by a norm of 0
    assert torch.equal(still.detach(), torch.ones(2, 2))


def test_rate() -> None:
    def rate(step: int) -> float:
        return rate_factor(step, 100, 10, 0.001)

    assert [rate(step) for step in (0, 5, 10)] == [0.0, 0.5, 1.0]
    assert rate(55) == pytest.approx(0.5 + 0.001 / 2)
    assert rate(100) == pytest.approx(0.001)
    assert rate_factor(0, 10, 0, 0.0) == 1.0


@pytest.mark.parametrize("name", ["lars", "sgd", "adamw"])
def test_groups(name: str) -> None:
    network = nn.Sequential(nn.Conv2d(1, 2, 3), nn.BatchNorm2d(2), nn.Linear(4, 3))
    settings = tiny(optimizer__name=name, optimizer__lr=0.2, optimizer__lr_bias=0.01).optimizer
    optimizer = build_optimizer(settings, network.parameters())
    weights, others = optimizer.param_groups
    assert [parameter.ndim for parameter in weights["params"]] == [4, 2]
    assert {parameter.ndim for parameter in others["params"]} == {1}
    assert (weights["weight_decay"], others["weight_decay"]) == (settings.weight_decay, 0.0)
    set_rate(optimizer, 0.5)
    assert (weights["lr"], others["lr"]) == (0.1, 0.005)
