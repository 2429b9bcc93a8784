"""A column of lists of a parquet file, read batch by batch with pyarrow."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from wssl_fast.cli.readers.source import InputError, Source, choose, need, refusing

DTYPES = {"halffloat": torch.float16, "float": torch.float32, "double": torch.float64}


def open_parquet(path: Path, key: str | None) -> Source:
    """One column of lists, of a fixed size or all of one length. A null in a list reads as NaN."""
    arrow, parquet = need(path, "pyarrow"), need(path, "pyarrow.parquet")
    compute = need(path, "pyarrow.compute")
    with (
        refusing(path, "is truncated or no parquet file"),
        parquet.ParquetFile(path) as file,
    ):
        schema, rows = file.schema_arrow, file.metadata.num_rows
        found = {field.name: ((rows,), field.type) for field in schema}
        usable = {field.name for field in schema if _element(arrow, field.type) in DTYPES}
    chosen = choose(path, key, found, "column", usable)
    if schema.names.count(chosen) > 1:
        raise InputError(path, f"has more than one column {chosen!r}")
    kind = schema.field(chosen).type
    dtype = DTYPES[_element(arrow, kind)]
    name = f"{path}[{chosen}]"

    def raw_blocks(count: int, width: int | None) -> Iterator[Tensor]:
        first = 0
        with refusing(path, "is damaged"), parquet.ParquetFile(path) as file:
            for batch in file.iter_batches(batch_size=count, columns=[chosen]):
                if len(batch):
                    yield _rows(name, compute, batch.column(0), width, first)
                first += len(batch)

    width = kind.list_size if arrow.types.is_fixed_size_list(kind) else None
    if width is None and rows:
        block = next(raw_blocks(1, None), None)
        if block is None:
            raise InputError(name, f"promises {rows:,} rows and has none")
        width = block.shape[1]
    if width == 0:
        raise InputError(name, "has rows of 0 columns")
    return Source(name, rows, width or 0, dtype, lambda count: raw_blocks(count, width))


def _element(arrow: Any, kind: Any) -> str:
    """Type of the elements of a column of lists, "" of any other column."""
    types = arrow.types
    lists = types.is_list(kind) or types.is_large_list(kind) or types.is_fixed_size_list(kind)
    return str(kind.value_type) if lists else ""


def _rows(name: str, compute: Any, column: Any, width: int | None, first: int) -> Tensor:
    """(len(column), width); `first` is the row in the file of the column's first."""
    if column.null_count:
        row = first + int(np.flatnonzero(column.is_null().to_numpy(zero_copy_only=False))[0])
        raise InputError(name, f"row {row} is null")
    found = compute.list_value_length(column).to_numpy(zero_copy_only=False)
    width = int(found[0]) if width is None else width
    if (found != width).any():
        i = int(np.flatnonzero(found != width)[0])
        raise InputError(
            name, f"is ragged: row {first + i} has {found[i]} columns, the others {width}"
        )
    values = column.flatten().to_numpy(zero_copy_only=False)
    return torch.from_numpy(np.array(values).reshape(len(column), width))
