"""W2 by the Triton kernels: the spectra zoo, both formulations, every precision, and what a launch
may and may not do. On a CPU the kernels run in Triton's interpreter; on a CUDA machine for real."""

import math
import weakref
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, nullcontext

import pytest
import torch
from torch import Tensor

import wssl_fast as wf
from tests import kernels
from tests.kernels import DEVICE, w2
from tests.tolerances import (
    contract_tolerance,
    gradient_error,
    gradient_tolerance,
    resolution,
    value_tolerance,
)
from tests.zoo import BY_NAME, COLLAPSED, RAW_SCALE, SHAPES, ZOO, Case
from wssl_fast import reference
from wssl_fast.backends import choice
from wssl_fast.backends.triton import dispatch, launch, workspace
from wssl_fast.backends.triton import w2 as w2_kernels
from wssl_fast.backends.triton.launch import recorded

CASES = pytest.mark.parametrize("case", ZOO, ids=lambda case: case.name)
SMALL_TILES = dispatch.Tile(16, 16, 4, 1)


@pytest.fixture(autouse=True)
def _by_triton() -> Iterator[None]:
    with choice.use("triton"):
        yield


@contextmanager
def on_the_grid() -> Iterator[None]:
    """newton_schulz.py at any k: the zoo's are small enough for newton_schulz_small.py."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(w2_kernels, "fits", lambda k, product, target: False)
        yield


def check(z: Tensor, precision: str, *, normalize: bool = True) -> None:
    grid = precision in ("highest", "double")  # so that both kernels see all of the zoo
    with on_the_grid() if grid else nullcontext():
        kernels.check(z, precision, normalize=normalize)


@CASES
@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("precision", ["auto", "highest"])
def test_zoo(case: Case, shape: str, precision: str) -> None:
    check(case(*SHAPES[shape]), precision)


@CASES
@pytest.mark.parametrize("shape", ["n<m", "n>m"])
@pytest.mark.parametrize("precision", ["double", "high", "medium"])
def test_zoo_at_other_precisions(case: Case, shape: str, precision: str) -> None:
    check(case(*SHAPES[shape]), precision)


@pytest.mark.parametrize("case", [c for c in ZOO if c.name not in RAW_SCALE], ids=lambda c: c.name)
@pytest.mark.parametrize("shape", ["n<m", "n>m"])
def test_zoo_of_raw_rows(case: Case, shape: str) -> None:
    check(case(*SHAPES[shape]), "auto", normalize=False)


@CASES
@pytest.mark.parametrize("shape", ["n<m", "n>m"])
def test_zoo_of_float64_rows(case: Case, shape: str) -> None:
    z = case(*SHAPES[shape], dtype=torch.float64)
    value, grad = w2(z)
    assert value.dtype == grad.dtype == torch.float64
    check(z, "auto")


@CASES
@pytest.mark.parametrize(
    ("dtype", "shape"), [(torch.float16, "n<m"), (torch.bfloat16, "n<m"), (torch.bfloat16, "n>m")]
)
def test_zoo_of_half_precision_rows(case: Case, dtype: torch.dtype, shape: str) -> None:
    if case.name in RAW_SCALE and dtype == torch.float16:
        pytest.skip("norms of 1e-20 and 1e15 do not exist in float16")
    z = case(*SHAPES[shape], dtype=dtype)
    value, grad = w2(z)
    assert (value.dtype, grad.dtype) == (torch.float32, dtype)
    want = reference.wasserstein_uniformity(z).item()
    assert abs(value.item() - want) <= value_tolerance("auto")
    if dtype == torch.float16:
        # entries of the gradient under 6e-5 are subnormal in float16: compare before the cast
        grad = w2(z.float())[1]
    error = gradient_error(grad, z, above=resolution("auto"))
    assert error <= gradient_tolerance("auto", dtype)


@pytest.mark.parametrize("case", COLLAPSED, ids=lambda case: case.name)
@pytest.mark.parametrize("precision", ["auto", "highest"])
@pytest.mark.parametrize(("n", "m"), [(48, 80), (6, 4), (2, 5)])
def test_collapsed_batches(case: Case, precision: str, n: int, m: int) -> None:
    z = case(n, m)
    value, grad = w2(z, precision=precision)
    want = 1.0 if case.name == "zeros" else math.sqrt(2)
    assert abs(value.item() - want) <= value_tolerance(precision)
    pushed = (grad.double() * z.double().norm(dim=1, keepdim=True)).norm().item()
    pushed *= n * math.sqrt(m) / 2
    assert pushed <= 1.5 * math.sqrt(n * min(n, m))
    if case.name != "parallel" and precision != "highest":
        assert pushed <= 1e-2 * math.sqrt(n)


@pytest.mark.parametrize("grid", [False, True])
@pytest.mark.parametrize(("n", "m"), [(40, 60), (60, 40)])
def test_raw_rows_far_from_their_target(n: int, m: int, grid: bool) -> None:
    with on_the_grid() if grid else nullcontext():
        kernels.far_from_its_target(n, m)


@pytest.mark.parametrize(
    ("dtype", "grid"), [(torch.float32, False), (torch.float64, False), (torch.float64, True)]
)
@pytest.mark.parametrize("normalize", [True, False])
@pytest.mark.parametrize("spread", [1e-8, 1e-6, 1e-5, 1e-4, 1e-3, 1e-2])
@pytest.mark.parametrize(("n", "m"), [(12, 20), (3, 5)])
def test_near_collapse(
    n: int, m: int, spread: float, dtype: torch.dtype, normalize: bool, grid: bool
) -> None:
    if spread < 1e-6 and dtype == torch.float32:
        pytest.skip("under the rounding of the rows: test_collapsed_batches")
    direction = torch.randn(3, 1, m, dtype=torch.float64)
    batch = (direction + spread * torch.randn(3, n, m, dtype=torch.float64)).to(dtype)
    with on_the_grid() if grid else nullcontext():
        values, grads = w2(batch, normalize=normalize)
    # A Gram of rows with their mean knows eigenvalues to 10 units of rounding of |mu|^2. Those of
    # a covariance of spread^2 are worth a gradient where they are 1e4 times that
    worth = spread**2 > 1e5 * torch.finfo(torch.float64).eps
    for z, value, grad in zip(batch, values, grads, strict=True):
        want = reference.wasserstein_uniformity(z, normalize=normalize).item()
        assert abs(value.item() - want) <= kernels.allowed(z, "auto") * max(1.0, want)
        assert grad.isfinite().all()
        if worth:
            error = gradient_error(grad, z, normalize=normalize, above=resolution("auto", dtype))
            assert error <= gradient_tolerance("auto", dtype, solver="newton_schulz")


@pytest.mark.parametrize("precision", ["auto", "double", "highest"])
@pytest.mark.parametrize(("n", "m"), [(221, 3), (265, 5), (100, 40)])
def test_neural_collapse(precision: str, n: int, m: int) -> None:
    z = BY_NAME["one_hot"](n, m)
    value, grad = w2(z, precision=precision)
    want = reference.wasserstein_uniformity(z).item()
    bound = value_tolerance(precision)
    if precision == "highest":
        # as in test_zoo.test_neural_collapse: clones round alike, by up to 10 eps |S|_F
        noise = 10 * torch.finfo(z.dtype).eps * math.sqrt(m - 1) / m
        bound += 1.5 * math.sqrt(noise) / (math.sqrt(m) * want)
    assert abs(value.item() - want) <= bound
    error = gradient_error(grad, z, null=precision != "highest")
    assert error <= gradient_tolerance(precision, solver="newton_schulz")


@pytest.mark.parametrize("case", ["gaussian", "noise_1e-4"])
@pytest.mark.parametrize(("n", "m"), [(37, 129), (65, 40)])
def test_many_tiles_are_one_tile(case: str, n: int, m: int) -> None:
    # parts, lower tiles, mirror images and padding: k = 37 and 40 in tiles of 16
    z = BY_NAME[case](n, m)
    whole, whole_grad = w2(z)
    with on_the_grid(), ExitStack() as tiles:
        for kernel in ("gram", "covariance", "newton_schulz"):
            tiles.enter_context(dispatch.override(kernel, SMALL_TILES))
        value, grad = w2(z)
    assert abs(value - whole) <= value_tolerance("auto")
    assert gradient_error(grad, z, above=resolution("auto")) <= gradient_tolerance("auto")
    assert (grad - whole_grad).norm() <= 2 * gradient_tolerance("auto") * whole_grad.norm()


@pytest.mark.skipif(torch.cuda.is_available(), reason="an architecture is not assumed, but there")
@pytest.mark.parametrize("name", ["sm_80", "sm_90", "sm_100"])
@pytest.mark.parametrize("phases", [False, True], ids=["one launch", "a launch a phase"])
@pytest.mark.parametrize(("n", "m"), [(20, 37), (37, 20)])
def test_the_tiles_of_an_architecture(
    name: str, phases: bool, n: int, m: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    # k = 20 in tiles of 32, and in blocks of 64 that reach beyond a row of 32
    monkeypatch.setattr(w2_kernels, "persistent", lambda k, target: not phases)
    z = BY_NAME["gaussian"](n, m)
    operator = torch.ops.wssl_fast.w2_gram if n < m else torch.ops.wssl_fast.w2_covariance
    with on_the_grid(), dispatch.assume(dispatch.Target(name, 1)):
        kernels.check(z, "highest")
        kernels.check(z, "double")
        deep = operator(z[None], True, False, 0.0, "auto", "highest", False, "triton")[4]
    assert not deep.any()  # float64 has no root of float32's to put right


def test_a_row_of_a_slot_is_whole_tiles_and_blocks() -> None:
    for sizes, want in (((16, 32, 64), 64), ((64, 32, 16), 64), ((16, 64, 32), 64)):
        rows, size, block = sizes
        work = workspace.allocate(
            1, 20, splits=1, wide=False, device=torch.device("meta"),
            product_tile=dispatch.Tile(rows, 256, 4, 1), tile=dispatch.Tile(size, block, 4, 1),
        )  # fmt: skip
        assert work.kp == want


@pytest.mark.parametrize("covariance", [False, True])
def test_a_launch_a_phase_gives_the_same_bits(
    covariance: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    z = torch.randn(40, 24) if covariance else torch.randn(24, 40)
    with on_the_grid(), ExitStack() as tiles:
        for kernel in ("newton_schulz", "newton_schulz_phases"):
            tiles.enter_context(dispatch.override(kernel, SMALL_TILES))
        together = w2(z)
        monkeypatch.setattr(w2_kernels, "persistent", lambda k, target: False)
        for one, other in zip(together, w2(z), strict=True):
            assert torch.equal(one, other)


@pytest.mark.parametrize("covariance", [False, True])
@pytest.mark.parametrize(
    ("dtype", "precision", "forward", "backward"),
    [
        (torch.bfloat16, "auto", 4, 2),
        (torch.float32, "highest", 4, 2),
        (torch.float32, "double", 2, 2),
        (torch.float64, "auto", 2, 1),
    ],
)
def test_launches(
    dtype: torch.dtype, precision: str, forward: int, backward: int, covariance: bool
) -> None:
    z = (torch.randn(24, 12) if covariance else torch.randn(12, 24)).to(DEVICE, dtype)
    z.requires_grad_()
    with recorded() as launches:
        value = wf.wasserstein_uniformity(z, precision=precision)
    names = [one.kernel.__name__ for one in launches]
    statistics = sum(name in ("rows_kernel", "columns_kernel", "parts_kernel") for name in names)
    assert len(names) - statistics == forward
    # the sums of so few rows are one part: no third launch adds parts up
    assert statistics == (2 if covariance or dtype == torch.float64 else 0)
    with recorded() as launches:
        value.backward()
    assert len(launches) == backward


@pytest.mark.parametrize("covariance", [False, True])
def test_a_pass_gives_its_memory_back_before_the_next(
    covariance: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    made: list[weakref.ref[Tensor]] = []
    alive = []

    def allocate(*arguments: object, **keywords: object) -> workspace.Workspace:
        alive.append(sum(one() is not None for one in made))
        found = original(*arguments, **keywords)
        made.append(weakref.ref(found.slots))
        return found

    original = workspace.allocate
    monkeypatch.setattr(workspace, "allocate", allocate)
    w2(torch.randn(24, 12) if covariance else torch.randn(12, 24))
    assert alive == [0, 0]


def test_the_device_decides_problem_by_problem() -> None:
    z = torch.stack([BY_NAME[name](24, 40) for name in ("gaussian", "noise_1e-4", "tiny_norms")])
    leaf = z.to(DEVICE).requires_grad_()
    operator = torch.ops.wssl_fast.w2_gram.default
    for precision, want in (("auto", [False, True, True]), ("highest", [False, False, True])):
        deep = operator(leaf, True, True, 0.0, "auto", precision, True, "triton")[4]
        assert deep.tolist() == want, precision
    value, grad = w2(z)
    for i, one in enumerate(z):
        alone, alone_grad = w2(one)
        assert torch.equal(value[i], alone)
        assert torch.equal(grad[i], alone_grad)


@pytest.mark.parametrize("shape", [(1, 1), (1, 7), (7, 1), (2, 2), (3, 2), (17, 5), (5, 17)])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("normalize", [True, False])
def test_smallest_shapes(shape: tuple[int, int], dtype: torch.dtype, normalize: bool) -> None:
    check(torch.randn(shape, dtype=dtype), "auto", normalize=normalize)


@pytest.mark.parametrize("shape", [(3, 5), (5, 3)])
def test_more_problems_than_a_grid_holds(
    shape: tuple[int, int], monkeypatch: pytest.MonkeyPatch
) -> None:
    z = torch.randn(5, *shape)
    whole = w2(z)
    monkeypatch.setattr(launch, "PROBLEMS", 2)
    for one, other in zip(whole, w2(z), strict=True):
        assert torch.equal(one, other)
    monkeypatch.undo()
    z = torch.empty(70_000, *shape, device="meta")
    covariance = shape[0] > shape[1]
    with dispatch.assume(dispatch.Target("sm_90", 132)), recorded(run=False) as launches:
        value, *kept = w2_kernels.forward(z, True, True, 0.0, "auto", True, covariance)
        grad = w2_kernels.backward(value, value, z, *kept, True, True, covariance)
    assert (value.shape, grad.shape) == (z.shape[:1], z.shape)
    assert max(max((*one.grid, 1, 1)[1:]) for one in launches) < 2**16


@pytest.mark.parametrize("shape", [(9, 14), (14, 9)])
def test_strides(shape: tuple[int, int]) -> None:
    n, m = shape
    base = torch.randn(2 * n, 3 * m)
    views = {
        "rows skipped": base[::2, :m],
        "columns skipped": base[:n, ::3],
        "transposed": torch.randn(m, n).T,
        "an expanded batch": torch.randn(n, m).expand(2, n, m),
        "a batch of slices": torch.randn(n, 2, m).transpose(0, 1),
    }
    for name, view in views.items():
        value, grad = w2(view)
        same, same_grad = w2(view.contiguous())
        assert torch.equal(value, same), name
        assert torch.equal(grad, same_grad), name


@pytest.mark.parametrize("bad", [math.nan, math.inf])
@pytest.mark.parametrize("shape", [(6, 10), (10, 6)])
@pytest.mark.parametrize("normalize", [True, False])
def test_nan_stays_in_its_problem(bad: float, shape: tuple[int, int], normalize: bool) -> None:
    kernels.nan_stays_in_its_problem(bad, shape, normalize)


@pytest.mark.parametrize("shape", [(9, 14), (14, 9)])
@pytest.mark.usefixtures("poisoned")
def test_no_output_is_left_unwritten_and_nothing_differs_twice(shape: tuple[int, int]) -> None:
    kernels.nothing_is_unwritten_or_differs_twice(shape)


@pytest.mark.parametrize("shape", [(9, 14), (14, 9)])
@pytest.mark.parametrize("eps", [1e-4, 0.3])
def test_a_ridge(shape: tuple[int, int], eps: float) -> None:
    z = torch.randn(shape)
    value, grad = w2(z, eps=eps)
    want = reference.wasserstein_uniformity(z, eps=eps)
    want_grad = reference.wasserstein_uniformity_grad(z, squared=True, eps=eps)
    assert abs(value - want) <= contract_tolerance(z.dtype)
    assert (grad - want_grad).norm() <= contract_tolerance(z.dtype) * want_grad.norm()


def test_unsquared_and_upstream() -> None:
    z = torch.randn(8, 12)
    leaf = z.to(DEVICE).requires_grad_()
    value = wf.wasserstein_uniformity(leaf)
    (grad,) = torch.autograd.grad(value, leaf, torch.tensor(3.0, device=DEVICE))
    want = 3 * reference.wasserstein_uniformity_grad(z, squared=False)
    assert (grad.cpu() - want).norm() <= contract_tolerance(z.dtype) * want.norm()


def test_without_a_gradient_no_weights_are_made() -> None:
    z = torch.randn(2, 8, 12, device=DEVICE)
    outputs = torch.ops.wssl_fast.w2_gram(z, True, False, 0.0, "auto", "auto", False, "triton")
    assert outputs[1].shape == (2, 0, 0)
    want = reference.wasserstein_uniformity(z)
    torch.testing.assert_close(outputs[0].double().cpu(), want.cpu(), atol=1e-5, rtol=0)


@pytest.mark.parametrize("name", ["w2_gram", "w2_covariance"])
def test_opcheck(name: str) -> None:
    z = (torch.randn(2, 6, 9) if name == "w2_gram" else torch.randn(2, 9, 6)).to(DEVICE)
    arguments = (z.requires_grad_(), True, False, 0.0, "auto", "auto", True, "triton")
    torch.library.opcheck(getattr(torch.ops.wssl_fast, name).default, arguments)


@pytest.mark.skipif(not torch.cuda.is_available(), reason="CUDA graphs need a CUDA device")
@pytest.mark.parametrize("shape", [(512, 2048), (2048, 512)])
def test_cuda_graph(shape: tuple[int, int]) -> None:
    kernels.a_graph_replays(shape)
