"""Files of embeddings for the tests of `wssl-fast`."""

from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import save_file
from torch import Tensor


def rows(n: int = 60, m: int = 8, seed: int = 0) -> Tensor:
    """(n, m) float32 with a spectrum that falls and a mean."""
    g = torch.Generator().manual_seed(seed)
    return torch.randn(n, m, generator=g) * torch.arange(1, m + 1) ** -0.5 + 0.2


def npy(path: Path, z: Tensor) -> Path:
    np.save(path, z.numpy())
    return path


def npz(path: Path, z: Tensor) -> Path:
    np.savez(path, labels=np.arange(len(z)), embeddings=z.numpy())
    return path


def npz_compressed(path: Path, z: Tensor) -> Path:
    np.savez_compressed(path, embeddings=z.numpy())
    return path


def npz_fortran(path: Path, z: Tensor) -> Path:
    np.savez(path, embeddings=np.asfortranarray(z.numpy()))
    return path


def npy_fortran(path: Path, z: Tensor) -> Path:
    np.save(path, np.asfortranarray(z.numpy()))
    return path


def npy_big_endian(path: Path, z: Tensor) -> Path:
    np.save(path, z.numpy().astype(">f4"))
    return path


def safetensors(path: Path, z: Tensor) -> Path:
    save_file({"embeddings": z, "labels": torch.arange(len(z))}, path)
    return path


def parquet(path: Path, z: Tensor) -> Path:
    """Lists of a fixed size, in small row groups."""
    arrow, pq = arrow_or_skip()
    values = arrow.array(z.flatten().numpy())
    column = arrow.FixedSizeListArray.from_arrays(values, z.shape[1])
    table = arrow.table({"id": arrow.array(range(len(z))), "embeddings": column})
    pq.write_table(table, path, row_group_size=17)
    return path


def parquet_lists(path: Path, z: Tensor) -> Path:
    """Lists of any size that happen to have one."""
    arrow, pq = arrow_or_skip()
    column = arrow.array(z.tolist(), arrow.list_(arrow.float32()))
    pq.write_table(arrow.table({"embeddings": column}), path)
    return path


def arrow_or_skip():  # type: ignore[no-untyped-def]
    reason = "parquet needs pyarrow"
    return (
        pytest.importorskip("pyarrow", reason=reason),
        pytest.importorskip("pyarrow.parquet", reason=reason),
    )


FORMATS = {
    "npy": (npy, ".npy"),
    "npy, Fortran order": (npy_fortran, ".npy"),
    "npy, big-endian": (npy_big_endian, ".npy"),
    "npz": (npz, ".npz"),
    "npz, compressed": (npz_compressed, ".npz"),
    "npz, Fortran order": (npz_fortran, ".npz"),
    "safetensors": (safetensors, ".safetensors"),
    "parquet": (parquet, ".parquet"),
    "parquet, lists": (parquet_lists, ".parquet"),
}
