"""Real images from files that the user has: nothing is downloaded and nothing is unpickled."""

from benchmarks.data.choose import NAMES, load, load_images
from benchmarks.data.digits import load_digits
from benchmarks.data.idx import load_fashion_mnist, read_idx
from benchmarks.data.images import DataFileError, ImageSet, pixels

__all__ = [
    "NAMES",
    "DataFileError",
    "ImageSet",
    "load",
    "load_digits",
    "load_fashion_mnist",
    "load_images",
    "pixels",
    "read_idx",
]
