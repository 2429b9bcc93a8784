"""300 steps of a projector that starts near collapse, in each precision, next to float64."""

import math
from functools import cache
from typing import NamedTuple

import pytest
import torch
from torch import Tensor, nn

import wssl_fast as wf
from tests.tolerances import value_tolerance

DEVICE = "cuda" if torch.cuda.is_available() else "cpu"
STEPS = 300
SHAPES = {"gram": (32, 48), "covariance": (96, 24)}
RATE = 0.03
GROWTH = 25  # steps after which GradScaler doubles its factor: it meets the end of float16

# The rounding that a mode adds on the way from the parameters to z: half a unit of its dtype.
ROUNDING = {
    "float32": torch.finfo(torch.float32).eps / 2,
    "bfloat16": torch.finfo(torch.bfloat16).eps / 2,
    "float16": torch.finfo(torch.float16).eps / 2,
}
# Products take rounded rows and weights, and round their result; the hidden layer in between.
ROUNDINGS = 4


def tolerance(mode: str) -> float:
    """Largest |W2 - W2_64| at any step.

    W2 is a distance, and the distance between two batches of unit rows is at most their rms
    difference: rows that are off by a share of their length move W2 by no more than that share. The
    parameters, which are float32, are not to drift beyond it either: descent contracts.
    """
    return ROUNDINGS * ROUNDING[mode] + value_tolerance("auto")


class Run(NamedTuple):
    values: Tensor
    """W2 at each step that was taken."""
    skipped: int
    """Steps that GradScaler did not take."""


def projector(m: int, dtype: torch.dtype) -> nn.Sequential:
    """Rows that share a direction: a mean of 2, a spread of a tenth."""
    torch.manual_seed(1)
    last = nn.Linear(32, m)
    layers = nn.Sequential(nn.Linear(16, 32), nn.BatchNorm1d(32), nn.ReLU(), last).double()
    with torch.no_grad():
        last.weight.mul_(0.1)
        last.bias.copy_(2 * torch.randn(m) / math.sqrt(m))
    return layers.to(DEVICE, dtype)


@cache
def train(formulation: str, mode: str) -> Run:
    n, m = SHAPES[formulation]
    dtype = torch.float64 if mode == "float64" else torch.float32
    half = {"bfloat16": torch.bfloat16, "float16": torch.float16}.get(mode)
    net = projector(m, dtype)
    torch.manual_seed(0)
    x = torch.randn(n, 16, dtype=torch.float64).to(DEVICE, dtype)
    optimizer = torch.optim.SGD(net.parameters(), lr=RATE)
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, STEPS)
    scaler = torch.amp.GradScaler(DEVICE, enabled=mode == "float16", growth_interval=GROWTH)
    values: list[float] = []
    skipped = 0
    while len(values) < STEPS:
        with torch.autocast(DEVICE, dtype=half or torch.bfloat16, enabled=half is not None):
            z = net(x)
            loss = wf.wasserstein_uniformity(z)
        assert z.dtype == (half or dtype)
        optimizer.zero_grad()
        scaler.scale(loss).backward()
        factor, before = scaler.get_scale(), net[3].bias.detach().clone()
        scaler.step(optimizer)
        scaler.update()
        if scaler.get_scale() < factor:  # an infinite gradient
            assert torch.equal(net[3].bias, before)
            skipped += 1
            continue
        schedule.step()
        values.append(loss.item())
    return Run(torch.tensor(values), skipped)


@pytest.mark.parametrize("mode", ROUNDING)
@pytest.mark.parametrize("formulation", SHAPES)
def test_training_goes_as_in_float64(formulation: str, mode: str) -> None:
    want, got = train(formulation, "float64").values, train(formulation, mode).values
    n, m = SHAPES[formulation]
    floor = math.sqrt(2 - 2 * math.sqrt(min(n - 1, m) / m))
    assert math.sqrt(2) - want[0] < 0.1, "it starts near collapse"
    assert want[-1] - floor < (want[0] - floor) / 2, "and leaves it"
    assert (got - want).abs().max().item() <= tolerance(mode)


@pytest.mark.parametrize("formulation", SHAPES)
def test_gradscaler_meets_the_end_of_float16_and_goes_on(formulation: str) -> None:
    run = train(formulation, "float16")
    assert 1 <= run.skipped <= STEPS // GROWTH + 16  # the first ones bring 2^16 down
    assert run.values.isfinite().all()


if __name__ == "__main__":  # the figures of docs/reliability.md
    for formulation in SHAPES:
        want = train(formulation, "float64").values
        print(f"{formulation}: W2 {want[0]:.4f} to {want[-1]:.4f}")
        for mode in ROUNDING:
            run = train(formulation, mode)
            off = (run.values - want).abs().max().item()
            print(f"  {mode}: off by {off:.1e} of {tolerance(mode):.1e}, {run.skipped} skipped")
