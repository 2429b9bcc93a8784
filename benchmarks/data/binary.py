"""CIFAR-10, CIFAR-100 and STL-10 in their binary distributions, unpacked or as the archive.

CIFAR (https://www.cs.toronto.edu/~kriz/cifar.html): records of label bytes (CIFAR-10: one;
CIFAR-100: coarse, then fine) and 3 x 32 x 32 pixels, channel by channel, row by row.
STL-10 (https://cs.stanford.edu/~acoates/stl10): pixels 3 x 96 x 96, channel by channel, *column* by
column; labels 1 to 10 in a file of their own. Lengths are fixed, so a cut file shows at once; the
label counts of CIFAR show a record that slipped; STL-10's files and every archive have checksums.
"""

import hashlib
import tarfile
import zlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import torch
from torch import Tensor

from benchmarks.data.images import (
    UNLABELLED,
    DataFileError,
    ImageSet,
    Published,
    as_bytes,
    read_up_to,
)

SIDE = 32
STL_SIDE = 96


@dataclass(frozen=True)
class Distribution:
    """Where the files of a set are and what is known of them."""

    name: str
    subfolder: str  # that the archive unpacks to; its files may also lie in the folder itself
    archive: str
    archive_md5: str
    page: str
    published: dict[str, Published] = field(default_factory=dict)

    @property
    def how_to_get(self) -> str:
        """For a person without the files."""
        return (
            f"{self.name}: download {self.archive} from {self.page} and name its folder, unpacked "
            "or not, with --data <folder>"
        )

    def reader(self, folder: Path, verify: bool) -> Callable[[str, int], tuple[Path, bytearray]]:
        """A call that reads a file of exactly so many bytes and says where it lay."""
        if not folder.is_dir():
            raise DataFileError(folder, "no such folder", self.how_to_get)
        for place in (folder / self.subfolder, folder):
            if any(place.glob("*.bin")):
                return lambda name, length: self._from_folder(place, name, length, verify)
        archive = folder / self.archive
        if not archive.is_file():
            raise DataFileError(
                folder,
                f"neither {self.subfolder}/*.bin nor *.bin nor {self.archive} in it",
                self.how_to_get,
            )
        if verify:
            with archive.open("rb") as file:
                found = hashlib.file_digest(file, _md5).hexdigest()
            if found != self.archive_md5:
                raise DataFileError(
                    archive, f"MD5 {found}, the published archive has {self.archive_md5}",
                    self.how_to_get,
                )  # fmt: skip
        return lambda name, length: self._from_archive(archive, name, length)

    def _from_folder(
        self, folder: Path, name: str, length: int, verify: bool
    ) -> tuple[Path, bytearray]:
        path = folder / name
        try:
            with path.open("rb") as file:
                content = read_up_to(file, length + 1)
        except FileNotFoundError as error:
            raise DataFileError(path, "no such file", self.how_to_get) from error
        except OSError as error:
            problem = f"cannot be read ({error.strerror or error})"
            raise DataFileError(path, problem, self.how_to_get) from error
        self._whole(path, content, length)
        problem = self.published[name].problem(content) if verify and name in self.published else ""
        if problem:
            raise DataFileError(path, problem, self.how_to_get)
        return path, content

    def _from_archive(self, archive: Path, name: str, length: int) -> tuple[Path, bytearray]:
        path = archive / name  # for messages
        try:
            with tarfile.open(archive, "r:gz") as tar:
                file = tar.extractfile(f"{self.subfolder}/{name}")
                content = read_up_to(file, length + 1) if file else bytearray()
        except KeyError as error:
            raise DataFileError(path, "not in the archive", self.how_to_get) from error
        except (tarfile.TarError, EOFError, OSError, zlib.error) as error:
            problem = f"damaged or truncated archive ({error})"
            raise DataFileError(path, problem, self.how_to_get) from error
        self._whole(path, content, length)
        return path, content

    def _whole(self, path: Path, content: bytearray, length: int) -> None:
        if len(content) != length:
            has = f"only {len(content):,}" if len(content) < length else "more"
            raise DataFileError(path, f"expected {length:,} bytes, it has {has}", self.how_to_get)


CIFAR10 = Distribution(
    "CIFAR-10",
    "cifar-10-batches-bin",
    "cifar-10-binary.tar.gz",
    "c32a1d4ab5d03f1284b67883e8d87530",
    "https://www.cs.toronto.edu/~kriz/cifar.html",
)
CIFAR100 = Distribution(
    "CIFAR-100",
    "cifar-100-binary",
    "cifar-100-binary.tar.gz",
    "03b5dce01913d631647c71ecec9e9cb8",
    "https://www.cs.toronto.edu/~kriz/cifar.html",
)
STL10 = Distribution(
    "STL-10",
    "stl10_binary",
    "stl10_binary.tar.gz",
    "91f7769df0f17e558f3565bffb0c7dfb",
    "https://cs.stanford.edu/~acoates/stl10",
    {
        "train_X.bin": Published(5_000 * 3 * 96 * 96, "918c2871b30a85fa023e0c44e0bee87f"),
        "train_y.bin": Published(5_000, "5a34089d4802c674881badbb80307741"),
        "unlabeled_X.bin": Published(100_000 * 3 * 96 * 96, "5242ba1fed5e4be9e1e742405eb56ca4"),
        "test_X.bin": Published(8_000 * 3 * 96 * 96, "7f263ba9f9e0b06b93213547f721ac82"),
        "test_y.bin": Published(8_000, "36f9794fa4beb8a2c72628de14fa638e"),
    },
)


def load_cifar10(folder: Path, *, verify: bool = True, per_file: int = 10_000) -> ImageSet:
    """Five training files and one test file of `per_file` records each."""
    read = CIFAR10.reader(folder, verify)
    train = [
        _cifar(CIFAR10, *read(f"data_batch_{i}.bin", per_file * (1 + 3 * SIDE**2)), 1, 10)
        for i in range(1, 6)
    ]
    test = _cifar(CIFAR10, *read("test_batch.bin", per_file * (1 + 3 * SIDE**2)), 1, 10)
    images, labels = (torch.cat(part) for part in zip(*train, strict=True))
    found = ImageSet("CIFAR-10", str(folder), images, labels, *test)
    _equal_classes(CIFAR10, folder, found)
    return found


def load_cifar100(
    folder: Path, *, verify: bool = True, counts: Sequence[int] = (50_000, 10_000)
) -> ImageSet:
    """Fine labels of train.bin and test.bin, of `counts` records."""
    read = CIFAR100.reader(folder, verify)
    splits = []
    for name, count in zip(("train.bin", "test.bin"), counts, strict=True):
        splits += _cifar(CIFAR100, *read(name, count * (2 + 3 * SIDE**2)), 2, 100)
    found = ImageSet("CIFAR-100", str(folder), *splits, classes=100)
    _equal_classes(CIFAR100, folder, found)
    return found


def load_stl10(
    folder: Path, *, verify: bool = True, counts: Sequence[int] = (5_000, 100_000, 8_000)
) -> ImageSet:
    """Labelled and unlabelled images to train on, in this order; `counts` of each and of tests."""
    read = STL10.reader(folder, verify)
    labelled, unlabelled, test = counts
    train_images = torch.cat(
        [
            _stl_images(read, "train_X.bin", labelled),
            _stl_images(read, "unlabeled_X.bin", unlabelled),
        ]
    )
    train_labels = torch.cat(
        [_stl_labels(read, "train_y.bin", labelled), torch.full((unlabelled,), UNLABELLED)]
    )
    test_images = _stl_images(read, "test_X.bin", test)
    test_labels = _stl_labels(read, "test_y.bin", test)
    return ImageSet("STL-10", str(folder), train_images, train_labels, test_images, test_labels)


def _md5() -> "hashlib._Hash":
    return hashlib.md5(usedforsecurity=False)


def _cifar(
    of: Distribution, path: Path, content: bytearray, label_bytes: int, classes: int
) -> tuple[Tensor, Tensor]:
    """Images (n, 3, 32, 32) and the last label byte of each record."""
    records = as_bytes(content, (-1, label_bytes + 3 * SIDE**2))
    labels = records[:, label_bytes - 1].long()
    if int(labels.max()) >= classes:
        problem = f"label {int(labels.max())}, expected 0 to {classes - 1}"
        raise DataFileError(path, problem, of.how_to_get)
    return records[:, label_bytes:].reshape(-1, 3, SIDE, SIDE), labels


def _equal_classes(of: Distribution, folder: Path, found: ImageSet) -> None:
    """Both splits hold every class equally often, in the published sets."""
    for split, labels in (("training", found.train_labels), ("test", found.test_labels)):
        counts = labels.bincount(minlength=found.classes)
        if int(counts.min()) != int(counts.max()):
            raise DataFileError(
                folder,
                f"{split} classes have {int(counts.min()):,} to {int(counts.max()):,} images, "
                "expected equally many",
                of.how_to_get,
            )


def _stl_images(
    read: Callable[[str, int], tuple[Path, bytearray]], name: str, count: int
) -> Tensor:
    _, content = read(name, count * 3 * STL_SIDE**2)
    return as_bytes(content, (count, 3, STL_SIDE, STL_SIDE)).transpose(2, 3)


def _stl_labels(
    read: Callable[[str, int], tuple[Path, bytearray]], name: str, count: int
) -> Tensor:
    path, content = read(name, count)
    labels = as_bytes(content, (count,)).long() - 1
    if not 0 <= int(labels.min()) <= int(labels.max()) <= 9:
        problem = f"labels {int(labels.min()) + 1} to {int(labels.max()) + 1}, expected 1 to 10"
        raise DataFileError(path, problem, STL10.how_to_get)
    return labels
