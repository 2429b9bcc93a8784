"""Checkpoints come back to the last bit, or an error names the file and what is wrong with it."""

from pathlib import Path

import pytest
import torch
from torch import nn

from benchmarks.ssl import checkpoint
from benchmarks.ssl.checkpoint import CheckpointError, Position, load_into, previous, read, write

CPU = torch.device("cpu")


@pytest.fixture
def path(tmp_path: Path) -> Path:
    """Two generations."""
    path = tmp_path / checkpoint.NAME
    write(path, Position(1, 0), {"x": torch.ones(100)})
    write(path, Position(2, 3), {"x": torch.full((100,), 2.0), "name": "run"})
    return path


def test_round_trip(path: Path) -> None:
    position, content = read(path, CPU)
    assert position == Position(2, 3)
    assert str(position) == "after 2 epochs and 3 steps"
    assert torch.equal(content["x"], torch.full((100,), 2.0))
    assert content["name"] == "run"
    assert read(previous(path), CPU)[0] == Position(1, 0)
    assert sorted(file.name for file in path.parent.iterdir()) == [path.name, previous(path).name]


DAMAGE = {
    "cut": (lambda content: content[:-10], "cut"),
    "empty": (lambda content: b"", "not a checkpoint of this program"),
    "first line": (lambda content: b"#" + content, "not a checkpoint of this program"),
    "a bit": (lambda content: content[:-50] + bytes([content[-50] ^ 1]) + content[-49:], "SHA-256"),
    "another pickle": (lambda content: b"\x80\x02}.", "not a checkpoint of this program"),
    "longer": (lambda content: content + b"x", "cut"),
    "format": (lambda content: content.replace(b'"format": 1', b'"format": 9', 1), "format 9"),
}


@pytest.mark.parametrize("fault", DAMAGE)
def test_damage_is_named(path: Path, fault: str) -> None:
    damage, says = DAMAGE[fault]
    path.write_bytes(damage(path.read_bytes()))
    with pytest.raises(CheckpointError, match=says) as error:
        read(path, CPU)
    assert str(path) in str(error.value)
    if fault != "format":
        assert f"--resume {previous(path)}" in str(error.value)


def test_a_write_that_stops_leaves_the_old_one(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def stop(descriptor: int) -> None:
        raise OSError("disk full")

    monkeypatch.setattr("os.fsync", stop)
    with pytest.raises(OSError, match="disk full"):
        write(path, Position(3, 0), {"x": torch.zeros(100)})
    monkeypatch.undo()
    assert read(path, CPU)[0] == Position(2, 3)


def test_missing(tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match="no such file"):
        read(tmp_path / "absent.pt", CPU)


def test_nothing_is_loaded_of_another_network(tmp_path: Path) -> None:
    network, other = nn.Linear(3, 2), nn.Linear(4, 2)
    before = {name: tensor.clone() for name, tensor in network.state_dict().items()}
    for state, says in (
        (other.state_dict(), r"1 of another shape \(as weight\)"),
        ({"weight": torch.zeros(2, 3)}, r"1 missing \(as bias\)"),
        ({**other.state_dict(), "more": torch.zeros(1)}, r"1 unknown \(as more\)"),
    ):
        with pytest.raises(CheckpointError, match=says):
            load_into(network, state, tmp_path / "c.pt")
        assert all(torch.equal(network.state_dict()[name], x) for name, x in before.items())
