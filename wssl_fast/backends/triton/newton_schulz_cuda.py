"""What newton_schulz.py does in float32 grade, by csrc/cuda: the same parts in, the same out."""

import torch

from wssl_fast.backends import cuda
from wssl_fast.backends.eager.newton_schulz import SCHEDULES
from wssl_fast.backends.eager.numerics import ACCEPTED_ERROR, NOISE, ROW_UNIT
from wssl_fast.backends.triton import dispatch, workspace
from wssl_fast.backends.triton.launch import record
from wssl_fast.backends.triton.newton_schulz import NOISE_UNITS, SHIFT_UNITS
from wssl_fast.backends.triton.workspace import Task, Workspace

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


def newton_schulz(work: Workspace, task: Task) -> None:
    """As newton_schulz.newton_schulz, of float32-grade problems that decide for themselves."""
    if task.wide or task.flagged or not task.decides or task.scaled != task.covariance:
        raise ValueError("csrc/cuda has no float64 pass")
    outputs = (task.scale, task.value, task.weights, task.deep)
    tensors = (work.slots, work.diagonal, work.numbers, task.mean, *outputs)
    device = cuda.device(index_of(work.slots.device))
    if not record(newton_schulz, (device.blocks,), tensors, warps=WARPS, cooperative=True):
        return
    cuda.newton_schulz(
        slots=work.slots,
        diagonal=work.diagonal,
        numbers=work.numbers,
        counter=work.counter,
        scale=task.scale,
        mean=task.mean,
        value=task.value,
        weights=task.weights,
        deep=task.deep,
        n=task.n,
        m=task.m,
        splits=work.splits,
        multiple=work.product_tile.size,
        covariance=task.covariance,
        normalize=task.normalize,
        squared=task.squared,
        with_grad=task.with_grad,
        auto=task.auto,
        eps=task.eps,
        unit=torch.finfo(torch.float32).eps,
        noise_units=NOISE_UNITS.get(task.rows_product, NOISE[torch.float32]),
        shift_units=SHIFT_UNITS[False, task.covariance],
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
