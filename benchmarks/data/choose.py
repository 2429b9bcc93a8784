"""A set of images by its name, or whatever is at hand."""

import os
from collections.abc import Callable
from pathlib import Path

from benchmarks.data import binary, idx
from benchmarks.data.binary import load_cifar10, load_cifar100, load_stl10
from benchmarks.data.digits import load_digits
from benchmarks.data.images import DataFileError, ImageSet

READERS: dict[str, Callable[..., ImageSet]] = {
    "fashion-mnist": idx.load_fashion_mnist,
    "cifar10": load_cifar10,
    "cifar100": load_cifar100,
    "stl10": load_stl10,
}
NAMES = (*READERS, "digits")
HELP = {
    "fashion-mnist": idx.HOW_TO_GET,
    "cifar10": binary.CIFAR10.how_to_get,
    "cifar100": binary.CIFAR100.how_to_get,
    "stl10": binary.STL10.how_to_get,
}


def load(name: str, folder: str | os.PathLike[str] | None, *, verify: bool = True) -> ImageSet:
    """The set `name` from `folder`; Fashion-MNIST also from Debian's package, digits from nowhere.

    verify: compare checksums and lengths with the published files' where they are known.
    """
    if name == "digits":
        return load_digits()
    if name not in READERS:
        raise ValueError(f"dataset must be one of {', '.join(NAMES)}, got {name!r}")
    if folder is None and name == "fashion-mnist" and idx.DEBIAN_FOLDER.is_dir():
        folder = idx.DEBIAN_FOLDER
    if folder is None:
        raise DataFileError(Path(name), "no folder was named", HELP[name])
    return READERS[name](Path(folder), verify=verify)


def load_images(folder: str | os.PathLike[str] | None = None) -> ImageSet:
    """For the demo: idx files of `folder`, else of $DATA, else of the Debian package, else digits.

    A folder that was named, or a package that is installed, must be whole: a bad file raises
    `DataFileError` and never falls back to other images.
    """
    named = folder or os.environ.get("DATA")
    if named:
        return idx.load_fashion_mnist(Path(named))
    if idx.DEBIAN_FOLDER.is_dir():
        return idx.load_fashion_mnist(idx.DEBIAN_FOLDER)
    return load_digits()
