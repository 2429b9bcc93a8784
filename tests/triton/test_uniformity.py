"""L_U in Triton, value and gradient, against the float64 reference on the numbers given."""

import pytest
import torch
from torch import Tensor

from tests.kernels import DEVICE, placed
from tests.tolerances import contract_tolerance
from tests.triton.test_statistics import DTYPES, LAYOUTS
from tests.zoo import BY_NAME, RAW_SCALE, ZOO, Case
from wssl_fast import reference
from wssl_fast.backends.triton import dispatch, launch, uniformity_rows
from wssl_fast.backends.triton import uniformity as kernels
from wssl_fast.backends.triton.dispatch import Tile

OPERATOR = torch.ops.wssl_fast.uniformity
SMALL = Tile(16, 16, 4, 1)


@pytest.fixture
def small(monkeypatch: pytest.MonkeyPatch):  # type: ignore[no-untyped-def]
    """Tiles of 16, blocks of e of 32 rows: every loop runs more than once."""
    monkeypatch.setattr(kernels, "EDGE", 32)
    with (
        dispatch.override("uniformity_pairs", SMALL),
        dispatch.override("uniformity_moments", SMALL),
    ):
        yield


def run(z: Tensor, t: float, normalize: bool, with_grad: bool = True) -> Tensor:
    return OPERATOR(z, t, normalize, with_grad, "triton")[0]  # type: ignore[no-any-return]


def bounds(z: Tensor, t: float, normalize: bool) -> tuple[Tensor, Tensor]:
    """What the value (), and each row of the gradient (n,), of z (n, m) may be off by.

    Planes of rows and of e keep 22 bits, sums of float32 lose two of 24: the unit is 2^-22
    (float64: 2^-50). q_i + q_j - 2 <x_i, x_j> then has an error of two units of q_i + q_j, which
    the slope t carries to the exponent and so to e_ij, relatively; e itself adds two units; a share
    of the sum is at most 1 whatever the error. The value answers to the pairs that make up the sum.
    V_i - s_i x_i, and V_i less its radial part, are differences of terms that add up to
    p_ij (|x_i| + |x_j|). Two planes of float16 end at 2^-36 of the largest e x of a tile: rows with
    a share of the sum below 2^-14 of that lose digits.
    """
    wide = z.dtype == torch.float64
    unit = 2.0**-50 if wide else 2.0**-22
    z = z.double()
    largest = z.abs().amax(-1, keepdim=True).clamp_min(1e-300)
    length = largest[:, 0] * (z / largest).norm(dim=-1)
    inverse = torch.where(length > 0, 1 / length.clamp_min(1e-300), 0.0)
    x = z * inverse[:, None] if normalize else z - z.mean(0)
    norm = x.norm(dim=-1)
    square = norm[:, None] ** 2 + norm**2
    log = -t * torch.cdist(x, x, compute_mode="donot_use_mm_for_euclid_dist") ** 2
    log.fill_diagonal_(-torch.inf)
    p = torch.softmax(log.flatten(), 0).view_as(log)  # over ordered pairs: half of each
    error = unit * (2 + 2 * t * square)
    value = torch.logsumexp((p.log() + error).flatten(), 0)
    error = torch.expm1(error.clamp_max(50))
    spread = 4 * t * ((p * (error + 2 * unit)).clamp_max(1) * (norm[:, None] + norm)).sum(1)
    if not wide:
        spread += 4 * t * len(z) * 2.0**-36 * p.max() * norm.max()
    return value, spread * inverse if normalize else spread


def check(z: Tensor, t: float = 2.0, normalize: bool = True) -> None:
    """Value and gradient of z (b, n, m)."""
    z = placed(z)
    leaf = z.detach().requires_grad_()
    upstream = torch.linspace(-1.5, 2.0, len(z), dtype=torch.float64).to(DEVICE)
    values = run(leaf, t, normalize)
    (values.double() * upstream).sum().backward()
    without = run(z, t, normalize, with_grad=False)
    assert leaf.grad is not None
    assert leaf.grad.dtype == z.dtype
    # the same sums, but for launches that order blocks differently
    torch.testing.assert_close(without, values, rtol=1e-6, atol=1e-6)
    wide = z.dtype == torch.float64
    # a whole unit: Triton's interpreter truncates to bfloat16
    rounding = torch.finfo(z.dtype).eps if z.dtype.itemsize < 4 else 0.0
    eps = torch.finfo(values.dtype).eps
    for b in range(len(z)):
        x = z[b].detach().cpu()
        value, rows = bounds(x, t, normalize)
        want = reference.uniformity(x, t=t, normalize=normalize)
        got = values[b].double().cpu()
        assert abs(got - want) <= 4 * value + 4 * eps * (1 + abs(want)), (got, want)
        truth = reference.uniformity_grad(x, t=t, normalize=normalize) * upstream[b].cpu()
        error = (leaf.grad[b].double().cpu() - truth).norm(dim=-1)
        tiny = torch.finfo(z.dtype).tiny * x.shape[1] ** 0.5  # what the dtype flushes
        scale = abs(upstream[b].cpu())
        limit = 4 * scale * rows + (rounding + (1e-14 if wide else 2.0**-23)) * truth.norm(dim=-1)
        assert (error <= limit + tiny).all(), (error / (limit + tiny)).max()


def randn(*shape: int, dtype: torch.dtype = torch.float32) -> Tensor:
    return torch.randn(*shape, dtype=torch.float64).to(dtype)


@pytest.mark.usefixtures("poisoned")
@pytest.mark.parametrize("normalize", [True, False])
@pytest.mark.parametrize("case", ZOO, ids=lambda case: case.name)
def test_zoo(case: Case, normalize: bool) -> None:
    if normalize or case.name not in RAW_SCALE:
        check(case(37, 65)[None], normalize=normalize)


@pytest.mark.usefixtures("poisoned", "small")
@pytest.mark.parametrize("normalize", [True, False])
@pytest.mark.parametrize("layout", LAYOUTS)
def test_layouts(layout: str, normalize: bool) -> None:
    check(LAYOUTS[layout](randn(2, 19, 20).mul(0.3)), normalize=normalize)


@pytest.mark.usefixtures("poisoned", "small")
@pytest.mark.parametrize("normalize", [True, False])
@pytest.mark.parametrize("dtype", DTYPES)
def test_dtypes(dtype: torch.dtype, normalize: bool) -> None:
    check(LAYOUTS["sliced"](randn(2, 35, 20).mul(0.3).to(dtype)), normalize=normalize)


@pytest.mark.usefixtures("poisoned", "small")
@pytest.mark.parametrize("normalize", [True, False])
@pytest.mark.parametrize("shape", [(2, 1), (2, 40), (3, 3), (16, 16), (17, 33), (32, 5), (65, 20)])
def test_tiles_and_blocks(shape: tuple[int, int], normalize: bool) -> None:
    # 65 rows: 5 tiles in 3 blocks, off by one at 17 and 33
    check(0.4 * randn(1, *shape), normalize=normalize)


@pytest.mark.usefixtures("small")
@pytest.mark.parametrize("normalize", [True, False])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("t", [0.1, 0.5, 50.0, 1000.0, 2e4])
def test_temperatures(t: float, dtype: torch.dtype, normalize: bool) -> None:
    # from 50 on e underflows but for the nearest pairs; t = 0.1 is no float32
    z = randn(1, 35, 6, dtype=dtype)
    z[0, 20] = z[0, 3] * (1 + 1e-3)  # near-duplicates of one direction, in another tile
    check(z, t=t, normalize=normalize)


def test_values_to_the_contract() -> None:
    """The plain case, held to the tolerance of every public function."""
    for dtype in DTYPES:
        z = randn(1, 9, 6, dtype=dtype).to(DEVICE).requires_grad_()
        for normalize in (True, False):
            value = run(z, 0.5, normalize)
            (grad,) = torch.autograd.grad(value.sum(), z)
            limit = contract_tolerance(dtype)
            want = reference.uniformity(z.detach().cpu(), t=0.5, normalize=normalize)
            truth = reference.uniformity_grad(z.detach().cpu(), t=0.5, normalize=normalize)
            assert abs(value.double().cpu() - want) <= limit * abs(want)
            assert (grad.double().cpu() - truth).norm() <= limit * truth.norm()


@pytest.mark.usefixtures("small")
@pytest.mark.parametrize("scale", [1e-12, 1.0, 30.0, 1e3, 1e15])
def test_far_apart_and_close_raw_rows(scale: float) -> None:
    # up to t |d|^2 = 1e31; the nearest pair alone is left, or all are one
    check(scale * randn(1, 20, 8), normalize=False)
    check(scale * torch.eye(20)[None], normalize=False)


@pytest.mark.usefixtures("small")
def test_a_large_mean_costs_raw_rows_no_digit() -> None:
    for mean in (1e3, 1e5):
        check((0.3 * randn(1, 30, 8, dtype=torch.float64) + mean).float(), normalize=False)


@pytest.mark.usefixtures("small")
def test_raw_rows_of_mixed_lengths() -> None:
    z = randn(1, 40, 8)
    z[0, ::3] *= 1e-3
    z[0, 1::3] *= 1e4
    check(z, normalize=False)
    check(z, normalize=False, t=1e4)


@pytest.mark.usefixtures("small")
@pytest.mark.parametrize("normalize", [True, False])
def test_duplicates_and_constant_rows(normalize: bool) -> None:
    z = randn(1, 12, 7).repeat(1, 3, 1)
    check(z, normalize=normalize)
    check(z, normalize=normalize, t=1000.0)
    for constant in (torch.full((1, 20, 5), 0.3), torch.zeros(1, 20, 5)):
        leaf = constant.to(DEVICE).requires_grad_()
        value = run(leaf, 2.0, normalize)
        value.sum().backward()
        assert abs(value.item()) <= 1e-6  # exponents of a few 2^-22
        assert leaf.grad is not None
        assert leaf.grad.abs().max() <= 1e-5


def test_zero_rows_are_left_alone() -> None:
    leaf = BY_NAME["zero_rows"](37, 20)[None].to(DEVICE).requires_grad_()
    run(leaf, 2.0, True).sum().backward()
    assert leaf.grad is not None
    zero = (leaf == 0).all(-1)
    assert zero.any()
    assert (leaf.grad[zero] == 0).all()


@pytest.mark.parametrize("dtype", [torch.float32, torch.float16, torch.float64])
@pytest.mark.parametrize("normalize", [True, False])
@pytest.mark.parametrize("bad", [float("nan"), -float("inf")])
def test_not_a_number_stays_in_its_problem(bad: float, normalize: bool, dtype: torch.dtype) -> None:
    z = randn(3, 40, 9, dtype=dtype).to(DEVICE)
    clean = z.clone().requires_grad_()
    z[1, 37, 4] = bad
    z.requires_grad_()
    good, value = run(clean, 2.0, normalize), run(z, 2.0, normalize)
    good.sum().backward()
    value.sum().backward()
    assert clean.grad is not None
    assert z.grad is not None
    assert value[1].isnan()
    assert z.grad[1].isnan().all()
    assert torch.equal(value[::2], good[::2])
    assert torch.equal(z.grad[::2], clean.grad[::2])


@pytest.mark.parametrize("normalize", [True, False])
def test_launches_and_repeatable_bits(normalize: bool) -> None:
    z = randn(2, 40, 20).to(DEVICE).requires_grad_()
    raw = 0 if normalize else 1  # the mean
    with launch.recorded() as forward:
        value = run(z, 2.0, normalize)
    with launch.recorded() as backward:
        (grad,) = torch.autograd.grad(value.sum(), z, retain_graph=True)
    with launch.recorded() as alone:
        run(z.detach(), 2.0, normalize, with_grad=False)
    assert (len(forward), len(backward), len(alone)) == (3 + raw, 1, 3 + raw)
    again = run(z, 2.0, normalize)
    assert torch.equal(again, value)
    assert torch.equal(torch.autograd.grad(again.sum(), z)[0], grad)


def test_memory_is_blocks(monkeypatch: pytest.MonkeyPatch) -> None:
    """Nothing of n x n: what is allocated for 100,000 rows, on the meta device."""
    sizes: list[int] = []
    empty = torch.empty

    def counting(*args, **keywords):  # type: ignore[no-untyped-def]
        out = empty(*args, **keywords)
        sizes.append(out.nbytes)
        return out

    n, m = 100_000, 128
    z = torch.empty(1, n, m, device="meta")
    monkeypatch.setattr(torch, "empty", counting)
    with (
        dispatch.assume(dispatch.Target("sm_90", 132)),
        launch.recorded(run=False) as launches,
    ):
        kernels.forward(z, 2.0, True, True)
    assert launches
    # planes and V: n m; e: 64 MiB; per tile of 128 three float64; a few vectors of n
    block, tiles = 64 * 2**20, 3 * 8 * (n // 128 + 1) ** 2
    assert max(sizes) <= block
    assert sum(sizes) <= 2 * (n + 128) * m * 4 + block + tiles + 8 * 8 * n


@pytest.mark.parametrize("normalize", [True, False])
def test_more_problems_than_a_grid_holds(normalize: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    z = randn(5, 4, 3).to(DEVICE).requires_grad_()
    whole = run(z, 2.0, normalize)
    (grad,) = torch.autograd.grad(whole.sum(), z)
    monkeypatch.setattr(launch, "PROBLEMS", 2)
    value = run(z, 2.0, normalize)
    assert torch.equal(value, whole)
    assert torch.equal(torch.autograd.grad(value.sum(), z)[0], grad)
    monkeypatch.undo()
    many = torch.empty(70_000, 4, 3, device="meta")
    with (
        dispatch.assume(dispatch.Target("sm_90", 132)),
        launch.recorded(run=False) as launches,
    ):
        sums = kernels.forward(many, 2.0, normalize, True)
        dz = uniformity_rows.backward(sums[0], many, *sums[1:], 2.0, normalize)
    assert dz.shape == many.shape
    assert max(max((*one.grid, 1, 1)[1:]) for one in launches) < 2**16


def test_opcheck() -> None:
    for with_grad in (True, False):
        z = randn(2, 6, 9, dtype=torch.bfloat16).to(DEVICE).requires_grad_(with_grad)
        torch.library.opcheck(OPERATOR.default, (z, 2.0, True, with_grad, "triton"))


def test_gradcheck() -> None:
    z = randn(1, 3, 2, dtype=torch.float64).to(DEVICE).requires_grad_()
    for normalize in (True, False):
        assert torch.autograd.gradcheck(lambda x, raw=not normalize: run(x, 0.5, not raw), z)
