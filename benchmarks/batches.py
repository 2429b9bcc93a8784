"""Batches that are measured: a healthy one, a collapsed one, and sets that outgrow the cache."""

import math

import torch
from torch import Tensor

from benchmarks.machine import last_level_cache_bytes

COLLAPSED_RANK = 12
COLLAPSED_NOISE = 1e-4  # noise's largest singular value over the signal's


def healthy(n: int, m: int, seed: int = 0) -> Tensor:
    """Gaussian rows (n x m) whose directions' scales fall gently, as i^-0.25: all in use."""
    generator = torch.Generator().manual_seed(seed)
    scales = torch.arange(1, m + 1, dtype=torch.float32).pow(-0.25)
    return torch.randn(n, m, generator=generator) * scales


def collapsed(n: int, m: int, seed: int = 0) -> Tensor:
    """Dimensional collapse: rank 12, and noise 1e-4 of its largest singular value elsewhere."""
    generator = torch.Generator().manual_seed(seed)
    rank = min(COLLAPSED_RANK, n, m)
    signal = torch.randn(n, rank, generator=generator) @ torch.randn(rank, m, generator=generator)
    noise = torch.randn(n, m, generator=generator)
    largest_of_noise = math.sqrt(n) + math.sqrt(m)  # Gaussian matrix's largest singular value
    scale = COLLAPSED_NOISE * torch.linalg.matrix_norm(signal, 2).item() / largest_of_noise
    return signal + scale * noise


def rotated(n: int, m: int) -> list[Tensor]:
    """Healthy batches to rotate through: together twice the last-level cache, two to eight."""
    count = math.ceil(2 * last_level_cache_bytes() / (4 * n * m))
    return [healthy(n, m, seed) for seed in range(min(max(count, 2), 8))]


def near_constant(n: int, m: int, seed: int = 0) -> Tensor:
    """Rows that almost agree, |mu|^2 about 0.99: healthy once the mean is taken off."""
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(1, m, generator=generator) + 0.1 * healthy(
        n, m, seed + 1
    ) / _root_mean_square(m)


def _root_mean_square(m: int) -> float:
    return math.sqrt(torch.arange(1, m + 1, dtype=torch.float64).pow(-0.5).mean().item())
