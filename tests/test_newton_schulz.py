"""The Newton-Schulz inverse square root: the zoo, its invariants, and input that must not diverge.

Tolerances follow from the matrix given. Entries accumulated in a dtype, and products taken in it,
are uncertain by `noise` = UNITS eps |G|_F, spread evenly over the k^2 pairs of directions. To first
order that moves the entry (i, j) of the polar factor by noise / (sqrt k s_i s_j), where s is sigma,
or what the bound on |Q| makes of a smaller one; and the share sigma of the trace by noise / s.
UNITS = 8: measured up to 6.2 over the zoo, a Gram's own rounding being up to 0.8 of it.
"""

import math
from collections import Counter
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.utils._python_dispatch import TorchDispatchMode

from benchmarks.studies.quintics import committed_schedule, image, odd_value
from tests.zoo import BY_NAME, SHAPES, ZOO, Case
from wssl_fast.backends.eager.newton_schulz import (
    BOTTOM,
    FLOOR,
    SCHEDULES,
    inverse_sqrt,
    product_count,
)

UNITS = 8
DTYPES = (torch.float32, torch.float64)
dtypes = pytest.mark.parametrize("dtype", DTYPES, ids=str)


def centred_rows(z: Tensor, dtype: torch.dtype) -> Tensor:
    """Unit rows of z, rounded to dtype, minus their mean (kept in float64): an exact input."""
    x = z.double()
    norm = x.norm(dim=1, keepdim=True)
    x = (x / torch.where(norm > 0, norm, 1.0)).to(dtype).double()
    return x - x.mean(dim=0)


def live_rank(sigma: Tensor, dtype: torch.dtype) -> int:
    """Directions above the rounding of the rows themselves."""
    return int((sigma > 8 * torch.finfo(dtype).eps * sigma[0]).sum())


def spectrum_matrix(eigenvalues: Tensor, dtype: torch.dtype) -> tuple[Tensor, Tensor]:
    """A = V diag V^T with a random orthogonal V: (1, k, k), and V in float64."""
    k = len(eigenvalues)
    v = torch.linalg.qr(torch.randn(k, k, dtype=torch.float64)).Q
    a = (v * eigenvalues.double()) @ v.mT
    return ((a + a.mT) / 2).to(dtype)[None], v


def healthy(b: int, k: int, dtype: torch.dtype) -> Tensor:
    x = torch.randn(b, k, 3 * k, dtype=dtype)
    return x @ x.mT


# The bare solver wants null directions lifted. Clones in n > m rows have one that no caller can
# know of, made negative by rounding: `shifted_inverse_sqrt` answers for it (test_neural_collapse).
LIFTABLE = [
    pytest.param(case, shape, id=f"{case.name}-{shape}")
    for case in ZOO
    for shape, (n, m) in SHAPES.items()
    if case.name != "one_hot" or n <= m
]


@dtypes
@pytest.mark.parametrize(("case", "shape"), LIFTABLE)
def test_polar_factor_and_trace_on_the_zoo(case: Case, shape: str, dtype: torch.dtype) -> None:
    n, m = SHAPES[shape]
    exact = centred_rows(case(n, m, torch.float64), dtype)
    n = len(exact)
    rows = exact.to(dtype)
    u, sigma, vh = torch.linalg.svd(exact / math.sqrt(n), full_matrices=False)
    if n <= m:
        g = rows @ rows.mT / n
        lifted = g + g.diagonal().mean() / n  # the null vector 1/sqrt n
    else:
        g = lifted = rows.mT @ rows / n
    q = inverse_sqrt(lifted[None])[0].double()
    polar = (q @ exact if n <= m else exact @ q) / math.sqrt(n)

    norm = torch.linalg.matrix_norm(lifted.double())
    noise = UNITS * torch.finfo(dtype).eps * norm
    lowest = (FLOOR[dtype] * norm).sqrt()  # |Q| <= 1 / lowest
    s = sigma.clamp(min=lowest)
    resolved = sigma**2 > 2 * noise
    error = u.mT[resolved] @ polar - vh[resolved]
    expected = noise / math.sqrt(len(s)) / (s[resolved][:, None] * s)  # (i, j)
    assert error.norm() <= expected.norm()

    trace = torch.sum(q * g.double())
    assert (trace - sigma.sum()).abs() <= torch.minimum(sigma + lowest, noise / s).sum()

    # outside every live direction: rounding of a null direction times |Q|, from either side
    dead = u[:, live_rank(sigma, dtype) :]
    leak = (dead.mT @ polar).norm() / math.sqrt(len(sigma))
    assert leak <= 2 * UNITS * torch.finfo(dtype).eps ** 0.5


@dtypes
def test_result_is_symmetric_and_the_input_untouched(dtype: torch.dtype) -> None:
    a = healthy(3, 33, dtype)
    kept = a.clone()
    q = inverse_sqrt(a)
    assert torch.equal(q, q.mT)
    assert torch.equal(a, kept)
    assert q.dtype == dtype


@dtypes
def test_strided_input(dtype: torch.dtype) -> None:
    a = healthy(4, 24, dtype)
    wide = torch.full((4, 24, 48), torch.nan, dtype=dtype)
    wide[:, :, ::2] = a
    torch.testing.assert_close(inverse_sqrt(wide[:, :, ::2]), inverse_sqrt(a))


@dtypes
def test_batched_equals_looped(dtype: torch.dtype) -> None:
    """Each matrix has its own scale: 1e-6 to 1e6, and a collapsed one, in one batch."""
    scale = torch.tensor([1e-6, 1.0, 1e6], dtype=dtype)[:, None, None]
    low = torch.randn(1, 31, 4, dtype=dtype)
    a = torch.cat([healthy(3, 31, dtype) * scale, low @ low.mT])
    together = inverse_sqrt(a)
    alone = torch.cat([inverse_sqrt(each[None]) for each in a])
    # other kernels sum in another order: rounding, which on null directions meets |Q|
    eps = torch.finfo(dtype).eps
    root = ((together - alone) @ a).norm(dim=(1, 2)) / a.norm(dim=(1, 2)).sqrt()
    assert (root[:3] <= 10 * UNITS * eps).all()
    assert root[3] <= 2 * UNITS * (31 * eps) ** 0.5


@dtypes
@pytest.mark.parametrize("k", [1, 2, 3, 17, 64])
def test_agrees_with_the_spectral_root(k: int, dtype: torch.dtype) -> None:
    eigenvalues = torch.linspace(0.1, 1, k, dtype=torch.float64)
    a, v = spectrum_matrix(eigenvalues, dtype)
    q = inverse_sqrt(a)[0].double()
    truth = (v * eigenvalues.rsqrt()) @ v.mT
    tolerance = UNITS * torch.finfo(dtype).eps * eigenvalues.norm() / eigenvalues.min()
    assert (q - truth).norm() <= tolerance * truth.norm()


@dtypes
def test_zero_matrix_gives_zero(dtype: torch.dtype) -> None:
    q = inverse_sqrt(torch.zeros(2, 5, 5, dtype=dtype))
    assert torch.equal(q, torch.zeros_like(q))


@dtypes
def test_rank_one(dtype: torch.dtype) -> None:
    v = torch.nn.functional.normalize(torch.randn(40, dtype=torch.float64), dim=0)
    q = inverse_sqrt(torch.outer(v, v).to(dtype)[None])[0].double()
    assert v @ q @ v == pytest.approx(1, abs=0.01)  # rounding of the null space, times |Q|
    assert q.isfinite().all()
    assert torch.linalg.matrix_norm(q, 2) <= 1.5 * FLOOR[dtype] ** -0.5


@dtypes
@pytest.mark.parametrize("units", [0.25, 0.8, 2.0])
def test_eigenvalues_negative_by_rounding(units: float, dtype: torch.dtype) -> None:
    """Up to 2 units below zero, more than a Gram's rounding makes: the rest stays right."""
    eigenvalues = torch.linspace(0.1, 1, 96, dtype=torch.float64)
    eigenvalues[20:] = 0
    eigenvalues[50:] = -units * torch.finfo(dtype).eps * eigenvalues.norm()
    a, v = spectrum_matrix(eigenvalues, dtype)
    q = inverse_sqrt(a)[0].double()
    live = (v.mT @ q @ v)[:20, :20]
    assert (live * eigenvalues[:20].sqrt() - torch.eye(20)).norm() <= 1e-2
    bound = (FLOOR[dtype] * eigenvalues.norm()) ** -0.5
    assert torch.linalg.matrix_norm(q, 2) <= 10 * bound


@dtypes
@pytest.mark.parametrize("units", [8, 64, 1e3, 1e5, 1e6])
@pytest.mark.parametrize("steps", [None, 20])
def test_indefinite_input_stays_finite(units: float, steps: int | None, dtype: torch.dtype) -> None:
    eigenvalues = torch.linspace(-units * torch.finfo(dtype).eps, 1, 48, dtype=torch.float64)
    a, _ = spectrum_matrix(eigenvalues, dtype)
    q = inverse_sqrt(torch.cat([a, -a, torch.randn_like(a)]), steps=steps)
    assert q.isfinite().all()


@dtypes
@pytest.mark.parametrize("name", ["soft_collapse", "exact_rank"])
@pytest.mark.parametrize("power", [-90, -40, -1, 1, 40, 90])
def test_scaling_by_a_power_of_four_is_exact(name: str, power: int, dtype: torch.dtype) -> None:
    x = centred_rows(BY_NAME[name](32, 48, torch.float64), dtype).to(dtype)
    a = (x @ x.mT)[None]
    scaled = torch.ldexp(a, torch.tensor(power))
    if power % 2:
        torch.testing.assert_close(inverse_sqrt(scaled), inverse_sqrt(a) * 2 ** (-power / 2))
    else:
        assert torch.equal(inverse_sqrt(scaled), inverse_sqrt(a) * 2.0 ** (-power // 2))


@dtypes
@pytest.mark.parametrize("scale", [1e-30, 1e30])
def test_extreme_scales(scale: float, dtype: torch.dtype) -> None:
    a = healthy(2, 20, dtype)
    a = a / a.norm(dim=(1, 2), keepdim=True)
    q = inverse_sqrt(a * scale) * math.sqrt(scale)
    torch.testing.assert_close(q, inverse_sqrt(a), rtol=1e-4, atol=1e-4)


@dtypes
@pytest.mark.parametrize("bad", [math.nan, math.inf, -math.inf])
def test_nan_and_inf_stay_in_their_problem(bad: float, dtype: torch.dtype) -> None:
    a = healthy(3, 16, dtype)
    clean = inverse_sqrt(a)
    a[1, 2, 3] = a[1, 3, 2] = bad
    q = inverse_sqrt(a)
    assert q[1].isnan().all()
    assert torch.equal(q[0], clean[0])
    assert torch.equal(q[2], clean[2])


@dtypes
def test_commutes_with_permutations_and_rotations(dtype: torch.dtype) -> None:
    k = 48
    a = healthy(1, k, dtype)
    permutation = torch.eye(k, dtype=dtype)[torch.randperm(k)]
    rotation = torch.linalg.qr(torch.randn(k, k, dtype=dtype)).Q
    q = inverse_sqrt(a)
    for turn in (permutation, rotation):
        turned = inverse_sqrt(turn @ a @ turn.mT)
        error = (turned - turn @ q @ turn.mT).norm() / q.norm()
        # condition number of `healthy`: (1 + 3^-0.5)^2 / (1 - 3^-0.5)^2 = 14
        assert error <= 14 * UNITS * torch.finfo(dtype).eps * math.sqrt(k)


@dtypes
@pytest.mark.parametrize("shift", [1e-4, 1e-2, 1.0])
def test_shift_is_added_to_the_diagonal(shift: float, dtype: torch.dtype) -> None:
    eigenvalues = torch.logspace(-6, 0, 32, dtype=torch.float64)
    a, v = spectrum_matrix(eigenvalues, dtype)
    norm = eigenvalues.norm()
    truth = (v * (eigenvalues + shift * norm).rsqrt()) @ v.mT
    q = inverse_sqrt(a, shift=shift)[0].double()
    assert (q - truth).norm() <= UNITS * torch.finfo(dtype).eps / shift * truth.norm() + 1e-6
    assert torch.linalg.matrix_norm(q, 2) <= (shift * norm) ** -0.5 * 1.001


def test_weights_rise_smoothly_to_one_and_never_pass_it() -> None:
    """Below the resolution too: a direction that sinks loses its weight monotonically."""
    for dtype in DTYPES:
        sigma = np.geomspace(1e-3 * BOTTOM[dtype], 1, 20001)
        weight = sigma
        for step in SCHEDULES[dtype]:
            weight = odd_value(step, weight)
        assert weight.max() <= 1 + torch.finfo(torch.float32).eps
        assert np.diff(weight[sigma < BOTTOM[dtype]]).min() >= -1e-15  # its own rounding


@dtypes
def test_schedule_takes_its_interval_to_one(dtype: torch.dtype) -> None:
    """The defining property of the committed coefficients, and where they come from."""
    low, high = BOTTOM[dtype], 1.0
    for step in SCHEDULES[dtype]:
        low, high = image(step, low, high)
    eps = torch.finfo(dtype).eps
    assert max(1 - low, high - 1) <= (1 if dtype == torch.float32 else 128) * eps
    derived = np.array(committed_schedule(dtype))
    np.testing.assert_allclose(np.array(SCHEDULES[dtype]), derived, rtol=1e-12)
    assert eps / 2 < FLOOR[dtype] < eps


class _Calls(TorchDispatchMode):
    """Counts the aten operators of a block."""

    def __init__(self) -> None:
        super().__init__()
        self.count: Counter[str] = Counter()

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        self.count[func.overloadpacket.__name__] += 1
        return func(*args, **(kwargs or {}))


@dtypes
@pytest.mark.parametrize("steps", [1, 2, 4, None])
def test_product_count(steps: int | None, dtype: torch.dtype) -> None:
    with _Calls() as calls:
        inverse_sqrt(healthy(1, 4, dtype), steps=steps)
    made = calls.count["bmm"] + calls.count["baddbmm"] - 1  # one of them in `healthy`
    assert made == product_count(steps or len(SCHEDULES[dtype]))
    assert calls.count["_local_scalar_dense"] == 0  # nothing reads a value back to the host


def test_needs_no_values() -> None:
    """Runs on fake tensors: no branch on data; and compiles into one graph."""
    with FakeTensorMode():
        assert inverse_sqrt(torch.empty(2, 6, 6)).shape == (2, 6, 6)
    a = healthy(2, 8, torch.float32)
    compiled = torch.compile(inverse_sqrt, fullgraph=True, backend="eager")
    torch.testing.assert_close(compiled(a), inverse_sqrt(a))


@pytest.mark.parametrize(
    ("arguments", "error", "message"),
    [
        ({"steps": 0}, ValueError, "steps: 0 given"),
        ({"shift": -1e-3}, ValueError, "shift: -0.001 given"),
        ({"shift": math.nan}, ValueError, "shift: nan given"),
    ],
)
def test_errors_name_the_argument(
    arguments: dict[str, Any], error: type[Exception], message: str
) -> None:
    with pytest.raises(error, match=message):
        inverse_sqrt(torch.eye(3)[None], **arguments)


def test_half_precision_is_refused() -> None:
    with pytest.raises(TypeError, match=r"a: dtype torch\.bfloat16 given"):
        inverse_sqrt(torch.eye(3, dtype=torch.bfloat16)[None])
