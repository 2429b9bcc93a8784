"""benchmarks.data.binary: records come out where they were put, and every fault is named."""

import hashlib
import tarfile
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from benchmarks.data import DataFileError, binary
from benchmarks.data.binary import load_cifar10, load_cifar100, load_stl10
from benchmarks.data.images import Published

RECORDS = 10  # a file of CIFAR: each of ten classes once
PIXELS = 3 * 32 * 32
STL_COUNTS = (10, 3, 10)


def pattern(seed: int, count: int) -> bytes:
    return bytes((seed + 7 * i) % 256 for i in range(count))


def cifar10_file(seed: int) -> bytes:
    return b"".join(bytes([i]) + pattern(seed + i, PIXELS) for i in range(RECORDS))


@pytest.fixture
def cifar10(tmp_path: Path) -> Path:
    folder = tmp_path / "cifar-10-batches-bin"
    folder.mkdir()
    for i in range(1, 6):
        (folder / f"data_batch_{i}.bin").write_bytes(cifar10_file(i))
    (folder / "test_batch.bin").write_bytes(cifar10_file(9))
    return tmp_path


def test_cifar10(cifar10: Path) -> None:
    found = load_cifar10(cifar10, per_file=RECORDS)
    assert found.train_images.shape == (5 * RECORDS, 3, 32, 32)
    assert found.train_images.dtype == torch.uint8
    assert found.train_labels.tolist() == list(range(10)) * 5
    assert found.test_labels.tolist() == list(range(10))
    third = bytes(found.train_images[RECORDS + 2].flatten().tolist())  # channel, row, column
    assert third == pattern(2 + 2, PIXELS)
    inside = load_cifar10(cifar10 / "cifar-10-batches-bin", per_file=RECORDS)
    assert torch.equal(inside.train_images, found.train_images)


def cut(content: bytes) -> bytes:
    return content[:-1]


@pytest.mark.parametrize(
    ("damage", "says"),
    [
        (cut, r"expected 30,730 bytes, it has only 30,729"),
        (lambda content: content + b"\0", r"expected 30,730 bytes, it has more"),
        (lambda content: b"\x0a" + content[1:], "label 10, expected 0 to 9"),
        (lambda content: b"\x01" + content[1:], "classes have 4 to 6 images"),
    ],
    ids=["short", "long", "label out of range", "a label changed"],
)
def test_damaged_cifar10(cifar10: Path, damage: Callable[[bytes], bytes], says: str) -> None:
    path = cifar10 / "cifar-10-batches-bin" / "data_batch_3.bin"
    path.write_bytes(damage(path.read_bytes()))
    with pytest.raises(DataFileError, match=says) as error:
        load_cifar10(cifar10, per_file=RECORDS)
    assert "www.cs.toronto.edu" in str(error.value)


def test_missing_cifar10(cifar10: Path, tmp_path_factory: pytest.TempPathFactory) -> None:
    (cifar10 / "cifar-10-batches-bin" / "data_batch_5.bin").unlink()
    with pytest.raises(DataFileError, match=r"data_batch_5\.bin: no such file"):
        load_cifar10(cifar10, per_file=RECORDS)
    empty = tmp_path_factory.mktemp("empty")
    with pytest.raises(DataFileError, match=r"neither cifar-10-batches-bin/\*\.bin nor"):
        load_cifar10(empty)
    with pytest.raises(DataFileError, match="no such folder"):
        load_cifar10(empty / "absent")


def test_archive_in_place_of_its_files(
    cifar10: Path, tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = tmp_path_factory.mktemp("archive")
    archive = folder / "cifar-10-binary.tar.gz"
    with tarfile.open(archive, "w:gz") as tar:
        tar.add(cifar10 / "cifar-10-batches-bin", "cifar-10-batches-bin")
    with pytest.raises(DataFileError, match=r"MD5 .*the published archive has c32a1d4a"):
        load_cifar10(folder, per_file=RECORDS)
    md5 = hashlib.md5(archive.read_bytes()).hexdigest()
    monkeypatch.setattr(binary, "CIFAR10", replace(binary.CIFAR10, archive_md5=md5))
    found = load_cifar10(folder, per_file=RECORDS)
    assert torch.equal(found.train_images, load_cifar10(cifar10, per_file=RECORDS).train_images)
    archive.write_bytes(archive.read_bytes()[:-500])
    with pytest.raises(DataFileError, match="damaged or truncated archive"):
        load_cifar10(folder, per_file=RECORDS, verify=False)


def test_cifar100_takes_fine_labels(tmp_path: Path) -> None:
    record = [bytes([i // 5, i]) + pattern(i, PIXELS) for i in range(100)]
    (tmp_path / "train.bin").write_bytes(b"".join(record))
    (tmp_path / "test.bin").write_bytes(b"".join(reversed(record)))
    found = load_cifar100(tmp_path, counts=(100, 100))
    assert found.classes == 100
    assert found.train_labels.tolist() == list(range(100))
    assert found.test_labels.tolist() == list(range(99, -1, -1))
    assert bytes(found.test_images[0].flatten().tolist()) == pattern(99, PIXELS)


@pytest.fixture
def stl10(tmp_path: Path) -> Path:
    size = 3 * 96 * 96
    labelled, unlabelled, test = STL_COUNTS
    (tmp_path / "train_X.bin").write_bytes(pattern(1, labelled * size))
    (tmp_path / "train_y.bin").write_bytes(bytes(range(1, 11)))
    (tmp_path / "unlabeled_X.bin").write_bytes(pattern(2, unlabelled * size))
    (tmp_path / "test_X.bin").write_bytes(pattern(3, test * size))
    (tmp_path / "test_y.bin").write_bytes(bytes(range(10, 0, -1)))
    return tmp_path


def test_stl10_is_stored_column_by_column(stl10: Path) -> None:
    found = load_stl10(stl10, verify=False, counts=STL_COUNTS)
    assert found.train_images.shape == (13, 3, 96, 96)
    assert found.train_labels.tolist() == [*range(10), -1, -1, -1]
    assert found.test_labels.tolist() == list(range(9, -1, -1))
    column = bytes(found.train_images[0, 0, :, 1].tolist())  # after the 96 bytes of column 0
    assert column == pattern(1, 192)[96:]


def test_stl10_checksums_and_labels(stl10: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(DataFileError, match="the published file has 138,240,000"):
        load_stl10(stl10, counts=STL_COUNTS)
    published = {
        path.name: Published(path.stat().st_size, hashlib.md5(path.read_bytes()).hexdigest())
        for path in stl10.glob("*.bin")
    }
    monkeypatch.setattr(binary, "STL10", replace(binary.STL10, published=published))
    assert load_stl10(stl10, counts=STL_COUNTS).name == "STL-10"
    (stl10 / "test_y.bin").write_bytes(bytes(range(10)))
    with pytest.raises(DataFileError, match="MD5"):
        load_stl10(stl10, counts=STL_COUNTS)
    with pytest.raises(DataFileError, match="labels 0 to 9, expected 1 to 10"):
        load_stl10(stl10, verify=False, counts=STL_COUNTS)
