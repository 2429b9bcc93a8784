"""torch.func: every public function under grad, vjp, jacrev and vmap, in any order; and what has no
derivative says so."""

from collections.abc import Callable, Iterator
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.autograd import forward_ad
from torch.func import (
    functional_call,
    grad,
    grad_and_value,
    hessian,
    jacfwd,
    jacrev,
    jvp,
    stack_module_state,
    vjp,
    vmap,
)

import wssl_fast as wf
from tests.test_contract import EVERY, Function, Inputs, first

BATCH = 3


def total(function: Function) -> Callable[..., Tensor]:
    """A scalar that depends on every entry of the first output, each with its own weight."""

    def call(*tensors: Tensor) -> Tensor:
        output = first(function.call(*tensors))
        weights = torch.arange(1, output.numel() + 1, dtype=output.dtype).view(output.shape)
        return (weights * output).sum()

    return call


def gradients(call: Callable[..., Tensor], inputs: Inputs) -> Inputs:
    """By autograd."""
    leaves = tuple(t.detach().clone().requires_grad_() for t in inputs)
    return torch.autograd.grad(call(*leaves), leaves)


def by_loop(call: Callable[..., Any], inputs: Inputs) -> Any:
    """`call` of each problem alone, stacked."""
    each = [call(*problem) for problem in zip(*inputs, strict=True)]
    if isinstance(each[0], Tensor):
        return torch.stack(each)
    return tuple(torch.stack(found) for found in zip(*each, strict=True))


def every_argument(function: Function) -> tuple[int, ...]:
    return tuple(range(len(function.shapes)))


@EVERY
def test_grad_is_that_of_backward(function: Function) -> None:
    inputs, call = function.inputs(), total(function)
    want = gradients(call, inputs)
    found, value = grad_and_value(call, argnums=every_argument(function))(*inputs)
    assert torch.equal(value, call(*inputs))
    for got, expected in zip(found, want, strict=True):
        assert torch.equal(got, expected)


@EVERY
def test_pullback_outlives_its_transform(function: Function) -> None:
    inputs = function.inputs()
    output, pullback = vjp(lambda *tensors: first(function.call(*tensors)), *inputs)
    upstream = torch.randn_like(output)
    want = gradients(lambda *tensors: (first(function.call(*tensors)) * upstream).sum(), inputs)
    for got, expected in zip(pullback(upstream), want, strict=True):
        assert torch.equal(got, expected)


@EVERY
def test_jacrev_is_a_gradient_for_each_entry(function: Function) -> None:
    def call(*tensors: Tensor) -> Tensor:
        return first(function.call(*tensors)).flatten()[:5]

    inputs = function.inputs()
    found = jacrev(call, argnums=every_argument(function))(*inputs)
    want = torch.autograd.functional.jacobian(call, inputs)
    for got, expected in zip(found, want, strict=True):
        torch.testing.assert_close(got, expected)


@EVERY
def test_vmap_is_a_loop(function: Function) -> None:
    """Over a dimension anywhere in the arguments."""
    inputs = function.inputs(torch.float32, BATCH)
    want = by_loop(function.call, inputs)
    for dim in range(inputs[0].ndim):
        moved = [t.movedim(0, min(dim, t.ndim - 1)) for t in inputs]
        in_dims = tuple(min(dim, t.ndim - 1) for t in inputs)
        torch.testing.assert_close(vmap(function.call, in_dims=in_dims)(*moved), want)


@EVERY
def test_vmap_over_nothing(function: Function) -> None:
    want = first(function.call(*function.inputs()))
    for dim in (0, 1):
        inputs = tuple(t.movedim(0, dim) for t in function.inputs(torch.float32, 0))
        assert first(vmap(function.call, in_dims=dim)(*inputs)).shape == (0, *want.shape)
    if len(inputs) > 1:
        in_dims = (None, *(0 for _ in inputs[1:]))
        given = (function.inputs()[0], *function.inputs(torch.float32, 0)[1:])
        assert first(vmap(function.call, in_dims=in_dims)(*given)).shape == (0, *want.shape)


@EVERY
def test_vmap_with_arguments_that_all_share(function: Function) -> None:
    inputs = function.inputs(torch.float32, BATCH)
    for shared in range(1, len(inputs)):
        in_dims = tuple(None if i == shared else 0 for i in range(len(inputs)))
        given = tuple(t[0] if i == shared else t for i, t in enumerate(inputs))
        same = tuple(t[:1].expand_as(t) if i == shared else t for i, t in enumerate(inputs))
        got = vmap(function.call, in_dims=in_dims)(*given)
        torch.testing.assert_close(got, by_loop(function.call, same))


@EVERY
def test_vmap_and_grad_in_either_order(function: Function) -> None:
    inputs, call = function.inputs(torch.float32, BATCH), total(function)
    every = every_argument(function)
    want = by_loop(lambda *problem: gradients(call, problem), inputs)
    inside = vmap(grad(call, argnums=every))(*inputs)
    outside = grad(lambda *tensors: vmap(call)(*tensors).sum(), argnums=every)(*inputs)
    leaves = tuple(t.clone().requires_grad_() for t in inputs)
    backward = torch.autograd.grad(vmap(call)(*leaves).sum(), leaves)
    for found in (inside, outside, backward):
        torch.testing.assert_close(tuple(found), want)


@EVERY
def test_nested_vmap(function: Function) -> None:
    """Batches of batches, over another dimension each, beside the function's own batches."""
    inputs = function.inputs(torch.float32, 2, BATCH)
    want = by_loop(lambda *tensors: by_loop(function.call, tensors), inputs)
    torch.testing.assert_close(vmap(vmap(function.call))(*inputs), want)
    turned = vmap(vmap(function.call), in_dims=1, out_dims=1)(*inputs)
    torch.testing.assert_close(turned, want)
    torch.testing.assert_close(vmap(function.call)(*inputs), want)


def test_a_gradient_wanted_further_down() -> None:
    """The inner transform's tensor does not show that the outer one differentiates it."""
    z = torch.randn(6, 9)

    def outer(z: Tensor) -> Tensor:
        def inner(scale: Tensor) -> Tensor:
            return wf.wasserstein_uniformity(2 * z) * scale

        return grad(inner)(torch.ones(()))  # the value of W2

    torch.testing.assert_close(grad(outer)(z), grad(wf.wasserstein_uniformity)(z))


class Projector(torch.nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.layer = torch.nn.Linear(5, 8)
        self.loss = wf.nn.WassersteinUniformityLoss(0.5)

    def forward(self, x: Tensor) -> Tensor:
        loss: Tensor = self.loss(self.layer(x))
        return loss


def test_an_ensemble_of_modules() -> None:
    models = [Projector() for _ in range(BATCH)]
    x = torch.randn(6, 5)
    stacked, buffers = stack_module_state(models)  # type: ignore[arg-type]

    def loss(parameters: Any, buffers: Any) -> Tensor:
        value: Tensor = functional_call(models[0], (parameters, buffers), (x,))
        return value

    found, values = vmap(grad_and_value(loss))(stacked, buffers)
    for i, model in enumerate(models):
        value = model(x)
        value.backward()
        torch.testing.assert_close(values[i], value)
        for name, parameter in model.named_parameters():
            torch.testing.assert_close(found[name][i], parameter.grad)


FORWARD = r"wssl_fast\.\w+ has no forward-mode derivative"


@EVERY
def test_forward_mode_is_a_clear_error(function: Function) -> None:
    """It was a silent zero."""
    inputs, call = function.inputs(), total(function)
    with pytest.raises(RuntimeError, match=FORWARD):
        jvp(call, inputs, inputs)
    with pytest.raises(RuntimeError, match=FORWARD):
        jacfwd(call)(*inputs)
    with forward_ad.dual_level():
        duals = [forward_ad.make_dual(t, t) for t in inputs]
        with pytest.raises(RuntimeError, match=FORWARD):
            call(*duals)
        with pytest.raises(RuntimeError, match=FORWARD):
            call(*(dual.requires_grad_() for dual in duals))


def test_forward_mode_passes_by_what_has_no_tangent() -> None:
    z = torch.randn(6, 9)
    _, tangent = jvp(lambda x: x.sum() + wf.wasserstein_uniformity(z), (z,), (z,))
    torch.testing.assert_close(tangent, z.sum())


@EVERY
def test_second_derivatives_are_a_clear_error(function: Function) -> None:
    inputs, call = function.inputs(), total(function)
    with pytest.raises(RuntimeError, match="no second derivative"):
        hessian(call)(*inputs)
    with pytest.raises(RuntimeError, match="double backward"):
        jacrev(jacrev(lambda *tensors: call(*tensors).square()))(*inputs)
    with pytest.raises(RuntimeError, match="double backward"):
        grad(lambda t: grad(lambda *ts: call(*ts).square())(t, *inputs[1:]).sum())(inputs[0])


@pytest.fixture
def fresh() -> Iterator[None]:
    """PyTorch remembers for good which functions it has given up on."""
    torch._dynamo.reset()
    yield
    torch._dynamo.reset()


def test_inside_of_a_compiled_function_the_graph_breaks(fresh: None) -> None:
    """torch.compile leaves transformed calls as they are: right, or said so with fullgraph."""
    z = torch.randn(BATCH, 6, 9)

    def each(z: Tensor) -> Tensor:
        return 2 * vmap(grad(wf.wasserstein_uniformity))(z)

    with pytest.raises(Exception, match="graph_break"):
        torch.compile(each, backend="aot_eager", fullgraph=True)(z)
    torch._dynamo.reset()
    compiled = torch.compile(each, backend="aot_eager")
    assert torch.equal(compiled(z), each(z))
    leaf = z.clone().requires_grad_()
    torch.compile(lambda z: vmap(wf.uniformity)(z).sum(), backend="aot_eager")(leaf).backward()
    assert leaf.grad is not None
    torch.testing.assert_close(leaf.grad, vmap(grad(wf.uniformity))(z))
    with pytest.raises(RuntimeError, match=FORWARD):
        torch.compile(lambda z: jvp(wf.rankme, (z,), (z,)), backend="aot_eager")(z[0])
    with forward_ad.dual_level(), pytest.raises(RuntimeError, match=FORWARD):
        torch.compile(wf.alignment, backend="aot_eager")(z, forward_ad.make_dual(z, z))
