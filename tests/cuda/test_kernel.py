"""The launch itself, below the loss: tiles of every shape, buffers and their surroundings, bits.

On an emulated device wherever the host has to look at memory; tests/cuda/test_w2.py runs the same
kernel on real ones.
"""

import itertools
from dataclasses import dataclass, replace
from typing import Any

import pytest
import torch
from torch import Tensor

from tests.cuda import emulated
from tests.tolerances import (
    contract_tolerance,
    gradient_error,
    gradient_tolerance,
    value_tolerance,
)
from tests.zoo import BY_NAME
from wssl_fast import reference
from wssl_fast.backends import cuda
from wssl_fast.backends.eager.newton_schulz import SCHEDULES
from wssl_fast.backends.eager.numerics import ACCEPTED_ERROR, NOISE, ROW_UNIT

pytestmark = pytest.mark.usefixtures("an_emulated_device")
MARGIN = 4096  # bytes around every buffer
CANARY = 0x5A
TILES = pytest.mark.parametrize("tile", range(4), ids=["128x64", "64x64", "64x32", "32x32"])


@dataclass
class Buffers:
    """Memory of a call, each in the middle of a larger block that is watched."""

    blocks: dict[str, Tensor]
    views: dict[str, Tensor]

    def untouched(self) -> bool:
        """Whether nothing was written around any buffer."""
        return all(
            bool((block[:MARGIN] == CANARY).all() and (block[-MARGIN:] == CANARY).all())
            for block in self.blocks.values()
        )


def allocate(shapes: dict[str, tuple[tuple[int, ...], torch.dtype]]) -> Buffers:
    """NaN everywhere inside: what is read before it is written shows."""
    found = Buffers({}, {})
    for name, (shape, dtype) in shapes.items():
        size = torch.empty(shape, dtype=dtype).nbytes
        block = torch.full((size + 2 * MARGIN,), CANARY, dtype=torch.uint8)
        inside = block[MARGIN : MARGIN + size].view(dtype).view(shape)
        inside.fill_(torch.nan if dtype.is_floating_point else 77)
        found.blocks[name], found.views[name] = block, inside
    return found


def prepare(
    z: Tensor,
    device: cuda.Device,
    *,
    tile: int,
    splits: int = 1,
    covariance: bool = False,
    multiple: int = 1,
    with_grad: bool = True,
    dtype: torch.dtype = torch.float64,
) -> tuple[Buffers, dict[str, Any]]:
    """Buffers with the parts of K of unit rows z (b, n, m), and the rest of the arguments."""
    b, n, m = z.shape
    k = m if covariance else n
    plan = cuda.plan(k, batch=b, splits=splits, multiple=multiple, device=device, tile=tile)
    made = allocate(
        {
            "slots": ((b, plan.slots, plan.kp, plan.kp), torch.float32),
            "diagonal": ((b, splits, plan.kp), torch.float64),
            "numbers": ((b, plan.numbers), torch.float64),
            "counter": ((1,), torch.int32),
            "scale": ((b, n), torch.float64),
            "mean": ((b, m if covariance else 0), torch.float64),
            "value": ((b,), torch.float32),
            "weights": ((b, k, k) if with_grad else (b, 0, 0), dtype),
            "deep": ((b,), torch.int8),
        }
    )
    views = made.views
    views["counter"].zero_()
    x = z.double()
    if covariance:  # rows arrive scaled and centred
        views["scale"].copy_(1.0 / x.norm(dim=-1))
        x = x * views["scale"][..., None]
        views["mean"].copy_(x.mean(1))
        x = x - views["mean"][:, None]
    for s, part in enumerate(x.chunk(splits, dim=1 if covariance else 2)):
        product = part.mT @ part if covariance else part @ part.mT
        views["slots"][:, s] = 0.0
        views["slots"][:, s, :k, :k] = product.float()
        views["diagonal"][:, s] = 0.0
        views["diagonal"][:, s, :k] = product.float().diagonal(dim1=-2, dim2=-1).double()
    settings = {
        "n": n,
        "m": m,
        "splits": splits,
        "multiple": multiple,
        "covariance": covariance,
        "normalize": True,
        "squared": True,
        "with_grad": with_grad,
        "auto": True,
        "eps": 0.0,
        "unit": torch.finfo(torch.float32).eps,
        "noise_units": NOISE[torch.float32],
        "shift_units": 10.0 if covariance else 2.0,
        "row_unit": ROW_UNIT,
        "accepted_error": ACCEPTED_ERROR,
        "coefficients": SCHEDULES[torch.float32],
        "device": device,
        "tile": tile,
    }
    return made, settings


def gradient(z: Tensor, views: dict[str, Tensor], covariance: bool) -> Tensor:
    """dW2^2/dz of one problem from its weights, in float64."""
    x = z.double() * views["scale"][0][:, None]
    w = views["weights"][0].double()
    if not covariance:
        return views["scale"][0][:, None] * (w @ x)
    n, m = z.shape
    p = (x - x.mean(0)) @ w
    p = p - (p * x).sum(1, keepdim=True) * x
    return -2.0 / (n * m**0.5) * views["scale"][0][:, None] * p


def hold(z: Tensor, views: dict[str, Tensor], covariance: bool) -> None:
    """Value and gradient to the rules of one float32 pass."""
    want = reference.wasserstein_uniformity(z).item()
    assert abs(views["value"].item() ** 0.5 - want) <= value_tolerance("highest")
    error = gradient_error(gradient(z, views, covariance), z, above=1e-2, null=False)
    assert error <= gradient_tolerance("highest", solver="newton_schulz")


@TILES
@pytest.mark.parametrize("covariance", [False, True], ids=["gram", "covariance"])
@pytest.mark.parametrize("k", [1, 2, 33, 64, 65, 200])
def test_every_tile_at_odd_sizes(
    tile: int, covariance: bool, k: int, an_emulated_device: cuda.Device
) -> None:
    z = torch.randn(3 * k + 5, k) if covariance else torch.randn(k, 2 * k + 3)
    if k == 1 and covariance:
        z = torch.rand(8, 1) + 0.5  # rows of one column are all 1
    made, settings = prepare(z[None], an_emulated_device, tile=tile, covariance=covariance)
    cuda.newton_schulz(**made.views, **settings)
    assert made.untouched()
    hold(z, made.views, covariance)
    assert made.views["deep"].item() in (0, 1)


@TILES
def test_parts_are_added_up_and_kp_may_be_larger(
    tile: int, an_emulated_device: cuda.Device
) -> None:
    z = torch.randn(50, 300)
    made, settings = prepare(z[None], an_emulated_device, tile=tile, splits=8, multiple=128)
    assert made.views["slots"].shape[1] == 9
    cuda.newton_schulz(**made.views, **settings)
    assert made.untouched()
    hold(z, made.views, False)


@TILES
def test_neither_the_order_of_threads_nor_the_number_of_blocks_changes_a_bit(tile: int) -> None:
    z = BY_NAME["noise_1e-3"](70, 130)[None]
    found = []
    for blocks, seed in ((1, 0), (1, 1), (2, 2), (3, 3), (7, 4)):
        with emulated.device(blocks, seed=seed) as device:
            made, settings = prepare(z, device, tile=tile)
            cuda.newton_schulz(**made.views, **settings)
        found.append(made.views)
    for one, other in itertools.pairwise(found):
        for name in ("value", "weights", "scale", "deep"):
            assert torch.equal(one[name], other[name]), name


@TILES
def test_problems_of_a_batch_are_problems_alone(tile: int, an_emulated_device: cuda.Device) -> None:
    z = torch.stack([BY_NAME[name](40, 90) for name in ("gaussian", "exact_rank", "large_mean")])
    together, settings = prepare(z, an_emulated_device, tile=tile)
    cuda.newton_schulz(**together.views, **settings)
    assert together.untouched()
    for i in range(len(z)):
        alone, settings = prepare(z[i : i + 1], an_emulated_device, tile=tile)
        cuda.newton_schulz(**alone.views, **settings)
        for name in ("value", "weights", "scale", "deep"):
            assert torch.equal(together.views[name][i], alone.views[name][0]), name


@TILES
def test_sums_that_decide(tile: int, an_emulated_device: cuda.Device) -> None:
    # |Q Q|_F^2 by one triangle and |Y|_F^2, from which the kernel estimates its own error
    k = 150
    z = torch.randn(2000, k)
    made, settings = prepare(z[None], an_emulated_device, tile=tile, covariance=True)
    cuda.newton_schulz(**made.views, **settings)
    plan = cuda.plan(k, device=an_emulated_device, tile=tile)
    numbers = made.views["numbers"][0]
    inverse, trace = numbers[3], numbers[10]
    tiles = (plan.kp // plan.rows) * (plan.kp // plan.columns)
    y_square, q_square = numbers[16 + 4 * plan.kp :].view(3, tiles)[1:]
    lower = plan.kp // plan.rows * (plan.kp // plan.rows + 1) // 2 * (plan.rows // plan.columns)
    # Q = A^(-1/2) / sqrt(inverse), before the shift of 1e-6 |A|_F is taken back to first order
    root = made.views["weights"][0] @ made.views["weights"][0] / inverse
    assert q_square[:lower].sum() == pytest.approx(root.square().sum().item(), rel=1e-3)
    assert y_square.sum().item() == pytest.approx(trace.item(), rel=1e-5)


@pytest.mark.parametrize("spread", [1e-8, 1e-6, 1e-4, 1e-3, 1e-2])
def test_near_collapse(spread: float, an_emulated_device: cuda.Device) -> None:
    # |H C H|_F is a difference here, of which float64 sums of float32 entries leave enough
    made, settings = prepare(
        torch.randn(3, 1, 20) + spread * torch.randn(3, 12, 20), an_emulated_device, tile=2
    )
    cuda.newton_schulz(**made.views, **settings)
    assert made.views["value"].isfinite().all()
    assert made.views["weights"].isfinite().all()
    assert made.views["deep"].all()


@pytest.mark.parametrize("negative", [1e-4, 0.3])
def test_an_indefinite_matrix_stays_finite_and_asks_for_float64(
    negative: float, an_emulated_device: cuda.Device
) -> None:
    # no product of rows is one; the residual |Y|_F^2 - tr A says that no root came out
    n, k = 100, 20
    made, settings = prepare(torch.randn(1, n, k), an_emulated_device, tile=2, covariance=True)
    eigenvalues = torch.ones(k, dtype=torch.float64)
    eigenvalues[-1] = -negative
    turn = torch.linalg.qr(torch.randn(k, k, dtype=torch.float64))[0]
    made.views["slots"][0, 0, :k, :k] = (n * (turn * eigenvalues) @ turn.T).float()
    cuda.newton_schulz(**made.views, **(settings | {"auto": False}))
    assert made.views["value"].isfinite().all()
    assert made.views["weights"].isfinite().all()
    assert made.views["deep"].item() == 1


@pytest.mark.parametrize("covariance", [False, True], ids=["gram", "covariance"])
def test_a_ridge(covariance: bool, an_emulated_device: cuda.Device) -> None:
    z = torch.randn(200, 20) if covariance else torch.randn(20, 50)
    made, settings = prepare(z[None], an_emulated_device, tile=2, covariance=covariance)
    cuda.newton_schulz(**made.views, **(settings | {"eps": 1e-2}))
    assert made.views["deep"].item() == 0  # nobody comes after to put it right
    want = reference.wasserstein_uniformity(z, eps=1e-2).item()
    assert abs(made.views["value"].item() ** 0.5 - want) <= contract_tolerance(z.dtype)
    grad = reference.wasserstein_uniformity_grad(z, squared=True, eps=1e-2)
    away = gradient(z, made.views, covariance) - grad
    assert away.norm() <= contract_tolerance(z.dtype) * grad.norm()


def test_rows_that_are_their_mean_to_rounding_are_not_pushed(
    an_emulated_device: cuda.Device,
) -> None:
    # centred in float64 they differ by 1e-16 of the mean: a healthy spectrum, of nothing
    n, k = 100, 20
    made, settings = prepare(torch.randn(1, n, k), an_emulated_device, tile=2, covariance=True)
    rounding = 1e-16 * torch.randn(n, k, dtype=torch.float64) / k**0.5
    made.views["slots"][0, 0, :k, :k] = (rounding.T @ rounding).float()
    made.views["mean"].fill_(k**-0.5)
    cuda.newton_schulz(**made.views, **settings)
    assert made.views["deep"].item() == 1
    # sigma / sqrt(lambda), at most 1e-16 over the noise of 1,024 float64 units: no weight
    pushed = (rounding / n**0.5) @ made.views["weights"][0]
    assert pushed.norm() <= 1e-2 * k**0.5


def test_the_shift_is_taken_back_to_first_order(an_emulated_device: cuda.Device) -> None:
    z = torch.randn(2000, 8)
    made, settings = prepare(z[None], an_emulated_device, tile=2, covariance=True)
    settings["shift_units"] = 1e4  # 1.2e-3 |A|_F: of eigenvalues near |A|_F / sqrt 8, 3.4e-3
    cuda.newton_schulz(**made.views, **settings)
    added = 1e4 * settings["unit"]  # to |A|_F, which R_0 is scaled by
    assert made.views["numbers"][0, 4] == pytest.approx(added / (1 + added), rel=1e-6)
    x = z.double() / z.double().norm(dim=1, keepdim=True)
    want = reference.matrix_inv_sqrt(torch.cov(x.T, correction=0))
    error = (made.views["weights"][0] - want).norm() / want.norm()
    # 1.7e-3 without the correction; with it 3/8 (shift/lambda)^2, for lambda down to 0.8 of that
    assert error <= 0.375 * (3.4e-3 / 0.8) ** 2 + 1e-6


def test_weights_in_float32_and_none(an_emulated_device: cuda.Device) -> None:
    z = torch.randn(1, 40, 60)
    wide, settings = prepare(z, an_emulated_device, tile=-1)
    cuda.newton_schulz(**wide.views, **settings)
    single, settings = prepare(z, an_emulated_device, tile=-1, dtype=torch.float32)
    cuda.newton_schulz(**single.views, **settings)
    assert torch.equal(single.views["weights"], wide.views["weights"].float())
    none, settings = prepare(z, an_emulated_device, tile=-1, with_grad=False)
    cuda.newton_schulz(**none.views, **settings)
    assert none.untouched()
    assert torch.equal(none.views["value"], wide.views["value"])


@pytest.fixture
def a_call(an_emulated_device: cuda.Device) -> tuple[Buffers, dict[str, Any]]:
    return prepare(torch.randn(1, 20, 30), an_emulated_device, tile=-1)


def test_buffers_that_overlap(a_call: tuple[Buffers, dict[str, Any]]) -> None:
    made, settings = a_call
    numbers = made.views["numbers"]
    shared = replace(made, views=made.views | {"value": numbers.view(torch.float32)[0, 2:3]})
    with pytest.raises(ValueError, match="value and numbers overlap"):
        cuda.newton_schulz(**shared.views, **settings)
    assert bool(numbers.isnan().all()), "nothing was launched"


@pytest.mark.parametrize(
    ("name", "align"), [("slots", 16), ("numbers", 8), ("scale", 8), ("value", 4), ("counter", 4)]
)
def test_buffers_out_of_line(name: str, align: int, a_call: tuple[Buffers, dict[str, Any]]) -> None:
    made, settings = a_call

    class Shifted:
        """A tensor whose address is off by two bytes."""

        def __init__(self, tensor: Tensor) -> None:
            self.tensor = tensor

        def data_ptr(self) -> int:
            return self.tensor.data_ptr() + 2

        def __getattr__(self, attribute: str) -> Any:
            return getattr(self.tensor, attribute)

    views: dict[str, Any] = made.views | {name: Shifted(made.views[name])}
    with pytest.raises(ValueError, match=f"{name}: an address at a multiple of {align} bytes"):
        cuda.newton_schulz(**views, **settings)


def test_a_buffer_that_is_missing(a_call: tuple[Buffers, dict[str, Any]]) -> None:
    made, settings = a_call
    views = made.views | {"scale": torch.empty(0, dtype=torch.float64)}
    with pytest.raises(ValueError, match="scale: no address given"):
        cuda.newton_schulz(**views, **settings)


def test_what_cuda_answers_is_raised_with_the_calls_name() -> None:
    with emulated.device(2), pytest.raises(RuntimeError, match=r"cudaDeviceGetAttribute: invalid"):
        cuda.device(3)
    z = torch.randn(1, 300, 310)
    with emulated.device(4) as large:
        made, settings = prepare(z, large, tile=3)
    with emulated.device(2), pytest.raises(RuntimeError, match="cudaLaunchCooperativeKernel"):
        cuda.newton_schulz(**made.views, **settings)  # a plan for more than is there
    assert bool(made.views["value"].isnan().all())
