"""newton_schulz for small k, one program a problem: against newton_schulz.py on the same parts, and
against the float64 truth."""

import math
from dataclasses import dataclass, replace

import pytest
import torch
from torch import Tensor

from tests.tolerances import (
    contract_tolerance,
    gradient_error,
    gradient_tolerance,
    resolution,
    value_tolerance,
)
from tests.zoo import BY_NAME, COLLAPSED, RAW_SCALE, ZOO, Case
from wssl_fast import reference
from wssl_fast.backends.triton import dispatch, workspace
from wssl_fast.backends.triton.covariance import covariance as multiply_columns
from wssl_fast.backends.triton.gram import gram
from wssl_fast.backends.triton.gram import mode as gram_mode
from wssl_fast.backends.triton.launch import recorded
from wssl_fast.backends.triton.newton_schulz import newton_schulz
from wssl_fast.backends.triton.newton_schulz_small import UP_TO, fits, newton_schulz_small
from wssl_fast.backends.triton.statistics import statistics
from wssl_fast.backends.triton.workspace import Task, Workspace

DEVICE = torch.device("cuda" if torch.cuda.is_available() else "cpu")
SIZES = (1, 2, 5, 16, 17, 48, 64, 100, 128)
"""One problem a tile, padded or not; from 65 on in slots."""
FORMULATIONS = pytest.mark.parametrize("by_covariance", [False, True], ids=["gram", "covariance"])
HALF_TILES = dispatch.Tile(16, 16, 4, 1)

pytestmark = pytest.mark.usefixtures("poisoned")


@dataclass(frozen=True)
class Solved:
    """What comes back for rows z (b, n, m): value (b,), grad of W2^2 (b, n, m), deep (b,)."""

    value: Tensor
    grad: Tensor
    deep: Tensor
    work: Workspace


@dataclass(frozen=True)
class Problem:
    """How the rows of a batch are turned into one."""

    by_covariance: bool
    normalize: bool = True
    eps: float = 0.0
    squared: bool = True
    float64_mode: str = ""
    """The device's own if empty."""
    splits: int = 2

    def shape(self, k: int) -> tuple[int, int]:
        """(n, m) with k the smaller."""
        return (k + 37, k) if self.by_covariance else (k, k + 37)

    def product(self, wide: bool) -> str:
        own = dispatch.float64_mode(dispatch.target_of(DEVICE))
        return (self.float64_mode or own) if wide else "fp16x3"

    def rows_product(self, z: Tensor, wide: bool) -> str:
        if self.by_covariance or wide:
            return self.product(wide)
        return gram_mode(z, "auto", dispatch.target_of(z.device))

    def prepared(
        self, z: Tensor, wide: bool, tile: dispatch.Tile | None, deep: Tensor | None = None
    ) -> tuple[Workspace, Tensor, Tensor]:
        """The parts of the product, scale and mean; all else NaN."""
        b, n, m = z.shape
        k = m if self.by_covariance else n
        target, product = dispatch.target_of(z.device), self.product(wide)
        kernel = "covariance" if self.by_covariance else "gram"
        rows = self.rows_product(z, wide)
        work = workspace.allocate(
            b,
            k,
            splits=self.splits,
            wide=wide,
            product_tile=dispatch.tile(kernel, rows, k, target),
            tile=tile or dispatch.tile("newton_schulz_small", product, k, target),
            device=z.device,
        )
        scale = torch.empty(b, n, dtype=torch.float64, device=z.device)
        mean = torch.empty(b, m, dtype=torch.float64, device=z.device)
        if self.by_covariance:
            scale, mean = statistics(z, self.normalize)
            multiply_columns(z, scale, mean, work, rows, flags=deep)
        else:
            gram(z, work, rows, flags=deep)
        return work, scale, mean

    def pass_over(
        self,
        z: Tensor,
        *,
        wide: bool,
        small: bool = True,
        tile: dispatch.Tile | None = None,
        after: Solved | None = None,
    ) -> Solved:
        """One pass; `after` a first one, of the problems that it leaves to float64."""
        b, n, m = z.shape
        k = m if self.by_covariance else n
        if not small:
            target = dispatch.target_of(z.device)
            tile = dispatch.tile("newton_schulz", self.product(wide), k, target)
        deep = torch.full((b,), 3, dtype=torch.int8, device=z.device) if not after else after.deep
        work, scale, mean = self.prepared(z, wide, tile, deep if after else None)
        value = torch.empty(b, dtype=torch.float64, device=z.device)
        weights = torch.empty(b, k, k, dtype=torch.float64, device=z.device)
        (newton_schulz_small if small else newton_schulz)(
            work,
            Task(
                product=self.product(wide),
                rows_product=self.rows_product(z, wide),
                n=n,
                m=m,
                covariance=self.by_covariance,
                normalize=self.normalize,
                squared=self.squared,
                eps=self.eps,
                with_grad=True,
                auto=True,
                decides=not wide,
                flagged=after is not None,
                scaled=self.by_covariance,
                scale=scale,
                mean=mean,
                value=value,
                weights=weights,
                deep=deep,
            ),
        )
        grad = self.gradient(z, weights, scale, mean)
        return Solved(value.cpu(), grad.cpu(), deep, work)

    def solve(self, z: Tensor) -> Solved:
        """Both passes."""
        first = self.pass_over(z, wide=False)
        small = fits(first.work.k, self.product(True), dispatch.target_of(z.device))
        second = self.pass_over(z, wide=True, small=small, after=first)
        again = first.deep.bool().cpu()
        return replace(
            first,
            value=torch.where(again, second.value, first.value),
            grad=torch.where(again[:, None, None], second.grad, first.grad),
        )

    def gradient(self, z: Tensor, weights: Tensor, scale: Tensor, mean: Tensor) -> Tensor:
        """dW2^2/dz (b, n, m): what w2_backward.py makes of the weights, in float64."""
        x = z.double()
        if not self.by_covariance:
            weights = weights * scale[:, None, :]
            return (weights * scale[:, :, None] if self.normalize else weights) @ x
        n, m = z.shape[-2:]
        x = x * scale[:, :, None]
        p = (x - mean[:, None]) @ weights
        if self.normalize:
            p = -2 / (n * math.sqrt(m)) * (p - (p * x).sum(-1, keepdim=True) * x)
            return p * scale[:, :, None]
        unit = scale[:, :1, None]  # the same for all raw rows
        return 2 / n * (x / unit - p / math.sqrt(m))


def check(z: Tensor, problem: Problem, got: Solved) -> None:
    """One problem against the truth, by the rules of precision="auto"."""
    want = reference.wasserstein_uniformity(z, normalize=problem.normalize).item()
    bound = value_tolerance("auto") * max(1.0, want)
    assert abs(math.sqrt(got.value.item()) - want) <= bound
    error = gradient_error(got.grad[0], z, normalize=problem.normalize, above=resolution("auto"))
    assert error <= gradient_tolerance("auto")


@FORMULATIONS
@pytest.mark.parametrize("case", ZOO, ids=lambda case: case.name)
def test_zoo(case: Case, by_covariance: bool) -> None:
    problem = Problem(by_covariance)
    z = case(*problem.shape(48))
    check(z, problem, problem.solve(z[None].to(DEVICE)))


@FORMULATIONS
@pytest.mark.parametrize("name", ["gaussian", "large_mean", "noise_1e-4", "duplicated_rows"])
def test_raw_rows(name: str, by_covariance: bool) -> None:
    assert name not in RAW_SCALE
    problem = Problem(by_covariance, normalize=False)
    z = BY_NAME[name](*problem.shape(48))
    check(z, problem, problem.solve(z[None].to(DEVICE)))


@FORMULATIONS
@pytest.mark.parametrize(
    ("wide", "k"),
    [
        (wide, k)
        for wide, name in ((False, "fp16x3"), (True, "float64"))
        for k in SIZES
        if k <= UP_TO[name]
    ],
)
def test_the_small_kernel_is_the_large_one(k: int, wide: bool, by_covariance: bool) -> None:
    problem = Problem(by_covariance)
    if k > UP_TO[problem.product(wide)]:
        pytest.skip("of float64 without tensor cores")
    z = torch.randn(2, *problem.shape(k), device=DEVICE)
    small = problem.pass_over(z, wide=wide)
    large = problem.pass_over(z, wide=wide, small=False)
    assert torch.equal(small.deep, large.deep)
    # the same sums of the same products, added up in another order
    bound = contract_tolerance(torch.float64 if wide else torch.float32)
    torch.testing.assert_close(small.value, large.value, atol=bound, rtol=0)
    assert (small.grad - large.grad).norm() <= bound * large.grad.norm() + 1e-12
    check(z[0].cpu(), problem, problem.solve(z[:1]))


@FORMULATIONS
@pytest.mark.parametrize("k", [5, 48])
@pytest.mark.parametrize("wide", [False, True], ids=["fp16x3", "float64"])
@pytest.mark.parametrize("eps", [1e-4, 0.3])
def test_a_ridge(eps: float, wide: bool, k: int, by_covariance: bool) -> None:
    problem = Problem(by_covariance, eps=eps)
    z = torch.randn(1, *problem.shape(k), device=DEVICE)
    got = problem.pass_over(z, wide=wide)
    want = reference.wasserstein_uniformity(z.cpu(), squared=True, eps=eps)
    want_grad = reference.wasserstein_uniformity_grad(z.cpu(), squared=True, eps=eps)
    bound = contract_tolerance(torch.float32)
    torch.testing.assert_close(got.value, want, atol=bound, rtol=0)
    assert (got.grad - want_grad).norm() <= bound * want_grad.norm()


@FORMULATIONS
def test_the_root_of_the_value(by_covariance: bool) -> None:
    problem = Problem(by_covariance)
    z = torch.randn(2, *problem.shape(9), device=DEVICE)
    squared = problem.pass_over(z, wide=True).value
    root = replace(problem, squared=False).pass_over(z, wide=True).value
    assert torch.equal(root, squared.sqrt())


@pytest.mark.parametrize(("wide", "by_covariance"), [(False, False), (False, True), (True, False)])
def test_tiles_in_slots_are_one_resident_tile(wide: bool, by_covariance: bool) -> None:
    problem = Problem(by_covariance)
    z = torch.randn(2, *problem.shape(20), device=DEVICE)
    resident = problem.pass_over(z, wide=wide)
    stored = problem.pass_over(z, wide=wide, tile=HALF_TILES)
    bound = contract_tolerance(torch.float64 if wide else torch.float32)
    torch.testing.assert_close(stored.value, resident.value, atol=bound, rtol=0)
    assert (stored.grad - resident.grad).norm() <= bound * resident.grad.norm()


@FORMULATIONS
@pytest.mark.parametrize("k", [5, 20], ids=["resident", "in slots"])
def test_float64_without_tensor_cores(k: int, by_covariance: bool) -> None:
    problem = Problem(by_covariance)
    z = torch.randn(2, *problem.shape(k), device=DEVICE)
    tensor = problem.pass_over(z, wide=True)
    problem = replace(problem, float64_mode="float64_fma")
    with dispatch.override("gram", HALF_TILES), dispatch.override("covariance", HALF_TILES):
        fma = problem.pass_over(z, wide=True, tile=HALF_TILES)
    bound = contract_tolerance(torch.float64)
    torch.testing.assert_close(fma.value, tensor.value, atol=bound, rtol=0)
    assert (fma.grad - tensor.grad).norm() <= bound * tensor.grad.norm()


@FORMULATIONS
@pytest.mark.parametrize("k", [17, 48])
def test_only_flagged_problems_are_touched(k: int, by_covariance: bool) -> None:
    problem = Problem(by_covariance)
    z = torch.randn(3, *problem.shape(k), device=DEVICE)
    alone = problem.pass_over(z[1:2], wide=True)
    deep = torch.tensor([0, 1, 0], dtype=torch.int8, device=DEVICE)
    first = Solved(alone.value, alone.grad, deep, alone.work)
    got = problem.pass_over(z, wide=True, after=first)
    assert torch.equal(got.value[1], alone.value[0])
    assert torch.equal(got.grad[1], alone.grad[0])
    assert deep.tolist() == [0, 1, 0]
    for other in (0, 2):
        assert got.value[other].isnan()
        assert got.grad[other].isnan().all()
        assert got.work.slots[other].isnan().all()
        assert got.work.numbers[other].isnan().all()


@FORMULATIONS
@pytest.mark.parametrize(("bad", "k"), [(math.nan, 6), (math.inf, 48), (math.nan, 70)])
def test_nan_stays_in_its_problem(bad: float, k: int, by_covariance: bool) -> None:
    problem = Problem(by_covariance)
    z = torch.randn(3, *problem.shape(k))
    z[1, 2, 3] = bad
    got = problem.solve(z.to(DEVICE))
    assert got.value.isnan().tolist() == [False, True, False]
    assert got.grad[1].isnan().all()
    for other in (0, 2):
        alone = problem.solve(z[other : other + 1].to(DEVICE))
        assert torch.equal(got.value[other], alone.value[0])
        assert torch.equal(got.grad[other], alone.grad[0])


@FORMULATIONS
@pytest.mark.parametrize("case", COLLAPSED, ids=lambda case: case.name)
def test_collapsed_batches(case: Case, by_covariance: bool) -> None:
    problem = Problem(by_covariance)
    z = case(*problem.shape(17))
    got = problem.solve(z[None].to(DEVICE))
    want = 1.0 if case.name == "zeros" else math.sqrt(2)
    assert abs(math.sqrt(got.value.item()) - want) <= value_tolerance("auto")
    assert got.grad.isfinite().all()


@pytest.mark.parametrize("k", [16, 40, 100], ids=["resident", "padded", "in slots"])
@pytest.mark.parametrize("negative", [1e-6, 1e-3, 0.3])
def test_negative_eigenvalues_saturate(negative: float, k: int) -> None:
    # no rounding makes such a covariance: what is stored saturates, and float64 is asked for
    problem = Problem(True)
    z = torch.randn(1, *problem.shape(k), device=DEVICE)
    work, scale, mean = problem.prepared(z, False, None)
    n, m = z.shape[-2:]
    eigenvalues = torch.ones(k, dtype=torch.float64)
    eigenvalues[-1] = -negative
    turn = torch.linalg.qr(torch.randn(k, k, dtype=torch.float64))[0]
    work.slots[:, : work.splits] = 0
    work.slots[0, 0, :k, :k] = (n * (turn * eigenvalues) @ turn.T).to(work.slots)
    value = torch.empty(1, dtype=torch.float32, device=DEVICE)
    weights = torch.empty(1, k, k, dtype=torch.float64, device=DEVICE)
    deep = torch.zeros(1, dtype=torch.int8, device=DEVICE)
    task = Task(
        product="fp16x3",
        rows_product="fp16x3",
        n=n,
        m=m,
        covariance=True,
        normalize=True,
        squared=True,
        eps=0.0,
        with_grad=True,
        auto=True,
        decides=True,
        flagged=False,
        scaled=True,
        scale=scale,
        mean=mean,
        value=value,
        weights=weights,
        deep=deep,
    )
    newton_schulz_small(work, task)
    assert value.isfinite().all()
    assert weights.isfinite().all()
    assert deep.item() == 1


def test_one_launch_with_a_program_for_each_problem() -> None:
    problem = Problem(False)
    for k in (5, 100):
        z = torch.randn(3, *problem.shape(k), device=DEVICE)
        with recorded() as launches:
            first = problem.pass_over(z, wide=False)
        (launch,) = [one for one in launches if one.kernel.__name__ != "gram_kernel"]
        assert launch.grid == (3,)
        assert not launch.cooperative
        second = problem.pass_over(z, wide=False)
        assert torch.equal(first.value, second.value)
        assert torch.equal(first.grad, second.grad)
        q = first.work.planes[:, 3, ..., :k, :k]  # the last tiles of a slot may be nobody's
        assert torch.equal(q, q.mT)


def test_sizes() -> None:
    for product, limit in UP_TO.items():
        for name in ("sm_80", "sm_90", "sm_100"):
            target = dispatch.Target(name, 108)
            assert fits(limit, product, target)
            assert not fits(limit + 1, product, target)
