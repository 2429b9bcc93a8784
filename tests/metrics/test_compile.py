"""Metrics in functions that torch.compile compiles: every row counts."""

import subprocess
import sys
from collections.abc import Iterator
from typing import Any

import pytest
import torch
from torch import Tensor

import wssl_fast as wf
from wssl_fast.metrics import Moments, RowSample


@pytest.fixture(autouse=True)
def _fresh() -> Iterator[None]:
    torch._dynamo.reset()
    yield
    torch._dynamo.reset()


def step(metric: Any, call: str = "update") -> Any:
    """A training step that feeds a metric on its way."""

    def run(z: Tensor) -> Tensor:
        getattr(metric, call)(2 * z)
        return z + 1

    return torch.compile(run, backend="aot_eager")


@pytest.mark.parametrize("filled", [False, True])
def test_moments(filled: bool) -> None:
    batches = [torch.randn(n, 8) for n in (32, 32, 5, 9)]
    moments, want = Moments(), Moments()
    if filled:
        moments.update(batches[0]), want.update(batches[0])
    run = step(moments)
    for z in batches:
        torch.testing.assert_close(run(z), z + 1)
        want.update(2 * z)
    assert moments.count == want.count
    assert torch.equal(moments.covariance, want.covariance)
    assert torch.equal(moments.mean_norm(), want.mean_norm())


def test_merging_and_sampling() -> None:
    moments, sample, other = Moments(), RowSample(10), Moments().update(torch.randn(4, 8))

    def run(z: Tensor) -> Tensor:
        moments.update(z).merge(other)
        sample.update(z).merge(RowSample(10, stream=1))
        return z + 1

    compiled, want = torch.compile(run, backend="aot_eager"), RowSample(10)
    for n in (7, 8, 8):
        z = torch.randn(n, 8)
        compiled(z)
        want.update(z)
    assert (moments.count, sample.seen) == (23 + 3 * 4, 23)
    assert torch.equal(sample.rows, want.rows)


@pytest.mark.parametrize("call", ["update", "forward"])
@pytest.mark.parametrize("name", ["WassersteinUniformity", "EffectiveRank", "Uniformity"])
def test_modules(name: str, call: str) -> None:
    pytest.importorskip("torchmetrics", reason="wf.metrics' modules need torchmetrics")
    metric, want = (getattr(wf.metrics, name)(8) for _ in range(2))
    run = step(metric, call)
    for n in (32, 32, 5, 9):
        z = torch.randn(n, 8)
        run(z)
        getattr(want, call)(2 * z)
    assert torch.equal(metric.compute(), want.compute())


def test_an_update_does_not_load_the_compiler() -> None:
    code = (
        "import sys, torch\n"
        "had_compiler = 'torch._dynamo' in sys.modules\n"
        "import wssl_fast as wf\n"
        "wf.metrics.Moments().update(torch.randn(4, 3)).effective_rank()\n"
        "wf.metrics.RowSample(2).update(torch.randn(4, 3))\n"
        "print('torch._dynamo' in sys.modules and not had_compiler)"
    )
    out = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert out.stdout.strip() == "False"
