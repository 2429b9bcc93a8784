"""Mixed precision: autocast reaches into no operator, a GradScaler's factor comes last, and what
the dtype of the input cannot hold comes out as infinity."""

from functools import partial

import pytest
import torch

import wssl_fast as wf
from tests.test_contract import FUNCTIONS, Function, Inputs, first, rows
from tests.tolerances import PRECISIONS, contract_tolerance

DEVICE = "cuda" if torch.cuda.is_available() else "cpu"
HALVES = (torch.bfloat16, torch.float16)


def module(loss: torch.nn.Module, views: int, like: str) -> Function:
    """A loss module of one or two views; of the reference nothing is asked."""
    name = f"{type(loss).__name__}-{views}"
    given = rows(like, 9, 6)
    return Function(name, loss, given.value, given.grads, ((9, 6),) * views)


W2 = [
    rows("wasserstein_uniformity", n, m, solver=solver)
    for n, m in ((7, 12), (12, 7))
    for solver in ("eigh", "newton_schulz")
]
EVERY_WAY = (
    *FUNCTIONS,
    *(
        Function(
            f"{f.name},precision={precision}",
            partial(f.call, precision=precision),
            f.value,
            f.grads,
            f.shapes,
        )
        for f in W2
        for precision in PRECISIONS
    ),
    module(wf.nn.WassersteinUniformityLoss(0.5), 1, "wasserstein_uniformity"),
    module(wf.nn.WassersteinUniformityLoss(0.5), 2, "wasserstein_uniformity"),
    module(wf.nn.UniformityLoss(weight=0.5), 1, "uniformity"),
    module(wf.nn.UniformityLoss(weight=0.5), 2, "uniformity"),
    module(wf.nn.AlignmentLoss(weight=0.5), 2, "alignment"),
    module(wf.nn.FrechetLoss(0.5), 2, "frechet_distance"),
)
EVERY = pytest.mark.parametrize("function", EVERY_WAY, ids=lambda function: function.name)


def leaves_of(function: Function, dtype: torch.dtype) -> Inputs:
    return tuple(t.to(DEVICE).requires_grad_() for t in function.inputs(dtype))


@EVERY
@pytest.mark.parametrize("half", HALVES, ids=str)
@pytest.mark.parametrize("dtype", ["half", "float32"])
def test_autocast_changes_no_bit(function: Function, half: torch.dtype, dtype: str) -> None:
    """float32 rows, and rows as a projector under autocast makes them; the backward called within
    and, as PyTorch recommends, outside."""
    leaves = leaves_of(function, half if dtype == "half" else torch.float32)
    want = first(function.call(*leaves))
    upstream = torch.randn_like(want)
    grads = torch.autograd.grad(want, leaves, upstream)
    with torch.autocast(DEVICE, dtype=half):
        value = first(function.call(*leaves))
        within = torch.autograd.grad(value, leaves, upstream, retain_graph=True)
    outside = torch.autograd.grad(value, leaves, upstream)
    assert value.dtype == torch.float32
    assert torch.equal(value, want)
    for got in (within, outside):
        for grad, leaf, expected in zip(got, leaves, grads, strict=True):
            assert grad.dtype == leaf.dtype
            assert torch.equal(grad, expected)


@EVERY
@pytest.mark.parametrize("exponent", [16, 40, -40, 120])
def test_a_power_of_two_upstream_is_a_power_of_two_downstream(
    function: Function, exponent: int
) -> None:
    """Rounding does not see a power of two, so the gradient is multiplied by it to the last bit; or
    it is not finite, where float32 ends."""
    leaves = leaves_of(function, torch.float32)
    output = first(function.call(*leaves))
    upstream = torch.randn_like(output)
    plain = torch.autograd.grad(output, leaves, upstream, retain_graph=True)
    scaled = torch.autograd.grad(output, leaves, upstream * 2.0**exponent)
    for grad, once in zip(scaled, plain, strict=True):
        want = once.double() * 2.0**exponent
        if exponent < 120:
            assert want.abs().max() < torch.finfo(torch.float32).max
            assert torch.equal(grad.double(), want)
        else:  # sums on the way may end earlier than their result
            finite = grad.isfinite()
            assert torch.equal(grad[finite].double(), want[finite])


@EVERY
def test_what_float16_cannot_hold_is_infinite(function: Function) -> None:
    """The upstream factor puts half of the entries beyond 65504: those are infinite, as GradScaler
    has to see, and the others are right."""
    leaves = leaves_of(function, torch.float16)
    output = first(function.call(*leaves))
    upstream = torch.randn_like(output)
    wide = tuple(leaf.detach().float().requires_grad_() for leaf in leaves)
    exact = torch.autograd.grad(first(function.call(*wide)), wide, upstream)
    largest = torch.finfo(torch.float16).max
    for index, want in enumerate(exact):
        factor = largest / want[want != 0].abs().median().item()
        grad = torch.autograd.grad(output, leaves, upstream * factor, retain_graph=True)[index]
        want = want.double() * factor
        edge = contract_tolerance(torch.float16) * want.norm()
        beyond = want.abs() > largest + edge
        assert grad[beyond].isinf().all()
        assert torch.equal(grad[beyond].sign().double(), want[beyond].sign())
        below = want.abs() < largest - edge
        assert grad[below].isfinite().all()
        assert (grad[below].double() - want[below]).abs().max() <= edge
