"""What the eager backend knows about rounding: dtypes, noise levels, chunk sizes.

Noise. A Gram or covariance matrix accumulated in a format of unit eps has eigenvalues that are
uncertain by 0.02 to 0.93 eps |C|_F in their lower half, from flat spectra to near-constant ones,
and by up to 5 where 20,000 rows are clones, whose products round alike instead of at random
(benchmarks/studies/gram_noise.py); CLONES is twice that, for longer batches. float32 takes the
ordinary figure: clones then look like signal at the noise level, which `auto` answers with a
float64 pass. float64, after which nothing comes, takes the larger one, and still resolves 2e-7 of
the largest singular value.
"""

import torch
from torch import Tensor

NOISE = {torch.float32: 1.25, torch.float64: 10.0}
CLONES = 10.0

# Rows closer to their mean than this share of its norm are that mean: formed in float64, they
# differ by a few units of rounding, and a factor of a hundred keeps those from being pushed.
ROW_UNIT = 1024 * torch.finfo(torch.float64).eps

# A float32 pass stands when its estimated relative gradient error is below this: an order below
# the 3e-3 promised for `precision="auto"`, because the same relative error of every eigenvalue
# would shift W2 by half of it, and W2 is promised to 1e-5.
ACCEPTED_ERROR = 2e-4

# Where `auto` has the eigenvalues, looks unsure ones up in the rows and counts what rounding mixes
# between those and the others. Of 1,069 batches up to it none is off by more than 1.3e-3 in the
# gradient and 5e-7 in W2 (benchmarks/studies/estimate.py).
ACCEPTED_LOOKED_UP = 7e-4

# Directions of a float32 pass whose weight is off by more than this are worth a look at the rows,
# if they are no more than a share of all; each then costs one row of a thin product. A healthy
# square batch has 0.14 of them at k = 2048, as k^(1/4): under a quarter to 16,000. No more than
# DROWNED_SHARE of them may be lost in the noise: a healthy square batch loses 1 in 200, a collapse
# about half, and looking those up does not spare it the float64 pass.
UNSURE = 1e-4
UNSURE_SHARE = 1 / 4
DROWNED_SHARE = 1 / 8

# Row norms that float32 may square, multiply and divide by without leaving its range.
SAFE_NORM = (1e-12, 1e12)

# Rows are scaled into that range, a ridge with their square: this far, in float32.
LARGEST_RIDGE = 1e24


def working_dtype(z: Tensor) -> torch.dtype:
    """The dtype of results: float64 for float64 input, float32 for everything else."""
    return torch.float64 if z.dtype == torch.float64 else torch.float32


def noise_level(c: Tensor, dtype: torch.dtype) -> Tensor:
    """Absolute uncertainty of the eigenvalues of c (k, k) when accumulated in `dtype`. ()"""
    norm: Tensor = torch.linalg.vector_norm(c, dtype=torch.float64)
    return NOISE[dtype] * torch.finfo(dtype).eps * norm


def soft_step(eigenvalues: Tensor, noise: Tensor) -> Tensor:
    """Weight of an eigenvalue: 0 up to the noise level, 1 from four times it, C1 between.

    Rounding noise of a null direction must enter neither value nor gradient, and the gradient
    must stay bounded and smooth where a direction sinks into the noise.
    """
    u = ((eigenvalues - noise) / (3 * noise).clamp_min(torch.finfo(torch.float64).tiny)).clamp(0, 1)
    return u * u * (3 - 2 * u)
