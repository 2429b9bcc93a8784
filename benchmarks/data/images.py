"""What every reader returns, the error that every reader raises, and reading to the last byte."""

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO

import torch
from torch import Tensor

UNLABELLED = -1


class DataFileError(RuntimeError):
    """A data file that is missing, unreadable, truncated or not what its name says."""

    def __init__(self, path: Path, problem: str, how_to_get: str) -> None:
        super().__init__(f"{path}: {problem}. {how_to_get}")


@dataclass(frozen=True)
class ImageSet:
    """Images as bytes, (count, channels, height, width), with labels 0 to classes - 1.

    Unlabelled training images, where a set has them, carry the label -1 and come last.
    """

    name: str
    source: str
    train_images: Tensor  # uint8
    train_labels: Tensor  # int64
    test_images: Tensor
    test_labels: Tensor
    classes: int = 10

    def __str__(self) -> str:
        height, width = self.train_images.shape[-2:]
        return (
            f"{self.name} ({len(self.train_images):,} training and {len(self.test_images):,} test "
            f"images of {height}x{width}) from {self.source}"
        )


def pixels(images: Tensor) -> Tensor:
    """Bytes as float32 in [0, 1]."""
    return images.float() / 255


@dataclass(frozen=True)
class Published:
    """What a file holds where it is what its publishers gave out: length and MD5 of its content."""

    length: int
    md5: str

    def problem(self, content: bytearray) -> str | None:
        """Why `content` is not the published one, or None."""
        if len(content) != self.length:
            return f"{len(content):,} bytes of content, the published file has {self.length:,}"
        found = hashlib.md5(content, usedforsecurity=False).hexdigest()
        if found != self.md5:
            return f"MD5 {found} of its content, the published file has {self.md5}"
        return None


def read_up_to(file: BinaryIO, length: int) -> bytearray:
    """At most `length` bytes into one buffer: large files exist once in memory."""
    content = bytearray(length)
    view, found = memoryview(content), 0
    while found < length:
        count = file.readinto(view[found:])  # type: ignore[attr-defined]
        if not count:
            break
        found += count
    view.release()
    del content[found:]
    return content


def as_bytes(content: bytearray, shape: Sequence[int]) -> Tensor:
    """The content as a uint8 tensor that owns it."""
    return torch.frombuffer(content, dtype=torch.uint8).reshape(tuple(shape))


def by(shape: Sequence[int]) -> str:
    """As "60,000 x 28 x 28"."""
    return " x ".join(f"{length:,}" for length in shape)
