"""Tensors whose numbers do not lie in memory as they are."""

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor
from torch._subclasses import FakeTensorMode
from torch.testing._internal.two_tensor import TwoTensor

import wssl_fast as wf
from wssl_fast.metrics import Moments, RowSample

CLASSES = ("WassersteinUniformity", "EffectiveRank", "Uniformity", "FrechetEmbeddingDistance")


def updates() -> dict[str, Callable[[Tensor], Any]]:
    """`update` of a fresh metric of each class."""
    found: dict[str, Callable[[Tensor], Any]] = {
        "Moments": Moments().update,
        "RowSample": RowSample(4).update,
    }
    try:
        for name in CLASSES:
            metric = getattr(wf.metrics, name)(8)
            frechet = name == "FrechetEmbeddingDistance"
            found[name] = (lambda z, m=metric: m.update(z, True)) if frechet else metric.update
    except ImportError:  # no torchmetrics
        pass
    return found


EACH = pytest.mark.parametrize("name", updates())


@EACH
@pytest.mark.filterwarnings("ignore:The PyTorch API of MaskedTensors")
@pytest.mark.parametrize("kind", ["TwoTensor", "FakeTensor", "MaskedTensor"])
def test_wrapped_tensors_are_refused(kind: str, name: str) -> None:
    z = torch.randn(16, 8)
    wrapped = {
        "TwoTensor": lambda: TwoTensor(z, z),
        "FakeTensor": lambda: FakeTensorMode().from_tensor(z),
        "MaskedTensor": lambda: torch.masked.masked_tensor(z, z > 0),
    }[kind]()
    with pytest.raises(TypeError, match=rf"z must be a plain tensor, got {kind}: pass"):
        updates()[name](wrapped)


@EACH
def test_sparse_tensors_are_refused(name: str) -> None:
    with pytest.raises(TypeError, match=r"dense tensor, got a sparse_coo one: pass z.to_dense\("):
        updates()[name](torch.eye(8).to_sparse())


@EACH
def test_torch_func_is_refused(name: str) -> None:
    update = updates()[name]

    def f(z: Tensor) -> Tensor:
        update(z)
        return z.sum()

    for transform in (torch.func.grad, torch.func.vmap):
        with pytest.raises(RuntimeError, match=r"inside of a torch\.func transform"):
            transform(f)(torch.randn(16, 8))


def test_merging_under_torch_func_is_refused() -> None:
    a, b = Moments().update(torch.randn(4, 3)), Moments().update(torch.randn(4, 3))

    def f(z: Tensor) -> Tensor:
        a.merge(b)
        return z.sum()

    with pytest.raises(RuntimeError, match=r"inside of a torch\.func transform"):
        torch.func.grad(f)(torch.ones(3))
    assert a.update(torch.randn(4, 3)).count == 8


def test_subclasses_and_parameters_are_plain() -> None:
    class Rows(torch.Tensor):
        pass

    z = torch.randn(16, 8)
    want = Moments().update(z).covariance
    for same in (z.as_subclass(Rows), torch.nn.Parameter(z)):
        assert torch.equal(Moments().update(same).covariance, want)


@EACH
def test_zeros_without_memory(name: str) -> None:
    updates()[name](torch._efficientzerotensor((16, 8)))


@EACH
def test_inference_mode_first(name: str) -> None:
    """What an update or a merge under it leaves is no tensor of it."""
    update = updates()[name]
    with torch.inference_mode():
        update(torch.randn(16, 8))
    update(torch.randn(16, 8))


def test_states_made_in_inference_mode() -> None:
    z = torch.randn(16, 8)
    with torch.inference_mode():
        moments, sample = Moments().update(z), RowSample(4).update(z)
        merged = Moments().merge(moments)
        moments.effective_rank()
    for kept in (moments.covariance_spectrum(), moments.mean, sample.rows):
        kept.requires_grad_().sum().backward()
    assert merged.merge(moments).update(z).count == 48


def test_moments_of_zeros_without_memory() -> None:
    moments = Moments().update(torch._efficientzerotensor((16, 8)))
    assert moments.count == 16
    assert float(moments.wasserstein_uniformity()) == pytest.approx(1, abs=1e-15)


@pytest.mark.parametrize("normalize", [True, False])
def test_views_that_negate(normalize: bool) -> None:
    z = torch.randn(16, 8, dtype=torch.complex64).conj().imag
    assert z.is_neg()
    found, want = (Moments(normalize=normalize).update(rows) for rows in (z, z.resolve_neg()))
    assert torch.equal(found.mean, want.mean)
    assert torch.equal(found.covariance, want.covariance)
