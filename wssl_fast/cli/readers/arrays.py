"""NumPy's npy, memory-mapped, and npz, streamed out of its archive. Nothing is unpickled."""

import math
import warnings
import zipfile
from collections.abc import Iterator
from pathlib import Path
from typing import IO, Any, Literal, NamedTuple

import numpy as np
import torch
from numpy.lib import format as npy_format
from torch import Tensor

from wssl_fast.cli.readers.source import InputError, Source, choose, refusing

DTYPES = {"f2": torch.float16, "f4": torch.float32, "f8": torch.float64}


class Header(NamedTuple):
    shape: tuple[int, ...]
    fortran_order: bool
    dtype: np.dtype[Any]

    @property
    def nbytes(self) -> int:
        return math.prod(self.shape) * self.dtype.itemsize


def open_npy(path: Path, key: str | None) -> Source:
    """One array of two dimensions, never in memory as a whole."""
    with path.open("rb") as file:
        header = _header(path, file)
        start = file.tell()
    dtype, rows, width = _check(path, header)
    _check_size(path, header, path.stat().st_size - start)

    def blocks(count: int) -> Iterator[Tensor]:
        if rows == 0:
            return
        order: Literal["C", "F"] = "F" if header.fortran_order else "C"
        with refusing(path, "cannot be mapped"):
            mapped: np.memmap[Any, Any] = np.memmap(
                path, header.dtype, "r", start, (rows, width), order
            )
        for i in range(0, len(mapped), count):
            yield _tensor(mapped[i : i + count])

    return Source(str(path), rows, width, dtype, blocks)


def open_npz(path: Path, key: str | None) -> Source:
    """One array of an archive, compressed or not, read in order."""
    found, sizes = {}, {}
    with refusing(path, "is truncated or no npz file"), zipfile.ZipFile(path) as archive:
        for info in archive.infolist():
            if info.filename.endswith(".npy"):
                name = info.filename.removesuffix(".npy")
                with archive.open(info.filename) as file:
                    found[name] = _header(path, file)
                    sizes[name] = info.file_size - file.tell()
    usable = {n for n, h in found.items() if len(h.shape) == 2 and _kind(h.dtype) in DTYPES}
    listing = {n: (h.shape, h.dtype) for n, h in found.items()}
    chosen = choose(path, key, listing, "array", usable)
    header = found[chosen]
    dtype, rows, width = _check(path, header)
    _check_size(path, header, sizes[chosen])

    def blocks(count: int) -> Iterator[Tensor]:
        with (
            refusing(path, "is damaged"),
            zipfile.ZipFile(path) as archive,
            archive.open(f"{chosen}.npy") as file,
        ):
            _header(path, file)
            yield from _stream(path, file, header, count)

    return Source(f"{path}[{chosen}]", rows, width, dtype, blocks)


def _header(path: Path, file: IO[bytes]) -> Header:
    with refusing(path, "is truncated or no NumPy file"):
        version = npy_format.read_magic(file)
        readers = {
            (1, 0): npy_format.read_array_header_1_0,
            (2, 0): npy_format.read_array_header_2_0,
        }
        if version not in readers:
            raise InputError(path, f"is in version {version} of the npy format, for named fields")
        return Header(*readers[version](file))


def _kind(dtype: np.dtype[Any]) -> str:
    return dtype.str[1:]


def _check(path: Path, header: Header) -> tuple[torch.dtype, int, int]:
    """dtype, rows and width, if those are what they should be."""
    if header.dtype.hasobject:
        raise InputError(path, "holds Python objects: ragged rows, or no array of numbers")
    if _kind(header.dtype) not in DTYPES:
        raise InputError(path, f"is of {header.dtype}: expected float16, float32 or float64")
    shape = header.shape
    whole = all(type(size) is int for size in shape)  # NumPy takes True for a size
    if len(shape) != 2 or not whole or shape[0] < 0 or shape[1] <= 0:
        raise InputError(path, f"has shape {shape}: expected (rows, columns)")
    return DTYPES[_kind(header.dtype)], *shape


def _check_size(path: Path, header: Header, has: int) -> None:
    """That the data is as long as its header says, before memory is taken for it."""
    if has < header.nbytes:
        raise InputError(
            path,
            f"is truncated: its header promises {header.nbytes:,} bytes of data, it has {has:,}",
        )


def _stream(path: Path, file: IO[bytes], header: Header, count: int) -> Iterator[Tensor]:
    rows, width = header.shape
    if header.fortran_order:  # columns lie together: nothing to stream by rows
        whole = np.frombuffer(_read(path, file, header.nbytes), header.dtype)
        yield from _tensor(whole.reshape(width, rows).T).split(count)
        return
    for i in range(0, rows, count):
        size = min(count, rows - i)
        data = _read(path, file, size * width * header.dtype.itemsize)
        yield _tensor(np.frombuffer(data, header.dtype).reshape(size, width))


def _read(path: Path, file: IO[bytes], size: int) -> bytearray:
    data = bytearray(size)
    filled = 0
    while filled < size:
        got = file.readinto(memoryview(data)[filled:])  # type: ignore[attr-defined]
        if not got:
            raise InputError(path, f"is truncated: {size - filled:,} bytes are missing")
        filled += got
    return data


def _tensor(array: np.ndarray[Any, Any]) -> Tensor:
    if not array.dtype.isnative:
        array = array.astype(array.dtype.newbyteorder("="))
    with warnings.catch_warnings():  # a mapped file is not writable, and nobody writes
        warnings.filterwarnings("ignore", "The given NumPy array is not writable")
        return torch.from_numpy(array)
