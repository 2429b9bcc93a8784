"""Files that are there whole or not at all."""

import os
import secrets
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path


@contextmanager
def replacing(path: str | os.PathLike[str]) -> Iterator[Path]:
    """A new path beside `path` to write to; it becomes `path` when the block ends well.

    When the block ends with an exception, an interrupt included, what was written is removed and
    `path` is what it was before. A symbolic link stays one, its target is replaced; a device or a
    pipe cannot be replaced and is itself what is given.
    """
    path = Path(os.path.realpath(path))
    if path.exists() and not path.is_file():
        yield path
        return
    # a file system takes names of 255 bytes: 48 characters are 192 at most
    part = path.with_name(f".{path.name[:48]}.{os.getpid()}-{secrets.token_hex(4)}.part")
    try:
        yield part
        with part.open("rb+") as file:
            os.fsync(file.fileno())  # a crash after the rename must not show an empty file
        os.replace(part, path)
    except BaseException:
        part.unlink(missing_ok=True)
        raise
