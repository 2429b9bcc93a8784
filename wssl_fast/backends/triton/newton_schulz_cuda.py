"""What newton_schulz.py does in float32 grade, by csrc/cuda: the same parts in, the same out."""

import torch
from torch import Tensor

from wssl_fast.backends import cuda
from wssl_fast.backends.eager.newton_schulz import SCHEDULES
from wssl_fast.backends.eager.numerics import ACCEPTED_ERROR, NOISE, ROW_UNIT
from wssl_fast.backends.triton import dispatch, workspace
from wssl_fast.backends.triton.launch import record
from wssl_fast.backends.triton.newton_schulz import NOISE_UNITS, SHIFT_UNITS
from wssl_fast.backends.triton.workspace import Workspace

COEFFICIENTS = SCHEDULES[torch.float32]
WARPS = 8


def allocate(
    batch: int, k: int, *, splits: int, product_tile: dispatch.Tile, device: torch.device
) -> Workspace:
    """Workspace as the kernel's plan for `device` wants it; raises where there is no plan."""
    plan = cuda.plan(
        k,
        batch=batch,
        splits=splits,
        multiple=product_tile.size,
        steps=len(COEFFICIENTS),
        device=cuda.device(index_of(device)),
    )
    return workspace.of_plan(
        batch, k, plan, splits=splits, product_tile=product_tile, device=device
    )


def newton_schulz(
    work: Workspace,
    product: str,
    *,
    rows_product: str,
    n: int,
    m: int,
    covariance: bool,
    normalize: bool,
    squared: bool,
    eps: float,
    with_grad: bool,
    auto: bool,
    decides: bool,
    scaled: bool,
    scale: Tensor,
    mean: Tensor,
    value: Tensor,
    weights: Tensor,
    deep: Tensor,
    flagged: bool,
) -> None:
    """As newton_schulz.newton_schulz, of float32-grade problems that decide for themselves."""
    if product != "fp16x3" or flagged or not decides or scaled != covariance:
        raise ValueError("csrc/cuda has no float64 pass")
    tensors = (work.slots, work.diagonal, work.numbers, scale, mean, value, weights, deep)
    device = cuda.device(index_of(work.slots.device))
    if not record(newton_schulz, (device.blocks,), tensors, warps=WARPS, cooperative=True):
        return
    cuda.newton_schulz(
        slots=work.slots,
        diagonal=work.diagonal,
        numbers=work.numbers,
        counter=work.counter,
        scale=scale,
        mean=mean,
        value=value,
        weights=weights,
        deep=deep,
        n=n,
        m=m,
        splits=work.splits,
        multiple=work.product_tile.size,
        covariance=covariance,
        normalize=normalize,
        squared=squared,
        with_grad=with_grad,
        auto=auto,
        eps=eps,
        unit=torch.finfo(torch.float32).eps,
        noise_units=NOISE_UNITS.get(rows_product, NOISE[torch.float32]),
        shift_units=SHIFT_UNITS[False, covariance],
        row_unit=ROW_UNIT,
        accepted_error=ACCEPTED_ERROR,
        coefficients=COEFFICIENTS,
        device=device,
    )


def index_of(device: torch.device) -> int:
    """Of a CUDA device; 0 for anything else, where tests put an emulated one."""
    if device.type != "cuda":
        return 0
    return device.index if device.index is not None else torch.cuda.current_device()
