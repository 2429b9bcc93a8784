"""Randomness as a function of where in a run it is used: what was drawn before has no say.

Every draw of a run comes after `seed_for(seed, purpose, ...)`. A run that is resumed at any step
therefore sees the images, the order and the augmentations that it would have seen.
"""

import hashlib

import torch
from torch import Tensor


def mixed(seed: int, *purpose: object) -> int:
    """63 bits that differ, for all purposes, wherever any of the arguments does."""
    text = "/".join(map(str, (seed, *purpose)))
    return int.from_bytes(hashlib.blake2b(text.encode(), digest_size=8).digest()) >> 1


def seed_for(seed: int, *purpose: object) -> None:
    """Seed PyTorch's generators, on every device."""
    torch.manual_seed(mixed(seed, *purpose))


def order(count: int, seed: int, epoch: int) -> Tensor:
    """The order of an epoch's images, the same on every process."""
    generator = torch.Generator().manual_seed(mixed(seed, "order", epoch))
    return torch.randperm(count, generator=generator)
