"""Readers: every format gives the same rows, block by block, and says what is wrong with a file."""

import os
import random
import struct
import subprocess
import sys
import warnings
import zipfile
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import save_file

from tests.cli import files
from wssl_fast.cli.readers import InputError, open_sources


def refused(path: Path, match: str, key: str | None = None, *, reading: bool = False) -> None:
    """An `InputError` that names the file; on opening, or only when its rows are read."""
    if reading:
        (source,) = open_sources([path], key)
        with pytest.raises(InputError, match=match) as error:
            list(source.blocks(16))
    else:
        with pytest.raises(InputError, match=match) as error:
            open_sources([path], key)
    assert str(path) in str(error.value)


@pytest.mark.parametrize("name", files.FORMATS)
def test_formats(name: str, tmp_path: Path) -> None:
    write, suffix = files.FORMATS[name]
    z = files.rows()
    (source,) = open_sources([write(tmp_path / f"a{suffix}", z)])
    assert (source.rows, source.width, source.dtype) == (60, 8, torch.float32)
    blocks = list(source.blocks(25))
    assert torch.equal(torch.cat(blocks), z)
    assert max(map(len, blocks)) <= 25


@pytest.mark.parametrize("dtype", [torch.float16, torch.float64])
def test_dtypes_of_npy(dtype: torch.dtype, tmp_path: Path) -> None:
    z = files.rows().to(dtype)
    (source,) = open_sources([files.npy(tmp_path / "a.npy", z)])
    assert source.dtype == dtype
    assert torch.equal(next(source.blocks(60)), z)


def test_bfloat16_of_safetensors(tmp_path: Path) -> None:
    z = files.rows().bfloat16()
    (source,) = open_sources([files.safetensors(tmp_path / "a.safetensors", z)])
    assert torch.equal(next(source.blocks(60)), z)


def test_keys(tmp_path: Path) -> None:
    z = files.rows()
    path = tmp_path / "a.safetensors"
    save_file({"train": z, "test": 2 * z, "labels": torch.arange(60)}, path)
    (source,) = open_sources([path], "test")
    assert source.name == f"{path}[test]"
    assert torch.equal(next(source.blocks(60)), 2 * z)
    refused(path, r"more than one tensor of rows of floats .*train F32\[60, 8\].*--key")
    refused(path, "has no tensor 'val'; it has ", "val")
    refused(path, "tensor 'labels' is not rows of floats", "labels")
    np.savez(tmp_path / "a.npz", a=z.numpy(), b=z.numpy())
    (source,) = open_sources([tmp_path / "a.npz"], "b")
    assert source.rows == 60
    refused(tmp_path / "a.npz", "more than one array")
    np.savez(tmp_path / "b.npz", labels=np.arange(3))
    refused(tmp_path / "b.npz", r"has no array of rows of floats \(labels int64\[3\]\)")


def test_folders_give_their_files_in_order(tmp_path: Path) -> None:
    for i in (2, 0, 1):
        files.npy(tmp_path / f"{i}.npy", files.rows(4, seed=i))
    (tmp_path / "notes.txt").write_text("no embeddings")
    names = [Path(source.name).name for source in open_sources([tmp_path])]
    assert names == ["0.npy", "1.npy", "2.npy"]
    (tmp_path / "empty").mkdir()
    refused(tmp_path / "empty", "a folder without .npy, .npz, .safetensors, .parquet files")


def test_files_that_do_not_belong_together(tmp_path: Path) -> None:
    a = files.npy(tmp_path / "a.npy", files.rows())
    wide = files.npy(tmp_path / "wide.npy", files.rows(m=9))
    half = files.npy(tmp_path / "half.npy", files.rows().half())
    with pytest.raises(InputError, match=r"wide.npy: has rows of 9 columns, .*a.npy of 8"):
        open_sources([a, wide])
    with pytest.raises(InputError, match=r"half.npy: is float16, .*a.npy is float32"):
        open_sources([a, half])


def test_damaged_npy(tmp_path: Path) -> None:
    path = files.npy(tmp_path / "a.npy", files.rows())
    whole = path.read_bytes()
    path.write_bytes(whole[:-1])
    refused(path, "truncated: its header promises 1,920 bytes of data, it has 1,919")
    path.write_bytes(whole[:20])
    refused(path, "truncated or no NumPy file")
    path.write_bytes(b"")
    refused(path, "truncated or no NumPy file")
    path.write_bytes(b"a,b\n1,2\n" * 20)
    refused(path, "truncated or no NumPy file")


def test_npy_of_other_things(tmp_path: Path) -> None:
    path = tmp_path / "a.npy"
    np.save(path, np.arange(6).reshape(2, 3))
    refused(path, "is of int64: expected float16, float32 or float64")
    np.save(path, np.zeros(6))
    refused(path, r"has shape \(6,\): expected \(rows, columns\)")
    np.save(path, np.zeros((4, 0)))
    refused(path, r"has shape \(4, 0\)")
    np.save(path, np.zeros((0, 4)))
    refused(path, "has no rows")
    ragged = np.empty(2, object)
    ragged[:] = [[1.0], [1.0, 2.0]]
    np.save(path, ragged, allow_pickle=True)
    refused(path, "Python objects: ragged rows")  # and nothing was unpickled


HEADERS = {
    "unclosed bracket": "{'descr': '<f4', 'fortran_order': False, 'shape': (60, 8), ",
    "no literal": "{'descr': '<f4', 'fortran_order': False, 'shape': (60, 8} }",
    "a list as a name": "{[]: '<f4', 'fortran_order': False, 'shape': (60, 8)}",
    "an empty dtype": "{'descr': (), 'fortran_order': False, 'shape': (60, 8)}",
    "a bool": "{'descr': '<f4', 'fortran_order': False, 'shape': (True, 8)}",
    "negative rows": "{'descr': '<f4', 'fortran_order': False, 'shape': (-5, 8)}",
    "both negative": "{'descr': '<f4', 'fortran_order': False, 'shape': (-5, -8)}",
    "endless": "{'descr': '<f4', 'fortran_order': False, 'shape': (5, " + "9" * 30 + ")}",
    "nested": "{'descr': " + "-" * 5000 + "1, 'fortran_order': False, 'shape': (60, 8)}",
}


@pytest.mark.parametrize("header", HEADERS.values(), ids=HEADERS)
def test_npy_headers_of_strangers(header: str, tmp_path: Path) -> None:
    text = header.encode() + b"\n"
    data = files.rows().numpy().tobytes()
    npy = tmp_path / "a.npy"
    npy.write_bytes(b"\x93NUMPY\x01\x00" + struct.pack("<H", len(text)) + text + data)
    match = r"no NumPy file|cannot be read|has shape|header promises"
    refused(npy, match)
    npz = tmp_path / "a.npz"
    with zipfile.ZipFile(npz, "w") as archive:
        archive.write(npy, "embeddings.npy")
    refused(npz, match)


@pytest.mark.parametrize("method", ["deflated", "bzip2", "lzma"])
def test_npz_whose_stream_is_damaged(method: str, tmp_path: Path) -> None:
    npy = files.npy(tmp_path / "a.npy", files.rows(5000))
    path = tmp_path / "a.npz"
    with zipfile.ZipFile(path, "w", getattr(zipfile, f"ZIP_{method.upper()}")) as archive:
        archive.write(npy, "embeddings.npy")
    whole = path.read_bytes()
    for place in (46, 60, len(whole) // 2):  # the stream begins at 44
        damaged = bytearray(whole)
        damaged[place : place + 4] = b"\xff" * 4
        path.write_bytes(damaged)
        with pytest.raises(InputError, match=r"no NumPy file|is damaged|cannot be read") as error:
            list(open_sources([path])[0].blocks(512))
        assert str(path) in str(error.value)


def test_npz_that_is_encrypted_or_compressed_by_a_stranger(tmp_path: Path) -> None:
    path = files.npz_compressed(tmp_path / "a.npz", files.rows())
    whole = path.read_bytes()
    directory = whole.index(b"PK\x01\x02")
    for local, central, value, match in (
        (6, 8, 1, "cannot be read .*encrypted"),
        (8, 10, 97, "cannot be read .*compression method"),
    ):
        changed = bytearray(whole)
        changed[local] = changed[directory + central] = value
        path.write_bytes(changed)
        refused(path, match)


@pytest.mark.parametrize("write", [files.npz, files.npz_compressed])
def test_damaged_npz(tmp_path: Path, write: object) -> None:
    path = write(tmp_path / "a.npz", files.rows(5000))  # type: ignore[operator]
    whole = path.read_bytes()
    path.write_bytes(whole[:-100])
    refused(path, "truncated or no npz file")
    flipped = bytearray(whole)
    flipped[len(whole) // 2] ^= 0xFF
    path.write_bytes(flipped)
    refused(path, "is damaged", reading=True)


def test_npz_whose_member_is_short(tmp_path: Path) -> None:
    path = files.npz_compressed(tmp_path / "a.npz", files.rows())
    with zipfile.ZipFile(path) as archive:
        member = archive.read("embeddings.npy")
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("embeddings.npy", member[:-8])
    refused(path, "truncated: its header promises 1,920 bytes of data, it has 1,912")
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("embeddings.npy", member[:-8])
    short = bytearray(path.read_bytes())
    size = short.index(b"PK\x01\x02") + 24
    short[size : size + 4] = len(member).to_bytes(4, "little")  # a directory that lies
    path.write_bytes(short)
    refused(path, "is truncated: 8 bytes are missing", reading=True)


def test_damaged_safetensors(tmp_path: Path) -> None:
    path = files.safetensors(tmp_path / "a.safetensors", files.rows())
    whole = path.read_bytes()
    for length in (len(whole) - 1, 12, 0):
        path.write_bytes(whole[:length])
        refused(path, "truncated or no safetensors file")


def test_damaged_and_ragged_parquet(tmp_path: Path) -> None:
    arrow, parquet = files.arrow_or_skip()
    path = files.parquet(tmp_path / "a.parquet", files.rows())
    whole = path.read_bytes()
    path.write_bytes(whole[:-50])
    refused(path, "truncated or no parquet file")

    def lists(values: list[object]) -> None:
        column = arrow.array(values, arrow.list_(arrow.float32()))
        parquet.write_table(arrow.table({"z": column}), path)

    lists([[1.0, 2.0]] * 20 + [[1.0]] + [[1.0, 2.0]] * 20)
    refused(path, "is ragged: row 20 has 1 columns, the others 2", reading=True)
    lists([[1.0, 2.0]] * 20 + [None])
    refused(path, "row 20 is null", reading=True)
    lists([[], []])
    refused(path, "rows of 0 columns")
    lists([])
    refused(path, "has no rows")
    lists([[1.0, None]])
    (source,) = open_sources([path])
    assert next(source.blocks(1)).isnan().tolist() == [[False, True]]
    parquet.write_table(arrow.table({"x": [1.0], "y": [2.0]}), path)
    refused(path, r"no column of rows of floats \(x double\[1\], y double\[1\]\)")


def test_parquet_with_two_columns_of_one_name(tmp_path: Path) -> None:
    arrow, parquet = files.arrow_or_skip()
    path = tmp_path / "a.parquet"
    lists = arrow.array([[1.0, 2.0]], arrow.list_(arrow.float32()))
    parquet.write_table(arrow.table([lists, lists], names=["z", "z"]), path)
    for key in (None, "z"):
        refused(path, "has more than one column 'z'", key)
    ids = arrow.array([1])
    parquet.write_table(arrow.table([ids, lists, ids], names=["id", "z", "id"]), path)
    (source,) = open_sources([path])
    assert next(source.blocks(1)).tolist() == [[1.0, 2.0]]


def test_parquet_that_promises_rows_and_has_none(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    _, parquet = files.arrow_or_skip()
    path = files.parquet_lists(tmp_path / "a.parquet", files.rows())
    monkeypatch.setattr(parquet.ParquetFile, "iter_batches", lambda self, **_: iter(()))
    refused(path, "promises 60 rows and has none")


def test_paths_that_are_no_files(tmp_path: Path) -> None:
    refused(tmp_path / "absent.npy", "cannot be read .No such file")
    (tmp_path / "a.csv").touch()
    refused(tmp_path / "a.csv", "unknown format '.csv': expected .npy, .npz")
    refused(tmp_path / "absent", r"unknown format '\(no suffix\)'")
    refused(tmp_path / f"{'x' * 300}.npy", "cannot be read .File name too long")


LOCKED = """
import os, sys
from pathlib import Path
from wssl_fast.cli.readers import InputError, open_sources
if os.geteuid() == 0:
    os.setuid(65534)  # root reads everything
for path in ("locked/a.npy", "locked", "a.npy"):
    try:
        open_sources([Path(path)])
    except InputError as error:
        print(error)
"""


@pytest.mark.skipif(not hasattr(os, "geteuid"), reason="permissions are Unix's")
def test_paths_without_permission(tmp_path: Path) -> None:
    locked = tmp_path / "locked"
    locked.mkdir()
    files.npy(locked / "a.npy", files.rows())
    files.npy(tmp_path / "a.npy", files.rows()).chmod(0)
    locked.chmod(0)
    found = subprocess.run(
        [sys.executable, "-c", LOCKED], cwd=tmp_path, capture_output=True, text=True, check=False
    )
    locked.chmod(0o700)
    assert found.stdout.splitlines() == [
        f"{path}: cannot be read (Permission denied)"
        for path in ("locked/a.npy", "locked", "a.npy")
    ], found.stderr


def npz_by(method: int) -> Callable[[Path, torch.Tensor], Path]:
    def write(path: Path, z: torch.Tensor) -> Path:
        npy = files.npy(path.with_suffix(".npy"), z)
        with zipfile.ZipFile(path, "w", method) as archive:
            archive.write(npy, "embeddings.npy")
        return path

    return write


def mutant(whole: bytes, rng: random.Random) -> bytes:
    """Bits flipped, bytes set, cut out or put in, the end cut off; often in the headers."""
    data = bytearray(whole)
    for _ in range(rng.choice((1, 1, 2, 4))):
        near = rng.randrange(min(len(data), rng.choice((128, len(data)))))
        i = rng.choice((near, near, near, -1 - near)) % len(data)
        match rng.randrange(5):
            case 0 | 1:
                data[i] ^= 1 << rng.randrange(8)
            case 2:
                data[i] = rng.choice(b"\x00\x7f\x80\xff({['-9")
            case 3:
                data[i : i + rng.randrange(8)] = rng.randbytes(rng.randrange(4))
            case _:
                del data[len(data) - rng.randrange(1 + min(len(data) - 2, 100)) :]
    return bytes(data)


@pytest.mark.parametrize(
    ("write", "suffix"),
    [
        *files.FORMATS.values(),
        (npz_by(zipfile.ZIP_BZIP2), ".npz"),
        (npz_by(zipfile.ZIP_LZMA), ".npz"),
    ],
    ids=[*files.FORMATS, "npz, bzip2", "npz, lzma"],
)
def test_damaged_files_of_every_kind_are_read_or_refused(
    write: Callable[[Path, torch.Tensor], Path], suffix: str, tmp_path: Path
) -> None:
    whole = write(tmp_path / f"a{suffix}", files.rows(20, 6)).read_bytes()
    rng, path, refusals = random.Random(0), tmp_path / f"mutant{suffix}", []
    for _ in range(100):
        path.write_bytes(mutant(whole, rng))
        try:
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")  # NumPy's, of headers as Python 2 wrote them
                for source in open_sources([path]):
                    for block in source.blocks(16):
                        assert block.shape[1] == source.width
        except InputError as error:
            refusals.append(str(error))
    assert 0 < len(refusals) < 100
    assert all(refusal.startswith(str(path)) for refusal in refusals)


def test_a_missing_library_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "pyarrow", None)
    (tmp_path / "a.parquet").touch()
    refused(tmp_path / "a.parquet", r"needs pyarrow: pip install 'wssl-fast\[inspect\]'")
