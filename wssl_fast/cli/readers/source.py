"""What every reader gives: a `Source`, or an `InputError`."""

import importlib
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType

import torch
from torch import Tensor


class InputError(Exception):
    """A file that cannot be read as rows of embeddings: names it and what is wrong with it."""

    def __init__(self, name: Path | str, problem: str) -> None:
        super().__init__(f"{name}: {problem}")


@contextmanager
def refusing(path: Path, problem: str) -> Iterator[None]:
    """Around what parses and decodes bytes of a stranger, and nothing else.

    Its errors share no base class (zlib, lzma, tokenize, zipfile, arrow, and whatever a value of
    an unforeseen type raises): all of them mean that the file is not what it should be.
    """
    try:
        yield
    except InputError:
        raise
    except OSError as error:
        raise InputError(path, f"cannot be read ({error.strerror or error})") from error
    except RuntimeError as error:  # zipfile's: encrypted, or compressed as it does not know
        raise InputError(path, f"cannot be read ({error})") from error
    except MemoryError as error:
        raise InputError(path, "needs more memory than there is") from error
    except Exception as error:
        raise InputError(path, f"{problem} ({str(error) or type(error).__name__})") from error


@dataclass(frozen=True)
class Source:
    """Rows (rows, width) of one file."""

    name: str
    """The file, and in brackets what in it was chosen."""
    rows: int
    width: int
    dtype: torch.dtype
    blocks: Callable[[int], Iterator[Tensor]]
    """`blocks(k)` yields all rows in order, k at a time. A block is valid until the next one."""


Found = Mapping[str, tuple[tuple[int, ...], object]]
"""Shape and dtype of what a file holds, by name."""


def choose(path: Path, key: str | None, found: Found, what: str, usable: set[str]) -> str:
    """The name asked for, or the only usable one; an `InputError` says what there is."""
    listing = ", ".join(f"{name} {dtype}{list(shape)}" for name, (shape, dtype) in found.items())
    if key is not None:
        if key not in found:
            raise InputError(path, f"has no {what} {key!r}; it has {listing or 'none'}")
        if key not in usable:
            raise InputError(path, f"{what} {key!r} is not rows of floats; it has {listing}")
        return key
    if len(usable) != 1:
        many = "no" if not usable else "more than one"
        raise InputError(
            path, f"has {many} {what} of rows of floats ({listing or 'it is empty'}): name one "
            "with --key"
        )  # fmt: skip
    return next(iter(usable))


def need(path: Path, module: str) -> ModuleType:
    """A library that only one format needs."""
    try:
        return importlib.import_module(module)
    except ModuleNotFoundError as error:
        package = module.split(".")[0]
        raise InputError(
            path, f"reading {path.suffix} needs {package}: pip install 'wssl-fast[inspect]'"
        ) from error
