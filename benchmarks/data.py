"""Real images for the demo: Fashion-MNIST in its idx files, else scikit-learn's digits.

The idx format (Y. LeCun, http://yann.lecun.com/exdb/mnist): two zero bytes, a type byte (8 is an
unsigned byte), the number of dimensions, each as a big-endian 32-bit integer, then the data.
Nothing here unpickles.
"""

import gzip
import math
import os
import struct
import zlib
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO

import torch
from torch import Tensor
from torch.nn import functional as F

DEBIAN_FOLDER = Path("/usr/share/datasets/fashion-mnist")
UNSIGNED_BYTE = 0x08
LARGEST_DIMENSION = 10_000_000  # a header that asks for more is damaged, not large
HOW_TO_GET = (
    "Fashion-MNIST's four idx files (gzipped or not) come with the Debian package "
    "dataset-fashion-mnist (apt-get install dataset-fashion-mnist) or from "
    "https://github.com/zalandoresearch/fashion-mnist; name their folder with DATA=<folder>. "
    "Without DATA and without the package, scikit-learn's digits are used."
)


class DataFileError(RuntimeError):
    """A data file that is missing, unreadable, truncated or not what its name says."""

    def __init__(self, path: Path, problem: str) -> None:
        super().__init__(f"{path}: {problem}. {HOW_TO_GET}")


@dataclass(frozen=True)
class ImageSet:
    """Grey images in [0, 1], shape (count, 1, height, width), with labels 0..9."""

    name: str
    source: str
    train_images: Tensor
    train_labels: Tensor
    test_images: Tensor
    test_labels: Tensor

    def __str__(self) -> str:
        height, width = self.train_images.shape[-2:]
        return (
            f"{self.name} ({len(self.train_images):,} training and {len(self.test_images):,} test "
            f"images of {height}x{width}) from {self.source}"
        )


def load_images(folder: str | os.PathLike[str] | None = None) -> ImageSet:
    """Fashion-MNIST from `folder`, else from $DATA, else from the Debian package, else digits.

    A folder that was named, or a package that is installed, must be whole: a bad file raises
    `DataFileError` and never falls back to other images.
    """
    named = folder or os.environ.get("DATA")
    if named:
        return load_fashion_mnist(Path(named))
    if DEBIAN_FOLDER.is_dir():
        return load_fashion_mnist(DEBIAN_FOLDER)
    return load_digits()


def load_fashion_mnist(folder: Path) -> ImageSet:
    """The four idx files of `folder`, checked against their headers and against each other."""
    if not folder.is_dir():
        raise DataFileError(folder, "no such folder")
    train_images, train_labels = _read_split(folder, "train")
    test_images, test_labels = _read_split(folder, "t10k")
    if train_images.shape[1:] != test_images.shape[1:]:
        raise DataFileError(
            folder,
            f"training images are {_by(train_images.shape[1:])} and test images "
            f"{_by(test_images.shape[1:])}, expected one size",
        )
    return ImageSet(
        name="Fashion-MNIST",
        source=str(folder),
        train_images=train_images.unsqueeze(1).float() / 255,
        train_labels=train_labels.long(),
        test_images=test_images.unsqueeze(1).float() / 255,
        test_labels=test_labels.long(),
    )


def load_digits(side: int = 16, test_count: int = 360) -> ImageSet:
    """scikit-learn's 1,797 digits of 8x8, enlarged to side x side so that crops keep some detail.

    The last `test_count` are the test set: the file is in the order of its writers, so the test
    set's writers are (all but one) unseen.
    """
    from sklearn.datasets import load_digits as sklearn_digits

    bunch = sklearn_digits()
    images = torch.from_numpy(bunch.images).float().unsqueeze(1) / 16  # grey levels are 0..16
    images = F.interpolate(images, size=(side, side), mode="bilinear", align_corners=False)
    labels = torch.from_numpy(bunch.target).long()
    return ImageSet(
        name="digits",
        source="scikit-learn (8x8, enlarged)",
        train_images=images[:-test_count],
        train_labels=labels[:-test_count],
        test_images=images[-test_count:],
        test_labels=labels[-test_count:],
    )


def read_idx(path: Path, dimensions: int) -> Tensor:
    """One idx file of unsigned bytes, gzipped when its name ends in .gz; shape from its header."""
    try:
        with _open(path) as file:
            shape = _read_header(path, file, dimensions)
            expected = math.prod(shape)
            body = file.read(expected + 1)  # one more than promised shows a file that is too long
    except (EOFError, gzip.BadGzipFile, zlib.error) as error:
        raise DataFileError(path, f"damaged or truncated gzip data ({error})") from error
    except OSError as error:
        raise DataFileError(path, f"cannot be read ({error.strerror or error})") from error
    if len(body) != expected:
        has = f"only {len(body):,}" if len(body) < expected else "more"
        raise DataFileError(
            path, f"its header promises {_by(shape)} = {expected:,} bytes, it has {has}"
        )
    return torch.frombuffer(bytearray(body), dtype=torch.uint8).reshape(shape)


def _open(path: Path) -> BinaryIO:
    return gzip.open(path, "rb") if path.suffix == ".gz" else path.open("rb")  # type: ignore[return-value]


def _read_header(path: Path, file: BinaryIO, dimensions: int) -> tuple[int, ...]:
    size = 4 + 4 * dimensions
    header = file.read(size)
    if len(header) < size:
        raise DataFileError(
            path, f"truncated in its header ({len(header)} bytes, expected at least {size})"
        )
    expected_magic = UNSIGNED_BYTE << 8 | dimensions
    magic, *shape = struct.unpack(f">{1 + dimensions}I", header)
    if magic != expected_magic:
        raise DataFileError(
            path,
            f"not an idx file of {dimensions}-dimensional unsigned bytes: magic number "
            f"{magic:#010x}, expected {expected_magic:#010x}",
        )
    if not all(0 < length <= LARGEST_DIMENSION for length in shape):
        raise DataFileError(path, f"impossible size {_by(shape)} in its header")
    return tuple(shape)


def _read_split(folder: Path, split: str) -> tuple[Tensor, Tensor]:
    images_path = _find(folder, f"{split}-images-idx3-ubyte")
    labels_path = _find(folder, f"{split}-labels-idx1-ubyte")
    images = read_idx(images_path, dimensions=3)
    labels = read_idx(labels_path, dimensions=1)
    if len(images) != len(labels):
        raise DataFileError(
            labels_path, f"{len(labels):,} labels for {len(images):,} images in {images_path.name}"
        )
    if int(labels.max()) > 9:
        raise DataFileError(labels_path, f"label {int(labels.max())}, expected 0 to 9")
    return images, labels


def _find(folder: Path, stem: str) -> Path:
    for path in (folder / f"{stem}.gz", folder / stem):
        if path.exists():
            return path
    raise DataFileError(folder / f"{stem}.gz", "no such file (nor the same without .gz)")


def _by(shape: tuple[int, ...] | list[int] | torch.Size) -> str:
    return " x ".join(f"{length:,}" for length in shape)
