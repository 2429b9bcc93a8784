"""`python -m benchmarks.ssl`: table, search, compare, options; and what it says to bad input."""

import csv
import json
import subprocess
import sys
from pathlib import Path

import pytest

from benchmarks.records import Row, read
from benchmarks.ssl import config as configuration
from benchmarks.ssl import record, search
from benchmarks.ssl.__main__ import main
from benchmarks.ssl.table import as_csv, tables
from tests.ssl.conftest import SMALL

TINY = ["--preset", "tiny", "--device", "cpu", "--epochs", "1"]
TINY += [part for name, value in SMALL.items() for part in ("--set", f"{name}={value}")]


def test_config_is_printed(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["train", "--method", "byol", "--uniformity", "w2", "--dim", "64", "--config"]) == 0
    printed = json.loads(capsys.readouterr().out)
    assert printed["network"]["dim"] == 64
    assert printed["uniformity"]["kind"] == "w2"
    assert printed["optimizer"]["name"] == "lars"


def test_module_runs_as_a_program() -> None:
    command = [sys.executable, "-m", "benchmarks.ssl", "train", "--method", "vicreg", "--config"]
    out = subprocess.run(command, capture_output=True, text=True, check=True)
    assert json.loads(out.stdout)["method_name"] == "vicreg"


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (["--set", "optimizer.speed=1"], "optimizer.speed: unknown"),
        (["--set", "optimizer"], "expected name=value"),
        (["--preset", "huge"], "preset: unknown"),
        (["--dataset", "cifar10"], "no folder was named"),
        (["--dataset", "cifar10", "--data", "/absent"], "/absent: no such folder"),
        (["--preset", "tiny", "--resume"], "no config.json in it"),
        (["--preset", "tiny", "--batch", "4096"], "more than the 256 training images"),
    ],
)
def test_bad_input_is_named(
    arguments: list[str], says: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = ["--out", str(tmp_path / "run"), "--device", "cpu"]
    assert main(["train", "--method", "byol", *arguments, *out]) == 2
    assert says in capsys.readouterr().err


def test_train_compare(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    paths = [tmp_path / kind for kind in ("none", "w2")]
    for path in paths:
        train = ["train", "--method", "simclr", "--uniformity", path.name, *TINY]
        assert main([*train, "--out", str(path)]) == 0
        assert main([*train, "--out", str(path), "--resume"]) == 0
        assert "finished already" in capsys.readouterr().out
    assert main(["compare", *map(str, paths), "--out", str(tmp_path / "both")]) == 0
    printed = capsys.readouterr().out
    assert "differ in: uniformity.kind" in " ".join(printed.split())
    for name in ("curves.png", "spectra.png"):
        assert (tmp_path / "both" / name).read_bytes().startswith(b"\x89PNG")
    assert main(["compare", str(tmp_path / "absent"), "--out", str(tmp_path / "x")]) == 2


def test_table_continues_and_records(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    page = tmp_path / "ssl.md"
    page.write_text("# SSL\n<!-- ssl:begin -->\n<!-- ssl:end -->\n")
    monkeypatch.setattr(record, "PAGE", page)
    monkeypatch.setattr(record, "FOLDER", tmp_path / "results")
    grid = ["table", "--methods", "byol", "barlow", "--uniformities", "none", "w2", *TINY]
    grid += ["--out", str(tmp_path / "grid")]
    assert main([*grid, "--no-runs"]) == 2
    assert main(grid) == 0
    assert main([*grid, "--seeds", "0", "1", "--record", "tiny", "--write-docs"]) == 0
    place = tmp_path / "results" / "tiny"
    rows = read(place / "rows.jsonl")
    finals = [row for row in rows if row["kind"] == "final"]
    assert [row["run"] for row in finals] == sorted(
        f"{method}-{kind}-s{seed}"
        for method in ("barlow", "byol")
        for kind in ("none", "w2")
        for seed in (0, 1)
    )
    text = (place / "table.md").read_text()
    assert text.strip() in page.read_text()
    assert "| BYOL + W2 | 0.2 | 2 |" in text
    assert "for orientation" in text
    assert (place / "grid.png").read_bytes().startswith(b"\x89PNG")
    assert json.loads((place / "configs" / "byol-w2-s1.json").read_text())["seed"] == 1
    with (place / "table.csv").open() as file:
        first = next(csv.DictReader(file))
    assert (first["method"], first["uniformity"], first["seeds"]) == ("byol", "none", "0 1")
    capsys.readouterr()
    other = ["--set", "data.train_count=48"]
    assert main([*grid, *other]) == 2
    assert "train_count is 64 there and 48 here" in capsys.readouterr().err


def test_search_chooses_on_held_out_images(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "weights.json"
    monkeypatch.setattr(configuration, "weights_file", lambda preset: path)
    monkeypatch.setattr(search, "weights_file", lambda preset: path)
    arguments = ["search", "--methods", "barlow", "--factors", "0.1", "1", "--holdout", "40"]
    assert main([*arguments, *TINY, "--out", str(tmp_path / "search"), "--write"]) == 0
    chosen = json.loads(path.read_text())["barlow"]
    assert chosen.keys() == {"lu", "w2"}
    assert chosen["w2"]["start"] in (3.0, 30.0)
    assert chosen["w2"]["end"] == 0
    final = read(tmp_path / "search" / "barlow-w2-x0.1" / "metrics.jsonl")[-1]
    assert final["tested"] == 40
    assert final["acc1"] is None  # no probe in a search
    assert main([*arguments, *TINY, "--out", str(tmp_path / "search")]) == 0  # all there still


def final(method: str, kind: str, seed: int, **figures: float) -> Row:
    row: Row = dict.fromkeys(
        ("acc1", "acc5", "knn", "w2", "uniformity", "alignment", "effective_rank"), 1.0
    )
    row |= {"method": method, "uniformity_kind": kind, "seed": seed, "dataset": "cifar10"}
    row |= {"backbone": "resnet18", "epochs": 500, "images": 50_000, "tested": 10_000, "dim": 256}
    row |= {"batch": 256, "recipe": "r", "w2_floor": 0.081, "weight_start": 1.0, "weight_end": 1.0}
    return row | figures


def test_table_from_rows() -> None:
    finals = [
        final("mocov2", "w2", 1, acc1=92.0, w2=0.3),
        final("mocov2", "none", 0, acc1=90.0, w2=1.0),
        final("mocov2", "none", 1, acc1=91.0, w2=1.1),
        final("mocov2", "w2", 0, acc1=90.5, w2=0.4),
        final("vicreg", "none", 0, acc1=88.0),
    ]
    main_table, differences = tables(finals)
    assert [row[0] for row in main_table.rows] == ["MoCo v2", "MoCo v2 + W2", "VICReg"]
    alone, beside, vicreg = main_table.rows
    assert alone[1:4] == ["", "2", "90.50 ± 0.71"]
    assert beside[1:4] == ["1", "2", "91.25 ± 1.06"]
    assert alone[-4:] == ["90.65", "1.06", "-3.75", "0.51"]  # the paper's
    assert vicreg[-4:] == [""] * 4
    assert vicreg[3] == "88.00"  # one seed has no spread
    (row,) = differences.rows
    assert row[:3] == ["MoCo v2 + W2", "2", "+0.75 ± 0.35"]
    assert row[5] == "-0.700 ± 0.141"
    assert as_csv(finals).splitlines()[2].endswith("91.41,99.68,0.33,-3.84,0.63")


def test_choice_takes_the_best_and_the_smallest_of_equals() -> None:
    finals = [
        final("byol", "lu", 0, knn=70.0, weight_start=10.0),
        final("byol", "lu", 0, knn=70.0, weight_start=1.0),
        final("byol", "lu", 0, knn=60.0, weight_start=0.1),
        final("byol", "none", 0, knn=90.0, weight_start=0.0),
    ]
    assert search.choose(finals) == {"byol": {"lu": {"start": 1.0, "end": 1.0}}}


def test_failed_runs_are_reported_and_not_tried_again(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    from benchmarks.ssl import train

    broken = lambda settings: None if settings.kind == "none" else lambda a, b: a.sum() / 0  # noqa: E731
    monkeypatch.setattr(train, "uniformity_loss", broken)
    grid = ["table", "--methods", "byol", "--uniformities", "none", "w2", *TINY]
    grid += ["--out", str(tmp_path)]
    assert main(grid) == 1
    assert "byol-w2-s0: the loss is not finite at step 1" in capsys.readouterr().out
    assert "* **Failed**: byol-w2-s0: the loss" in (tmp_path / "table.md").read_text()
    assert main(grid) == 1
    assert "failed before, skipped" in capsys.readouterr().out


def test_tensorboard_gets_every_number(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """With a stand-in for its writer; and without it a line that says so."""
    from types import ModuleType

    added: list[tuple[str, float, int]] = []

    class Writer:
        def __init__(self, folder: str, purge_step: int) -> None:
            assert purge_step == 1

        def add_scalar(self, name: str, value: float, step: int) -> None:
            added.append((name, value, step))

        def close(self) -> None:
            added.append(("closed", 0, 0))

    stand_in = ModuleType("torch.utils.tensorboard")
    stand_in.SummaryWriter = Writer  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, "torch.utils.tensorboard", stand_in)
    run = ["train", "--method", "byol", *TINY, "--out"]
    assert main([*run, str(tmp_path / "with")]) == 0
    names = {name for name, _, _ in added}
    assert {"epoch/loss", "final/acc1", "final/w2", "closed"} <= names
    monkeypatch.setitem(sys.modules, "torch.utils.tensorboard", None)
    capsys.readouterr()
    assert main([*run, str(tmp_path / "without")]) == 0
    assert "tensorboard is not installed" in capsys.readouterr().out
