"""benchmarks.gpu.tune on the CPU: which rows a call reaches, the climb, the table on disk."""

import json
import time
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

pytest.importorskip("triton")

from benchmarks.gpu import tune
from benchmarks.gpu.rows import Log, Rows, read
from benchmarks.gpu.supervise import Journal
from benchmarks.gpu.tune import Probe, Target, Tuner
from wssl_fast.backends.triton import dispatch
from wssl_fast.backends.triton.dispatch import Tile

CPU = torch.device("cpu")
OF = dispatch.Target("sm_90", 132)
COMMITTED = [64, 64, 4, 3]
TABLE = {
    "interpreter": {"gram": {"exact": [[None, [32, 64, 4, 1]]]}},
    "sm_80": {
        "gram": {"exact": [[128, COMMITTED], [None, COMMITTED]], "float64": [[None, COMMITTED]]},
        "other": {"exact": [[None, COMMITTED]]},
    },
}
SMALL, LARGE = (
    Probe("W2", "highest", 96, 200, "float32"),
    Probe("W2", "highest", 160, 200, "float32"),
)
DEEP = Probe("W2", "double", 64, 80, "float32")


@pytest.fixture
def table(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A table of our own, in use."""
    path = tmp_path / "table.json"
    path.write_text(tune.format_table(TABLE))
    monkeypatch.setattr(dispatch, "_table", lambda: json.loads(path.read_text()))
    return path


def looks_up(probe: Probe) -> Any:
    """A loss that asks for the tiles of a call, and behaves as they say."""

    def loss(z: Tensor) -> Tensor:
        dispatch.tile("gram", "float64", len(z), OF)  # a launch that stands by
        if probe.precision == "double":
            return z.square().sum()
        tile = dispatch.tile("gram", "exact", len(z), OF)
        if tile.size == 128:
            raise RuntimeError("out of resource: shared memory\nand more")
        return z.square().sum() * (2 if tile.stages == 4 else 1)  # 4 stages: wrong

    return loss


@pytest.fixture
def faked(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Probe, "function", looks_up)
    monkeypatch.setattr(tune, "probes", lambda: [SMALL, LARGE, DEEP])


class Told:
    """A stopwatch that believes what the call returns."""

    def seconds(self, call: Any, *, queued: bool) -> float:
        return call()

    def peak_bytes(self, call: Any) -> int | None:
        return None


def test_the_committed_table_keeps_its_form() -> None:
    text = tune.TABLE.read_text()
    assert json.loads(tune.format_table(json.loads(text))) == json.loads(text)
    assert tune.format_table(json.loads(text)).count("\n") <= text.count("\n") + 1


@pytest.mark.usefixtures("faked", "table")
def test_rows_are_tuned_where_a_call_reaches_them() -> None:
    found = tune.reached(TABLE, OF, CPU, [SMALL, LARGE, DEEP])
    assert found == {
        Target("gram", "exact", 128): (96, SMALL),
        Target("gram", "exact", None): (160, LARGE),
        Target("gram", "float64", None): (64, DEEP),  # not where it only stands by
    }
    assert sorted(found, key=tune.importance)[-1].product == "float64"


def test_neighbours_change_one_thing() -> None:
    tile = Tile(64, 64, 4, 3)
    found = tune.neighbours(tile, "exact")
    assert len(found) == len(set(found)) == 8
    assert all(sum(a != b for a, b in zip(tile, t, strict=True)) == 1 for t in found)
    assert max(t.size for t in tune.neighbours(tile, "float64")) == 64
    assert min(t.size for t in tune.neighbours(Tile(16, 16, 1, 1), "exact")) == 16
    assert Tile(4, 128, 4, 1) in tune.neighbours(Tile(4, 256, 4, 1), "rows")  # smaller than that


@pytest.mark.usefixtures("faked")
def test_tuning_climbs_and_writes_the_table(
    table: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(dispatch, "target_of", lambda device: OF)
    rows = Rows(tmp_path / "rows.jsonl", CPU)
    log, journal = Log(tmp_path / "log.txt", time.time() + 60), Journal(tmp_path / "journal.txt")
    tuner = Tuner(CPU, Told(), rows, journal, log, table)
    monkeypatch.setattr(Tuner, "_captured", captured_with_its_tile)
    tuner.run(lambda row: row.product == "exact" and row.limit is None)
    after = json.loads(table.read_text())
    assert after["sm_80"] == TABLE["sm_80"]
    assert after["sm_90"]["other"] == TABLE["sm_80"]["other"]  # taken over whole
    (small, kept), (limit, (size, block, warps, stages)) = after["sm_90"]["gram"]["exact"]
    assert (small, kept, limit) == (128, COMMITTED, None)
    assert (block, warps) == (16, 8)
    assert size <= 64
    assert stages != 4
    errors = {r["error"] for r in read(rows.path) if r.get("error")}
    assert "RuntimeError: out of resource: shared memory" in errors
    assert any(str(e).startswith("ArithmeticError: differs by") for e in errors)
    timed = [r for r in read(rows.path) if r["p50_ms"]]
    assert all(r["best_p50_ms"] and r["best_tile"] and r["kernel"] == "gram" for r in timed)
    assert journal.ended() == {"gram exact any"}


def captured_with_its_tile(self: Tuner, call: Any, inputs: Any) -> tuple[list[Any], list[Tensor]]:
    """A replay that tells how long it takes; blocks of 16 and 8 warps are best."""
    tile = dispatch.tile("gram", "exact", len(inputs[0]), OF)
    seconds = 1e-4 * (1 + abs(tile.block - 16) / 16 + abs(tile.warps - 8))
    return [lambda: seconds], list(call(inputs[0]))


@pytest.mark.usefixtures("faked")
def test_the_table_is_replaced_whole_or_not_at_all(
    table: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    before = table.read_text()

    def fail(*_: object) -> None:
        raise OSError("no space left")

    monkeypatch.setattr(tune.os, "replace", fail)
    with pytest.raises(OSError, match="no space"):
        tune.write_row(table, "sm_90", Target("gram", "exact", None), Tile(32, 32, 4, 2))
    assert table.read_text() == before
    assert [path.name for path in table.parent.iterdir()] == [table.name]


def test_every_row_of_an_architecture_has_a_class() -> None:
    entries = [[128, COMMITTED], [512, COMMITTED], [1024, COMMITTED]]
    assert [tune.class_of(entries, size) for size in (1, 128, 129, 4096)] == [128, 128, 512, 1024]


def test_probes_cover_both_formulations_and_all_dtypes() -> None:
    found = tune.probes()
    assert {p.dtype for p in found} == {"bfloat16", "float16", "float32"}
    assert any(p.n > p.m for p in found)
    assert any(p.n < p.m for p in found)
    assert {p.loss for p in found} == {"W2", "L_U"}
