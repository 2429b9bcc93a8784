"""Rows of embeddings from files, block by block: npy, npz, safetensors, parquet.

Opening a file reads its header alone, so that a set of files is checked before the first row is
read; no file is held in memory as a whole (a Fortran-ordered array inside an npz is).
"""

from collections.abc import Iterator, Sequence
from pathlib import Path

from wssl_fast.cli.readers.arrays import open_npy, open_npz
from wssl_fast.cli.readers.columns import open_parquet
from wssl_fast.cli.readers.source import InputError, Source, refusing
from wssl_fast.cli.readers.tensors import open_safetensors

__all__ = ["InputError", "Source", "open_sources"]

FORMATS = {
    ".npy": open_npy,
    ".npz": open_npz,
    ".safetensors": open_safetensors,
    ".parquet": open_parquet,
}


def open_sources(paths: Sequence[Path], key: str | None = None) -> list[Source]:
    """One set of rows from files and folders, each folder for its files of a known format by name.

    `key` names the array of an npz, the tensor of a safetensors, the column of a parquet file, and
    is not needed where there is but one. `InputError` names the file, or the two files that do not
    agree in width or dtype.
    """
    sources = [_open(path, key) for path in _files(paths)]
    first = sources[0]
    for source in sources:
        if source.rows == 0:
            raise InputError(source.name, "has no rows")
        if source.width != first.width:
            raise InputError(
                source.name,
                f"has rows of {source.width} columns, {first.name} of {first.width}: files of one "
                "set must have one width",
            )
        if source.dtype != first.dtype:
            raise InputError(
                source.name,
                f"is {_plain(source)}, {first.name} is {_plain(first)}: files of one set must have "
                "one dtype",
            )
    return sources


def _files(paths: Sequence[Path]) -> Iterator[Path]:
    for path in paths:
        with refusing(path, "cannot be read"):  # a name too long, a folder that is locked
            found = [p for p in path.iterdir() if p.suffix in FORMATS] if path.is_dir() else None
        if found is None:
            yield path
            continue
        if not found:
            raise InputError(path, f"a folder without {_formats()} files")
        yield from sorted(found)


def _open(path: Path, key: str | None) -> Source:
    if path.suffix not in FORMATS:
        raise InputError(
            path, f"of unknown format {path.suffix or '(no suffix)'!r}: expected {_formats()}"
        )
    try:
        return FORMATS[path.suffix](path, key)
    except OSError as error:
        raise InputError(path, f"cannot be read ({error.strerror or error})") from error


def _formats() -> str:
    return ", ".join(FORMATS)


def _plain(source: Source) -> str:
    return str(source.dtype).removeprefix("torch.")
