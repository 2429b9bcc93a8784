"""What a caller may have set for the whole process, or wrapped around a call: not a bit changes."""

from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.utils.checkpoint import checkpoint

import wssl_fast as wf
from tests.test_contract import EVERY, Function, Inputs, first


@contextmanager
def setting(get: Callable[[], Any], put: Callable[[Any], object], value: object) -> Iterator[None]:
    """`value` for a while; after the calls it is still there."""
    before = get()
    put(value)
    try:
        yield
        assert get() == value
    finally:
        put(before)


def matmul_precision(name: str) -> AbstractContextManager[None]:
    return setting(torch.get_float32_matmul_precision, torch.set_float32_matmul_precision, name)


@contextmanager
def backend_precision(owner: Any, name: str) -> Iterator[None]:
    """PyTorch's newer settings, which the one above cannot be read beside."""
    if not hasattr(torch.backends, "fp32_precision"):
        pytest.skip("PyTorch 2.9 on")
    watched: tuple[Any, ...] = (
        torch.backends,
        torch.backends.cuda.matmul,
        torch.backends.mkldnn.matmul,  # type: ignore[attr-defined]
    )
    for each in watched:  # the older setting leaves "ieee" in two of them
        each.fp32_precision = "none"
    owner.fp32_precision = name
    try:
        before = [each.fp32_precision for each in watched]
        yield
        assert [each.fp32_precision for each in watched] == before
        owner.fp32_precision = "none"
        assert {each.fp32_precision for each in watched} == {"none"}, "inherited, but pinned"
    finally:
        owner.fp32_precision = "none"


def dtype(value: torch.dtype) -> AbstractContextManager[None]:
    return setting(torch.get_default_dtype, torch.set_default_dtype, value)


def device(value: str) -> AbstractContextManager[None]:
    where = torch.device(value)
    return setting(torch.get_default_device, torch.set_default_device, where)


def deterministic() -> AbstractContextManager[None]:
    return setting(
        torch.are_deterministic_algorithms_enabled, torch.use_deterministic_algorithms, True
    )


SETTINGS: dict[str, Callable[[], AbstractContextManager[Any]]] = {
    "matmul high": lambda: matmul_precision("high"),
    "matmul medium": lambda: matmul_precision("medium"),
    "matmul tf32 everywhere": lambda: backend_precision(torch.backends, "tf32"),
    "matmul tf32 on CUDA": lambda: backend_precision(torch.backends.cuda.matmul, "tf32"),
    "matmul bf16 in oneDNN": lambda: backend_precision(
        torch.backends.mkldnn.matmul,  # type: ignore[attr-defined]
        "bf16",
    ),
    "deterministic": deterministic,
    "default dtype float64": lambda: dtype(torch.float64),
    "default dtype bfloat16": lambda: dtype(torch.bfloat16),
    "default device cpu": lambda: device("cpu"),
    "default device meta": lambda: device("meta"),
    "anomaly": torch.autograd.detect_anomaly,
    "saved on the CPU": torch.autograd.graph.save_on_cpu,
}
EACH = pytest.mark.parametrize("name", SETTINGS)


def results(call: Callable[..., Any], inputs: Inputs) -> list[Tensor]:
    """First output, and gradients."""
    leaves = tuple(t.detach().requires_grad_() for t in inputs)
    output = first(call(*leaves))
    output.backward(output.detach())
    return [output.detach(), *(leaf.grad for leaf in leaves if leaf.grad is not None)]


def assert_equal(found: list[Tensor], wanted: list[Tensor]) -> None:
    assert len(wanted) > 1
    for got, want in zip(found, wanted, strict=True):
        assert got.device == want.device
        assert got.dtype == want.dtype
        assert torch.equal(got, want)


@EVERY
@EACH
@pytest.mark.filterwarnings("ignore:Anomaly Detection")
def test_settings_change_no_bit(function: Function, name: str) -> None:
    inputs = function.inputs()
    want = results(function.call, inputs)
    with SETTINGS[name]():
        got = results(function.call, inputs)
    assert_equal(got, want)


@EACH
@pytest.mark.filterwarnings("ignore:Anomaly Detection")
@pytest.mark.parametrize("shape", [(160, 300), (300, 160)])
@pytest.mark.parametrize("solver", ["eigh", "newton_schulz"])
def test_products_large_enough_for_fast_arithmetic(
    shape: tuple[int, int], solver: str, name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Without csrc/cpu, so that the products are PyTorch's."""
    monkeypatch.setattr("wssl_fast.backends.native._module", None)
    inputs = (torch.randn(shape),)

    def call(z: Tensor) -> Tensor:
        return wf.wasserstein_uniformity(z, solver=solver, precision="highest")

    want = results(call, inputs)
    with SETTINGS[name]():
        got = results(call, inputs)
    assert_equal(got, want)


@EACH
@pytest.mark.filterwarnings("ignore:Anomaly Detection")
def test_streams(name: str) -> None:
    """The metrics call the same arithmetic without an operator around it."""
    z = torch.randn(40, 8)
    want = wf.metrics.Moments()
    want.update(z)
    with SETTINGS[name]():
        got = wf.metrics.Moments()
        got.update(z)
        assert got.wasserstein_uniformity() == want.wasserstein_uniformity()
        assert torch.equal(got.covariance, want.covariance)


@EVERY
@pytest.mark.parametrize("mode", [torch.no_grad, torch.inference_mode])
def test_values_without_a_gradient(
    function: Function, mode: Callable[[], AbstractContextManager[Any]]
) -> None:
    inputs = function.inputs()
    want = first(function.call(*(t.clone().requires_grad_() for t in inputs)))
    with mode():
        within = [t.clone().requires_grad_() for t in inputs]  # inference tensors in that mode
        got = first(function.call(*within))
        assert not got.requires_grad
        torch.testing.assert_close(got, want)


@EVERY
@pytest.mark.parametrize("reentrant", [True, False])
def test_checkpoint(function: Function, reentrant: bool) -> None:
    inputs = function.inputs()

    def call(*tensors: Tensor) -> Any:
        return first(function.call(*(2 * t for t in tensors)))

    want = results(call, inputs)
    got = results(lambda *ts: checkpoint(call, *ts, use_reentrant=reentrant), inputs)
    assert_equal(got, want)
