"""The figures, from made-up rows: each is a small PNG, and without rows a line says why not."""

import json
from itertools import pairwise
from pathlib import Path

import pytest

from benchmarks.plots import __main__ as plots
from benchmarks.plots import style
from tests.bench_rows import every_row, step_rows

PNG = b"\x89PNG\r\n\x1a\n"
LARGEST = 150_000  # bytes: the figures are committed


def draw(folder: Path, rows: list[dict[str, object]]) -> list[str]:
    machine = folder / "machine"
    machine.mkdir(exist_ok=True)
    (machine / "bench.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    said: list[str] = []
    where = ["--results", str(folder), "--machine", "machine", "--out", str(folder / "out")]
    plots.main(where, said.append)
    return said


def test_every_figure(tmp_path: Path) -> None:
    said = draw(tmp_path, every_row())
    assert len(said) == len(plots.FIGURES)
    for name in plots.FIGURES:
        drawn = (tmp_path / "out" / f"{name}.png").read_bytes()
        assert drawn.startswith(PNG)
        assert len(drawn) < LARGEST


def test_figures_without_rows_are_skipped_and_named(tmp_path: Path) -> None:
    said = draw(tmp_path, step_rows())
    assert [path.name for path in (tmp_path / "out").iterdir()] == ["steps.png"]
    skipped = [line for line in said if "skipped, no rows" in line]
    assert [line.split(":")[0] for line in skipped] == ["times", "accuracy", "floors"]


def test_labels_are_moved_apart_in_order() -> None:
    heights = style._spread([0.1, 0.5, 0.5, 0.51, 1.0, 1.0], 0.1)
    assert heights == sorted(heights)
    assert all(b - a > 0.0999 for a, b in pairwise(heights))
    assert heights[0] == pytest.approx(0.1)
    assert heights[-1] <= 1.02


@pytest.mark.parametrize(
    ("value", "text"), [(1e-5, "1e-5"), (0.001, "0.001"), (3, "3"), (10000, "10,000")]
)
def test_plain_numbers(value: float, text: str) -> None:
    assert style.plain(value) == text
