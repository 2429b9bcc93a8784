"""benchmarks.data: good files are read, bad ones name the file, the fault and the way to get it."""

import gzip
import hashlib
import struct
from collections.abc import Callable
from pathlib import Path

import pytest
import torch

from benchmarks.data import (
    DataFileError,
    idx,
    load,
    load_digits,
    load_fashion_mnist,
    load_images,
    pixels,
    read_idx,
)
from benchmarks.data.images import Published

TRAIN, TEST = 7, 3
SIDE = 5


def idx_file(shape: tuple[int, ...], body: bytes, kind: int = 8) -> bytes:
    return struct.pack(f">{1 + len(shape)}I", kind << 8 | len(shape), *shape) + body


def images(count: int, side: int = SIDE) -> bytes:
    return idx_file((count, side, side), bytes(i % 256 for i in range(count * side * side)))


def labels(count: int) -> bytes:
    return idx_file((count,), bytes(i % 10 for i in range(count)))


CONTENT = {
    "train-images-idx3-ubyte": images(TRAIN),
    "train-labels-idx1-ubyte": labels(TRAIN),
    "t10k-images-idx3-ubyte": images(TEST),
    "t10k-labels-idx1-ubyte": labels(TEST),
}


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A whole small data set, half of it gzipped."""
    for name, content in CONTENT.items():
        if "images" in name:
            (tmp_path / f"{name}.gz").write_bytes(gzip.compress(content))
        else:
            (tmp_path / name).write_bytes(content)
    return tmp_path


def test_whole_folder(folder: Path) -> None:
    found = load_fashion_mnist(folder)
    assert found.train_images.shape == (TRAIN, 1, SIDE, SIDE)
    assert found.test_images.shape == (TEST, 1, SIDE, SIDE)
    assert found.train_images.dtype == torch.uint8
    assert found.train_labels.tolist() == list(range(TRAIN))
    expected = torch.arange(TRAIN * SIDE * SIDE).remainder(256) / 255
    torch.testing.assert_close(pixels(found.train_images).flatten(), expected)
    assert str(folder) in str(found)


def truncate(content: bytes) -> bytes:
    return content[:-1]


BAD_RAW: list[tuple[str, Callable[[bytes], bytes], str]] = [
    ("one byte short", truncate, "only"),
    ("one byte long", lambda content: content + b"\0", "it has more"),
    ("header cut", lambda content: content[:6], "truncated in its header"),
    ("empty", lambda content: b"", "truncated in its header"),
    ("wrong magic", lambda content: b"\x89PNG" + content[4:], "magic number 0x89504e47"),
    ("images for labels", lambda content: images(2), "expected 0x00000801"),
    ("no rows", lambda content: idx_file((0,), b""), "impossible size 0"),
    ("absurd count", lambda content: idx_file((2**32 - 1,), b""), "impossible size"),
    ("wrong count", lambda content: labels(TRAIN - 1), "6 labels for 7 images"),
    ("label 200", lambda content: content[:-1] + b"\xc8", "label 200, expected 0 to 9"),
]


@pytest.mark.parametrize(("fault", "damage", "says"), BAD_RAW, ids=[row[0] for row in BAD_RAW])
def test_bad_label_file(
    folder: Path, fault: str, damage: Callable[[bytes], bytes], says: str
) -> None:
    path = folder / "train-labels-idx1-ubyte"
    path.write_bytes(damage(path.read_bytes()))
    with pytest.raises(DataFileError) as error:
        load_fashion_mnist(folder)
    message = str(error.value)
    assert str(path) in message
    assert says in message
    assert "apt-get install dataset-fashion-mnist" in message


@pytest.mark.parametrize(
    ("damage", "says"),
    [
        (truncate, "damaged or truncated gzip data"),
        (lambda content: content[: len(content) // 2], "damaged or truncated gzip data"),
        (lambda content: gzip.decompress(content), "damaged or truncated gzip data"),
        (lambda content: content[:-8] + b"\0" * 4 + content[-4:], "CRC check failed"),
        (lambda content: gzip.compress(gzip.decompress(content)[:-1]), "only"),
    ],
    ids=["last byte gone", "half gone", "not gzip", "wrong checksum", "short inside"],
)
def test_bad_gzip(folder: Path, damage: Callable[[bytes], bytes], says: str) -> None:
    path = folder / "train-images-idx3-ubyte.gz"
    path.write_bytes(damage(path.read_bytes()))
    with pytest.raises(DataFileError, match=says) as error:
        load_fashion_mnist(folder)
    assert str(path) in str(error.value)


def test_missing_file(folder: Path) -> None:
    (folder / "t10k-labels-idx1-ubyte").unlink()
    with pytest.raises(DataFileError, match=r"t10k-labels-idx1-ubyte\.gz: no such file"):
        load_fashion_mnist(folder)


def test_missing_folder(tmp_path: Path) -> None:
    with pytest.raises(DataFileError, match="no such folder"):
        load_images(tmp_path / "absent")


def test_folder_in_place_of_a_file(tmp_path: Path) -> None:
    with pytest.raises(DataFileError, match="cannot be read"):
        read_idx(tmp_path, dimensions=3)


def test_sizes_differ_between_splits(folder: Path) -> None:
    path = folder / "t10k-images-idx3-ubyte.gz"
    path.write_bytes(gzip.compress(images(TEST, side=SIDE + 1)))
    with pytest.raises(DataFileError, match="expected one size"):
        load_fashion_mnist(folder)


def test_read_idx_copies(folder: Path) -> None:
    found = read_idx(folder / "train-labels-idx1-ubyte", dimensions=1)
    found += 1  # a read-only buffer would warn or fail here
    assert found[0] == 1


def test_choice_of_images(
    folder: Path, monkeypatch: pytest.MonkeyPatch, tmp_path_factory: pytest.TempPathFactory
) -> None:
    absent = tmp_path_factory.mktemp("data") / "absent"
    monkeypatch.delenv("DATA", raising=False)
    monkeypatch.setattr(idx, "DEBIAN_FOLDER", absent)
    assert load_images().name == "digits"
    monkeypatch.setattr(idx, "DEBIAN_FOLDER", folder)
    assert load_images().source == str(folder)
    monkeypatch.setenv("DATA", str(absent))
    with pytest.raises(DataFileError):
        load_images()
    assert load_images(folder).name == "Fashion-MNIST"


def test_digits() -> None:
    found = load_digits()
    assert len(found.train_images) + len(found.test_images) == 1797
    assert found.train_images.dtype == torch.uint8
    assert found.train_images.max() == 255
    assert found.test_labels.unique().tolist() == list(range(10))


def test_published_content_is_told_from_other_images(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with pytest.raises(DataFileError, match=r"the published file has 47,040,016.*data.verify"):
        load("fashion-mnist", folder)
    known = {
        stem: Published(len(content), hashlib.md5(content).hexdigest())
        for stem, content in CONTENT.items()
    }
    monkeypatch.setattr(idx, "PUBLISHED", known)
    assert load("fashion-mnist", folder).name == "Fashion-MNIST"
    path = folder / "train-labels-idx1-ubyte"
    path.write_bytes(path.read_bytes()[:-1] + b"\x00")
    with pytest.raises(DataFileError, match=r"MD5 .* of its content"):
        load("fashion-mnist", folder)
    assert load("fashion-mnist", folder, verify=False).name == "Fashion-MNIST"


def test_unnamed_folder_says_how_to_get_the_files(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(idx, "DEBIAN_FOLDER", Path("/absent"))
    with pytest.raises(DataFileError, match="apt-get install dataset-fashion-mnist"):
        load("fashion-mnist", None)
    with pytest.raises(DataFileError, match=r"cifar-10-binary\.tar\.gz from"):
        load("cifar10", None)
    with pytest.raises(ValueError, match="must be one of"):
        load("imagenet", None)
    assert load("digits", None).name == "digits"
