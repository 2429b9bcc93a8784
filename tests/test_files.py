"""Files that are there whole or not at all."""

import os
from pathlib import Path

import pytest

from wssl_fast._files import replacing


def test_a_file_is_replaced(tmp_path: Path) -> None:
    path = tmp_path / "a"
    for text in ("first", "second"):
        with replacing(path) as part:
            part.write_text(text)
            assert part.parent == tmp_path
        assert path.read_text() == text
    assert list(tmp_path.iterdir()) == [path]


@pytest.mark.parametrize("error", [ValueError, KeyboardInterrupt, SystemExit])
@pytest.mark.parametrize("before", ["before", None])
def test_an_error_leaves_what_was_there(
    error: type[BaseException], before: str | None, tmp_path: Path
) -> None:
    path = tmp_path / "a"
    if before:
        path.write_text(before)

    def stop_half_way() -> None:
        with replacing(path) as part:
            part.write_text("half")
            raise error

    with pytest.raises(error):
        stop_half_way()
    assert [p.read_text() for p in tmp_path.iterdir()] == ([before] if before else [])


def test_nothing_written_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError), replacing(tmp_path / "a"):
        pass
    assert list(tmp_path.iterdir()) == []


def test_a_link_stays_a_link(tmp_path: Path) -> None:
    (tmp_path / "target").write_text("before")
    link = tmp_path / "link"
    link.symlink_to("target")
    with replacing(link) as part:
        part.write_text("after")
    assert link.is_symlink()
    assert (tmp_path / "target").read_text() == "after"


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="pipes with a name are Unix's")
def test_a_pipe_is_written_to(tmp_path: Path) -> None:
    pipe = tmp_path / "pipe"
    os.mkfifo(pipe)
    reader = os.open(pipe, os.O_RDONLY | os.O_NONBLOCK)
    with replacing(pipe) as part:
        part.write_text("through")
    assert os.read(reader, 100) == b"through"
    os.close(reader)
    assert pipe.is_fifo()
