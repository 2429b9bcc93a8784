"""W2 of a batch of problems: which kernels run, in which order. z (b, n, m).

    Gram formulation        gram, newton_schulz                 | gram, newton_schulz   in float64
    covariance formulation  statistics, covariance, newton_schulz | covariance, newton_schulz

The first pass is float32-grade and decides, on the device, which problems need float64: `deep`. The
second is always launched, and returns at once where nothing is asked of it; so no host waits, and
all of it can be captured in a CUDA graph. float64 rows and precision="double" have the second pass
alone. Backward: a launch a pass as well, of which each takes its own problems.

The newton_schulz of the first pass may be csrc/cuda's instead: newton_schulz_cuda.py.
"""

import torch
from torch import Tensor

from wssl_fast.backends import cuda
from wssl_fast.backends.eager.numerics import working_dtype
from wssl_fast.backends.eager.state import weights_dtype
from wssl_fast.backends.triton import dispatch, newton_schulz_cuda, w2_backward, workspace
from wssl_fast.backends.triton.covariance import covariance, splits_for
from wssl_fast.backends.triton.gram import gram
from wssl_fast.backends.triton.gram import mode as gram_mode
from wssl_fast.backends.triton.gram import splits_for as gram_splits_for
from wssl_fast.backends.triton.launch import by_batches
from wssl_fast.backends.triton.newton_schulz import newton_schulz, persistent
from wssl_fast.backends.triton.newton_schulz_small import fits, newton_schulz_small
from wssl_fast.backends.triton.statistics import statistics
from wssl_fast.backends.triton.workspace import Task, Workspace

Outputs = tuple[Tensor, Tensor, Tensor, Tensor, Tensor]


@by_batches
def forward(
    z: Tensor,
    normalize: bool,
    squared: bool,
    eps: float,
    precision: str,
    with_grad: bool,
    by_covariance: bool,
    backend: str = "auto",
) -> Outputs:
    """value (b,), weights (b, k, k), scale (b, n), mean (b, m or 0), deep (b,): see ops/w2.py.

    `backend`: "cuda" for csrc/cuda's root, "triton" for Triton's, "auto" for what was measured.
    """
    b, n, m = z.shape
    k = m if by_covariance else n
    target = dispatch.target_of(z.device)
    by_cuda = backend == "cuda" or (backend == "auto" and cuda.preferred(target.name, k))
    double = z.dtype == torch.float64 or precision == "double"
    given = by_covariance or z.dtype == torch.float64  # norms are taken before the product
    if given:
        scale, mean = statistics(z, normalize)
    else:
        scale = torch.empty(b, n, dtype=torch.float64, device=z.device)
        mean = torch.empty(b, 0, dtype=torch.float64, device=z.device)
    weights = torch.empty(
        (b, k, k) if with_grad else (b, 0, 0),
        dtype=weights_dtype(z.dtype, precision),
        device=z.device,
    )
    value = torch.empty(b, dtype=working_dtype(z), device=z.device)
    deep = torch.empty(b, dtype=torch.bool, device=z.device)
    flags = deep.view(torch.int8)
    wide_mode = dispatch.float64_mode(target)
    for wide in (True,) if double else (False, True):
        flagged = wide and not double
        in_cuda = by_cuda and not wide
        root_mode = wide_mode if wide else "fp16x3"
        if by_covariance:
            product = root_mode
            work = _workspace(z, "covariance", root_mode, root_mode, k, target, in_cuda)
            covariance(z, scale, mean, work, root_mode, flags=flags if flagged else None)
        else:
            product = wide_mode if wide else gram_mode(z, precision, target)
            work = _workspace(z, "gram", product, root_mode, k, target, in_cuda)
            gram(z, work, product, scale=scale if given else None, flags=flags if flagged else None)
        if in_cuda:
            root = newton_schulz_cuda.newton_schulz
        else:
            root = newton_schulz_small if fits(k, root_mode, target) else newton_schulz
        root(
            work,
            Task(
                product=root_mode,
                rows_product=product,
                n=n,
                m=m,
                covariance=by_covariance,
                normalize=normalize,
                squared=squared,
                eps=eps,
                with_grad=with_grad,
                auto=precision == "auto",
                decides=not wide,
                flagged=flagged,
                scaled=given,
                scale=scale,
                mean=mean,
                value=value,
                weights=weights,
                deep=flags,
            ),
        )
        del work  # before the next pass makes its own
    return value, weights, scale, mean if by_covariance else mean[:, :0], deep


def _workspace(
    z: Tensor,
    kernel: str,
    product: str,
    root_mode: str,
    k: int,
    target: dispatch.Target,
    in_cuda: bool,
) -> Workspace:
    b, n, m = z.shape
    product_tile = dispatch.tile(kernel, product, k, target)
    root = "newton_schulz_small" if fits(k, root_mode, target) else "newton_schulz"
    # parts lie where the matrices of newton_schulz will: five cost nothing
    most = 5 if k > 256 else 32
    splits_of = gram_splits_for if kernel == "gram" else splits_for
    splits = splits_of(n, m, product_tile, target, most)
    if in_cuda:
        return newton_schulz_cuda.allocate(
            b, k, splits=splits, product_tile=product_tile, device=z.device
        )
    return workspace.allocate(
        b,
        k,
        splits=splits,
        wide=root_mode != "fp16x3",
        product_tile=product_tile,
        tile=dispatch.tile(root, root_mode, k, target),
        phase_tile=None
        if persistent(k, target)
        else dispatch.tile("newton_schulz_phases", root_mode, k, target),
        device=z.device,
    )


@by_batches
def backward(
    grad: Tensor,
    value: Tensor,
    z: Tensor,
    weights: Tensor,
    scale: Tensor,
    mean: Tensor,
    deep: Tensor,
    normalize: bool,
    squared: bool,
    by_covariance: bool,
) -> Tensor:
    """grad dW2/dz (b, n, m), in the dtype of z."""
    dz = torch.empty(z.shape, dtype=z.dtype, device=z.device)
    if by_covariance:
        w2_backward.covariance_backward(
            grad, value, z, weights, scale, mean, deep, normalize, squared, dz
        )
    else:
        w2_backward.gram_backward(grad, value, z, weights, scale, deep, normalize, squared, dz)
    return dz
