"""What every public function owes its caller: the reference's value and gradient, the dtypes,
strides, batches, degenerate shapes, NaN, registration."""

from collections.abc import Callable
from dataclasses import dataclass, field
from functools import partial
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode

import wssl_fast as wf
from tests.tolerances import contract_tolerance
from wssl_fast import reference as ref
from wssl_fast.backends import native

Inputs = tuple[Tensor, ...]


@dataclass(frozen=True)
class Function:
    """A public function at arguments that lead down one path.

    Attributes:
        name: identifier in test ids.
        call: tensors -> tensor or tuple of tensors, by `wssl_fast`.
        value: the same by the reference.
        grads: (tensors, upstream) -> gradients of <upstream, value>, by the reference; upstream
            has the shape of the first output.
        shapes: of the inputs; `spd` makes (k, k) positive definite.
    """

    name: str
    call: Callable[..., Any]
    value: Callable[..., Any]
    grads: Callable[[Inputs, Tensor], Inputs]
    shapes: tuple[tuple[int, ...], ...]
    spd: bool = field(default=False)

    def inputs(self, dtype: torch.dtype = torch.float32, *batch: int) -> Inputs:
        tensors = []
        for index, shape in enumerate(self.shapes):
            t = torch.randn(*batch, *shape, dtype=torch.float64)
            if self.spd and len(shape) == 2:
                # eigenvalues of 0.3 to 2 survive rounding to bfloat16
                t = 0.1 * (t @ t.mT) / shape[0] ** 0.5 + 0.5 * torch.eye(shape[0])
                t = (t + t.mT) / 2
            tensors.append((t * (1 + 0.5 * index)).to(dtype))
        return tuple(tensors)


def rows(name: str, n: int, m: int, **keywords: Any) -> Function:
    """A function of one batch of rows whose reference has a `_grad` twin."""
    function, value = getattr(wf, name), getattr(ref, name)
    gradient = getattr(ref, name + "_grad")
    truth = {k: v for k, v in keywords.items() if k != "solver"}

    def grads(inputs: Inputs, upstream: Tensor) -> Inputs:
        grad = gradient(*inputs, **truth)
        grads = grad if isinstance(grad, tuple) else (grad,)
        return tuple(upstream.double()[..., None, None] * g for g in grads)

    count = 2 if name in ("alignment", "frechet_distance") else 1
    options = ",".join(f"{k}={v}" for k, v in keywords.items())
    return Function(
        f"{name}-{n}x{m}" + (f"-{options}" if options else ""),
        partial(function, **keywords),
        partial(value, **truth),
        grads,
        ((n, m),) * count,
    )


def spectrum_grads(inputs: Inputs, upstream: Tensor) -> Inputs:
    return (ref.covariance_spectrum_grad(*inputs, upstream),)


def covariance_grads(inputs: Inputs, upstream: Tensor) -> Inputs:
    leaf = inputs[0].double().requires_grad_()
    return torch.autograd.grad(ref.batch_covariance(leaf)[0], leaf, upstream.double())


def moments_grads(inputs: Inputs, upstream: Tensor) -> Inputs:
    grads = ref.gaussian_w2_grad(*inputs)[: len(inputs)]
    up = upstream.double()
    return tuple(
        up[..., None] * g if len(s) == 1 else up[..., None, None] * g
        for g, s in zip(grads, ((6,), (6, 6), (6,), (6, 6)), strict=False)
    )


FUNCTIONS = (
    rows("wasserstein_uniformity", 7, 12),
    rows("wasserstein_uniformity", 12, 7),
    rows("wasserstein_uniformity", 7, 12, normalize=False, squared=True),
    rows("wasserstein_uniformity", 12, 7, normalize=False, eps=0.01),
    rows("wasserstein_uniformity", 7, 12, solver="newton_schulz"),
    rows("wasserstein_uniformity", 12, 7, solver="newton_schulz"),
    rows("uniformity", 9, 6),
    rows("uniformity", 9, 6, normalize=False, t=0.5),
    rows("alignment", 8, 5),
    rows("alignment", 8, 5, normalize=False, alpha=3.0),
    rows("frechet_distance", 7, 12),
    rows("frechet_distance", 12, 7, squared=False),
    rows("frechet_distance", 7, 12, eps=0.1),
    rows("effective_rank", 7, 12),
    rows("effective_rank", 12, 7),
    rows("rankme", 7, 12),
    rows("rankme", 12, 7),
    Function(
        "covariance_spectrum",
        wf.covariance_spectrum,
        ref.covariance_spectrum,
        spectrum_grads,
        ((12, 7),),
    ),
    Function(
        "batch_covariance", wf.batch_covariance, ref.batch_covariance, covariance_grads, ((9, 5),)
    ),
    Function(
        "matrix_sqrt",
        wf.matrix_sqrt,
        ref.matrix_sqrt,
        lambda inputs, upstream: (ref.matrix_sqrt_grad(*inputs, upstream),),
        ((6, 6),),
        spd=True,
    ),
    Function(
        "matrix_inv_sqrt",
        wf.matrix_inv_sqrt,
        ref.matrix_inv_sqrt,
        lambda inputs, upstream: (ref.matrix_inv_sqrt_grad(*inputs, upstream),),
        ((6, 6),),
        spd=True,
    ),
    Function("gaussian_w2", wf.gaussian_w2, ref.gaussian_w2, moments_grads, ((6,), (6, 6)), True),
    Function(
        "gaussian_w2-two",
        wf.gaussian_w2,
        ref.gaussian_w2,
        moments_grads,
        ((6,), (6, 6), (6,), (6, 6)),
        spd=True,
    ),
)

ROWS = [f for f in FUNCTIONS if all(len(s) == 2 for s in f.shapes) and not f.spd]
EVERY = pytest.mark.parametrize("function", FUNCTIONS, ids=lambda function: function.name)
DTYPES = (torch.float64, torch.float32, torch.float16, torch.bfloat16)


def first(output: Any) -> Tensor:
    return output[0] if isinstance(output, tuple) else output


def run(function: Function, inputs: Inputs) -> tuple[Tensor, Tensor, Inputs]:
    """The first output, an upstream gradient, and the gradients."""
    leaves = tuple(t.detach().requires_grad_() for t in inputs)
    output = first(function.call(*leaves))
    upstream = torch.randn(output.shape, dtype=torch.float64).to(output.dtype)
    return output.detach(), upstream, torch.autograd.grad(output, leaves, upstream)


def assert_near(got: Tensor, want: Tensor, tolerance: float, what: str) -> None:
    gap = (got.double() - want).norm().item()
    assert gap <= tolerance * max(want.norm().item(), 1e-3), f"{what}: {gap:.1e}"


@pytest.fixture(params=["compiled", "plain"])
def backend(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    """With the compiled module and without it."""
    if request.param == "plain":
        monkeypatch.setattr(native, "_module", None)
    elif not native.available():
        pytest.skip("the compiled module is not built")


@EVERY
@pytest.mark.parametrize("dtype", DTYPES, ids=str)
def test_value_and_gradient(
    function: Function, dtype: torch.dtype, backend: None, poisoned: None
) -> None:
    inputs = function.inputs(dtype)
    before = [t.clone() for t in inputs]
    value, upstream, grads = run(function, inputs)
    assert value.dtype == (torch.float64 if dtype == torch.float64 else torch.float32)
    want = first(function.value(*inputs))
    assert value.shape == want.shape
    assert_near(value, want, contract_tolerance(value.dtype), "value")
    wants = function.grads(inputs, upstream)
    for t, got, expected, old in zip(inputs, grads, wants, before, strict=True):
        assert got.dtype == dtype
        assert got.shape == t.shape
        assert_near(got, expected, contract_tolerance(dtype), "gradient")
        assert torch.equal(t, old), "input was changed"


@EVERY
def test_batches_are_independent_problems(function: Function) -> None:
    inputs = function.inputs(torch.float32, 2, 3)
    value, upstream, grads = run(function, inputs)
    for i, j in ((0, 0), (1, 2)):
        one = tuple(t[i, j] for t in inputs)
        torch.testing.assert_close(value[i, j], first(function.call(*one)))
        leaves = tuple(t.clone().requires_grad_() for t in one)
        alone = torch.autograd.grad(first(function.call(*leaves)), leaves, upstream[i, j])
        for got, want in zip(grads, alone, strict=True):
            torch.testing.assert_close(got[i, j], want)


@EVERY
def test_no_problem_at_all(function: Function) -> None:
    inputs = function.inputs(torch.float32, 0, 3)
    leaves = tuple(t.requires_grad_() for t in inputs)
    output = first(function.call(*leaves))
    want = first(function.call(*function.inputs()))
    assert output.shape == (0, 3, *want.shape)
    for leaf, grad in zip(leaves, torch.autograd.grad(output.sum(), leaves), strict=True):
        assert grad.shape == leaf.shape


@EVERY
def test_strides_do_not_matter(function: Function) -> None:
    inputs = function.inputs()
    value, _, _ = run(function, inputs)
    layouts: dict[str, Callable[[Tensor], Tensor]] = {
        "transposed": lambda t: t.mT.contiguous().mT if t.ndim > 1 else t,
        "every other column": lambda t: t.repeat_interleave(2, dim=-1)[..., ::2],
        "a window": lambda t: torch.nn.functional.pad(t, (1, 2))[..., 1:-2],
    }
    for name, layout in layouts.items():
        strided = tuple(layout(t) for t in inputs)
        torch.manual_seed(1)
        got, upstream, grads = run(function, strided)
        torch.testing.assert_close(got, value, msg=name)
        wants = function.grads(inputs, upstream)
        for grad, want in zip(grads, wants, strict=True):
            assert_near(grad, want, contract_tolerance(torch.float32), name)


@EVERY
@pytest.mark.parametrize("dtype", [torch.float64, torch.float32], ids=str)
@pytest.mark.parametrize("batch", [(), (1,), (2,)], ids=str)
def test_the_value_may_be_changed_in_place(
    function: Function, dtype: torch.dtype, batch: tuple[int, ...]
) -> None:
    """As in `loss += other`: an operator does not need its output for the backward, and gives no
    view of another one."""
    inputs = function.inputs(dtype, *batch)
    _, upstream, want = run(function, inputs)
    leaves = tuple(t.detach().requires_grad_() for t in inputs)
    output = first(function.call(*leaves))
    output += 1
    output *= 2
    got = torch.autograd.grad(output, leaves, upstream / 2)
    assert all(torch.equal(g, w) for g, w in zip(got, want, strict=True))


@EVERY
@pytest.mark.parametrize("bad", [float("nan"), float("inf")])
def test_nan_stays_in_its_own_problem(function: Function, bad: float) -> None:
    inputs = function.inputs(torch.float32, 2)
    for spoiled in range(len(inputs)):
        leaves = [t.clone() for t in inputs]
        leaves[spoiled][1].view(-1)[1] = bad
        leaves = [t.requires_grad_() for t in leaves]
        output = first(function.call(*leaves))
        if not function.name.startswith("batch_covariance"):  # each entry is a result of its own
            assert output[1].isnan().all()
        assert output[0].isfinite().all()
        grads = torch.autograd.grad(output.sum(), leaves)
        if function.name.startswith("batch_covariance"):
            continue  # the gradient of a mean does not see the rows
        for grad in grads:
            assert grad[0].isfinite().all()
            assert grad[1].isnan().all()


BATCHES = {
    "one row": torch.randn(1, 5),
    "one column": torch.randn(5, 1),
    "one number": torch.randn(1, 1),
    "two rows": torch.randn(2, 6),
    "zeros": torch.zeros(4, 3),
    "constant": torch.full((6, 4), 0.3),
    "constant, n < m": torch.full((4, 6), 0.3),
    "duplicates": torch.randn(3, 7).repeat(2, 1),
    "a zero row": torch.cat([torch.randn(4, 6), torch.zeros(1, 6)]),
    "dead features": torch.randn(8, 5) * torch.tensor([1.0, 0, 1, 0, 0]),
}


@pytest.mark.parametrize("name", BATCHES)
@pytest.mark.parametrize("function", ROWS, ids=lambda function: function.name)
def test_degenerate_batches(function: Function, name: str) -> None:
    z = BATCHES[name]
    if function.name.startswith("uniformity") and z.shape[0] < 2:
        with pytest.raises(ValueError, match=r"z .*\(1, "):
            function.call(z)
        return
    inputs = (z, z.roll(1, dims=1) * 2)[: len(function.shapes)]
    leaves = tuple(t.clone().requires_grad_() for t in inputs)
    output = first(function.call(*leaves))
    want = first(function.value(*inputs))
    torch.testing.assert_close(output.detach().double(), want, rtol=2e-5, atol=2e-5)
    for grad in torch.autograd.grad(output.sum(), leaves):
        assert grad.isfinite().all()


# registration


@EVERY
def test_gradcheck(function: Function) -> None:
    inputs = tuple(t.requires_grad_() for t in function.inputs(torch.float64))
    symmetric = function.spd

    def call(*tensors: Tensor) -> Any:
        # off-diagonal entries of a symmetric argument move together
        sym = (((t + t.mT) / 2) if symmetric and t.ndim == 2 else t for t in tensors)
        return function.call(*sym)

    assert torch.autograd.gradcheck(call, inputs, atol=1e-6, rtol=1e-4)


class Recorder(TorchDispatchMode):
    """Calls of this package's operators, with their arguments."""

    def __init__(self) -> None:
        super().__init__()
        self.calls: dict[str, tuple[Any, tuple[Any, ...]]] = {}

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):  # type: ignore[no-untyped-def]
        if getattr(func, "namespace", "") == "wssl_fast":
            self.calls[str(func)] = (func, args)
        return func(*args, **(kwargs or {}))


@EVERY
def test_opcheck(function: Function) -> None:
    leaves = tuple(t.requires_grad_() for t in function.inputs())
    recorder = Recorder()
    with recorder:
        first(function.call(*leaves)).sum().backward()
    assert len(recorder.calls) >= 2, "an operator, and its backward"
    for name, (operator, args) in recorder.calls.items():
        copies = tuple(a.detach().clone() if isinstance(a, Tensor) else a for a in args)
        if "backward" not in name:
            copies = tuple(
                a.requires_grad_() if isinstance(a, Tensor) and a.is_floating_point() else a
                for a in copies
            )
        torch.library.opcheck(operator, copies)


@EVERY
def test_double_backward_is_a_clear_error(function: Function) -> None:
    leaves = tuple(t.requires_grad_() for t in function.inputs())
    output = first(function.call(*leaves))
    (grad, *_) = torch.autograd.grad(output.square().sum(), leaves, create_graph=True)
    with pytest.raises(RuntimeError, match="double backward"):
        grad.square().sum().backward()


@EVERY
def test_autocast_and_global_precision_do_not_leak_in(function: Function) -> None:
    inputs = function.inputs()
    want = first(function.call(*inputs))
    with torch.autocast("cpu", dtype=torch.bfloat16):
        got = first(function.call(*inputs))
    torch.testing.assert_close(got, want)


def test_gradient_of_one_argument_alone() -> None:
    for name in ("alignment", "frechet_distance"):
        x, y = torch.randn(6, 4), torch.randn(6, 4)
        both = getattr(ref, name + "_grad")(x, y)
        for index in range(2):
            leaves = [x, y]
            leaves[index] = leaves[index].clone().requires_grad_()
            (grad,) = torch.autograd.grad(getattr(wf, name)(*leaves), leaves[index])
            assert_near(grad, both[index], contract_tolerance(torch.float32), name)
