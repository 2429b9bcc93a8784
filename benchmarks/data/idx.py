"""Fashion-MNIST in its idx files, and any other set of grey images in the same four files.

The idx format (Y. LeCun, http://yann.lecun.com/exdb/mnist): two zero bytes, a type byte (8 is an
unsigned byte), the number of dimensions, each as a big-endian 32-bit integer, then the data.
"""

import gzip
import math
import struct
import zlib
from pathlib import Path
from typing import BinaryIO

from torch import Tensor

from benchmarks.data.images import DataFileError, ImageSet, Published, as_bytes, by, read_up_to

DEBIAN_FOLDER = Path("/usr/share/datasets/fashion-mnist")
UNSIGNED_BYTE = 0x08
LARGEST_DIMENSION = 10_000_000  # a header that asks for more is damaged, not large
HOW_TO_GET = (
    "Fashion-MNIST's four idx files (gzipped or not) come with the Debian package "
    "dataset-fashion-mnist (apt-get install dataset-fashion-mnist, or without root: apt-get "
    "download and dpkg-deb -x) or from https://github.com/zalandoresearch/fashion-mnist; name "
    "their folder with --data <folder> (make demo: DATA=<folder>)"
)

PUBLISHED = {  # of the content, which a new compression leaves alone
    "train-images-idx3-ubyte": Published(47_040_016, "f4a8712d7a061bf5bd6d2ca38dc4d50a"),
    "train-labels-idx1-ubyte": Published(60_008, "9018921c3c673c538a1fc5bad174d6f9"),
    "t10k-images-idx3-ubyte": Published(7_840_016, "8181f5470baa50b63fa0f6fddb340f0a"),
    "t10k-labels-idx1-ubyte": Published(10_008, "15d484375f8d13e6eb1aabb0c3f46965"),
}


def load_fashion_mnist(folder: Path, *, verify: bool = False) -> ImageSet:
    """The four idx files of `folder`, checked against their headers and against each other.

    verify: and against the published files' checksums. Without it, other images in the same four
    files are welcome.
    """
    if not folder.is_dir():
        raise DataFileError(folder, "no such folder", HOW_TO_GET)
    train_images, train_labels = _read_split(folder, "train", verify)
    test_images, test_labels = _read_split(folder, "t10k", verify)
    if train_images.shape[1:] != test_images.shape[1:]:
        raise DataFileError(
            folder,
            f"training images are {by(train_images.shape[1:])} and test images "
            f"{by(test_images.shape[1:])}, expected one size",
            HOW_TO_GET,
        )
    return ImageSet(
        name="Fashion-MNIST",
        source=str(folder),
        train_images=train_images.unsqueeze(1),
        train_labels=train_labels.long(),
        test_images=test_images.unsqueeze(1),
        test_labels=test_labels.long(),
    )


def read_idx(path: Path, dimensions: int, published: Published | None = None) -> Tensor:
    """One idx file of unsigned bytes, gzipped when its name ends in .gz; shape from its header."""
    try:
        with _open(path) as file:
            header, shape = _read_header(path, file, dimensions)
            expected = math.prod(shape)
            body = read_up_to(file, expected + 1)  # one more shows a file that is too long
    except (EOFError, gzip.BadGzipFile, zlib.error) as error:
        problem = f"damaged or truncated gzip data ({error})"
        raise DataFileError(path, problem, HOW_TO_GET) from error
    except OSError as error:
        problem = f"cannot be read ({error.strerror or error})"
        raise DataFileError(path, problem, HOW_TO_GET) from error
    if len(body) != expected:
        has = f"only {len(body):,}" if len(body) < expected else "more"
        raise DataFileError(
            path, f"its header promises {by(shape)} = {expected:,} bytes, it has {has}", HOW_TO_GET
        )
    problem = published.problem(bytearray(header) + body) if published else None
    if problem:
        raise DataFileError(path, f"{problem}; other images need data.verify=false", HOW_TO_GET)
    return as_bytes(body, shape)


def _open(path: Path) -> BinaryIO:
    return gzip.open(path, "rb") if path.suffix == ".gz" else path.open("rb")  # type: ignore[return-value]


def _read_header(path: Path, file: BinaryIO, dimensions: int) -> tuple[bytes, tuple[int, ...]]:
    size = 4 + 4 * dimensions
    header = file.read(size)
    if len(header) < size:
        raise DataFileError(
            path,
            f"truncated in its header ({len(header)} bytes, expected at least {size})",
            HOW_TO_GET,
        )
    expected_magic = UNSIGNED_BYTE << 8 | dimensions
    magic, *shape = struct.unpack(f">{1 + dimensions}I", header)
    if magic != expected_magic:
        raise DataFileError(
            path,
            f"not an idx file of {dimensions}-dimensional unsigned bytes: magic number "
            f"{magic:#010x}, expected {expected_magic:#010x}",
            HOW_TO_GET,
        )
    if not all(0 < length <= LARGEST_DIMENSION for length in shape):
        raise DataFileError(path, f"impossible size {by(shape)} in its header", HOW_TO_GET)
    return header, tuple(shape)


def _read_split(folder: Path, split: str, verify: bool) -> tuple[Tensor, Tensor]:
    found = []
    for stem, dimensions in ((f"{split}-images-idx3-ubyte", 3), (f"{split}-labels-idx1-ubyte", 1)):
        path = _find(folder, stem)
        found.append((path, read_idx(path, dimensions, PUBLISHED[stem] if verify else None)))
    (images_path, images), (labels_path, labels) = found
    if len(images) != len(labels):
        raise DataFileError(
            labels_path,
            f"{len(labels):,} labels for {len(images):,} images in {images_path.name}",
            HOW_TO_GET,
        )
    if int(labels.max()) > 9:
        raise DataFileError(labels_path, f"label {int(labels.max())}, expected 0 to 9", HOW_TO_GET)
    return images, labels


def _find(folder: Path, stem: str) -> Path:
    for path in (folder / f"{stem}.gz", folder / stem):
        if path.exists():
            return path
    raise DataFileError(
        folder / f"{stem}.gz", "no such file (nor the same without .gz)", HOW_TO_GET
    )
