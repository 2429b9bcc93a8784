"""csrc/cuda (module ``wssl_fast._cuda``) as functions of tensors: the k x k problem of W2 in
float32 grade, from the parts of K to value and weights, as one hand-written CUDA launch.

It stands where `triton/newton_schulz.py` stands; the products with the rows and the float64 pass
remain Triton's. Internal: shapes and dtypes are the workspace's. Reached as the backend "cuda";
`auto` takes it only where PREFERRED says that it was measured right and faster.
"""

from collections.abc import Sequence
from functools import cache
from importlib import import_module
from types import ModuleType
from typing import Any, NamedTuple

import torch
from torch import Tensor

_module: ModuleType | None = None
_import_error = ""
try:
    _module = import_module("wssl_fast._cuda")
except ImportError as error:
    _import_error = str(error)

LARGEST = 2048
"""Largest k. Beyond, a phase is long beside a launch, and larger tiles win."""

PREFERRED: dict[str, tuple[int, int]] = {}
"""By architecture, the sizes k (first, last) for which `auto` takes this kernel: those for which
committed rows from hardware show it passing the tests and beating Triton's. It has not run on
hardware: there are none."""


class Device(NamedTuple):
    """What a plan needs to know of a device."""

    blocks: int
    """Multiprocessors."""
    shared_bytes: int
    """Of shared memory that one block may have."""
    capability: int
    """80, 90, ..."""


class Plan(NamedTuple):
    """How a call will run; see csrc/cuda/newton_schulz.h."""

    tile: int
    rows: int
    columns: int
    kp: int
    """k, padded."""
    blocks: int
    slots: int
    """kp x kp matrices of a problem."""
    numbers: int
    """float64 numbers of a problem."""
    shared_bytes: int
    barriers: int


def available() -> bool:
    """Whether the compiled module is there; a device is another question."""
    return _module is not None


def why_missing() -> str:
    """What is missing, what that costs and how to get it; empty if nothing is."""
    if available():
        return ""
    return (
        f"the compiled part wssl_fast._cuda cannot be loaded ({_import_error}): Triton's kernels "
        "do the same. Install a CUDA toolkit (nvcc 12.4 or newer) and run `pip install` again; "
        "WSSL_FAST_CUDA=1 makes it fail loudly."
    )


def preferred(architecture: str, k: int) -> bool:
    """Whether `auto` takes this kernel for k x k problems on sm_80, sm_90, ..."""
    first, last = PREFERRED.get(architecture, (1, 0))
    return first <= k <= last and available()


@cache
def device(index: int) -> Device:
    """The CUDA device of this index, as the driver describes it."""
    return Device(*_load().device(index))


def plan(
    k: int,
    *,
    batch: int = 1,
    splits: int = 1,
    multiple: int = 1,
    steps: int = 7,
    device: Device,
    tile: int = -1,
) -> Plan:
    """The plan for `batch` k x k problems given in `splits` parts, kp a multiple of `multiple`.

    `tile`: an index in `tiles()`, or -1 for the fastest by the model.

    Raises:
        ValueError: k below 1 or above LARGEST, a device below sm_80 or with too little shared
            memory: the message says what would do instead.
    """
    return Plan(**_load().plan(k, batch, splits, multiple, steps, tuple(device), tile))


def schedule(k: int, *, batch: int = 1, steps: int = 7, device: Device, tile: int = -1) -> Any:
    """The phases of products: for each, the jobs that share it, as dictionaries."""
    return _load().schedule(k, batch, steps, tuple(device), tile)


def estimate(k: int, *, batch: int = 1, steps: int = 7, device: Device, tile: int = -1) -> Any:
    """The plan as a dictionary, with modelled seconds, waves and what they wait for."""
    return _load().estimate(k, batch, steps, tuple(device), tile)


def tiles() -> list[tuple[int, int, int, int]]:
    """(rows, columns, depth, stages) of every tile there is, largest first."""
    return list(_load().tiles())


def newton_schulz(
    *,
    slots: Tensor,
    diagonal: Tensor,
    numbers: Tensor,
    counter: Tensor,
    scale: Tensor,
    mean: Tensor,
    value: Tensor,
    weights: Tensor,
    deep: Tensor,
    n: int,
    m: int,
    splits: int,
    multiple: int,
    covariance: bool,
    normalize: bool,
    squared: bool,
    with_grad: bool,
    auto: bool,
    eps: float,
    unit: float,
    noise_units: float,
    shift_units: float,
    row_unit: float,
    accepted_error: float,
    coefficients: Sequence[tuple[float, float, float]],
    device: Device,
    tile: int = -1,
) -> None:
    """Value (b,), weights (b, k, k), scale (b, n) and deep (b,) of the problems whose parts lie in
    `slots` (b, slots, kp, kp) float32, on the current stream.

    Arguments as in csrc/cuda/arguments.h; `counter` (1,) int32 is 0 on entry.

    Raises:
        ValueError: a buffer is missing, misaligned or overlaps another; and as `plan`.
        RuntimeError: what CUDA answered, with the call's name.
    """
    on_gpu = slots.device.type == "cuda"
    _load().newton_schulz(
        slots.data_ptr(),
        diagonal.data_ptr(),
        numbers.data_ptr(),
        counter.data_ptr(),
        scale.data_ptr(),
        mean.data_ptr(),
        value.data_ptr(),
        weights.data_ptr(),
        deep.data_ptr(),
        slots.shape[0],
        n,
        m,
        splits,
        multiple,
        covariance,
        normalize,
        squared,
        with_grad,
        weights.dtype == torch.float64,
        auto,
        eps,
        unit,
        noise_units,
        shift_units,
        row_unit,
        accepted_error,
        [list(step) for step in coefficients],
        tuple(device),
        tile,
        slots.device.index if on_gpu else 0,
        torch.cuda.current_stream(slots.device).cuda_stream if on_gpu else 0,
    )


def _load() -> ModuleType:
    if _module is None:
        raise RuntimeError(why_missing())
    return _module
