"""Runs beside each other: their last figures as a table, curves and spectra in one picture."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from benchmarks.demo.tables import Table
from benchmarks.records import Row
from benchmarks.ssl.figures import draw_curves, draw_spectra
from benchmarks.ssl.runs import RunError, RunFolder
from benchmarks.ssl.table import DIGITS, HEADS, MEASURES


def compare(paths: Sequence[Path], out: Path) -> Table:
    """curves.png and spectra.png in `out`, and the table."""
    runs: dict[str, list[Row]] = {}
    for path in paths:
        folder = RunFolder(path)
        rows = folder.rows()
        if not rows:
            raise RunError(f"{path}: no metrics in it yet")
        name = path.name if path.name not in runs else str(path)
        runs[name] = rows
    configs = [RunFolder(path).config.model_dump() for path in paths]
    out.mkdir(parents=True, exist_ok=True)
    draw_curves(out / "curves.png", runs)
    draw_spectra(out / "spectra.png", runs)
    return Table(
        title="Runs beside each other",
        header=["", "epoch", *HEADS, "floor of W2"],
        rows=[_line(name, rows) for name, rows in runs.items()],
        note="Their configurations differ in: " + (", ".join(_differing(configs)) or "nothing"),
    )


def _line(name: str, rows: Sequence[Row]) -> list[str]:
    measured = [row for row in rows if row["kind"] != "epoch"]
    last: dict[str, Any] = measured[-1] if measured else {"epoch": rows[-1]["epoch"]}
    cells = [
        "" if last.get(measure) is None else f"{last[measure]:.{DIGITS[measure]}f}"
        for measure in MEASURES
    ]
    floor = last.get("w2_floor")
    return [name, str(last["epoch"]), *cells, "" if floor is None else f"{floor:.3f}"]


def _differing(configs: Sequence[dict[str, Any]], name: str = "") -> list[str]:
    """Dotted names of settings that are not the same in all."""
    found: list[str] = []
    keys = dict.fromkeys(key for config in configs for key in config)
    for key in keys:
        inner = f"{name}.{key}" if name else key
        values = [config.get(key) for config in configs]
        if all(isinstance(value, dict) for value in values):
            found += _differing(values, inner)  # type: ignore[arg-type]
        elif any(value != values[0] for value in values):
            found.append(inner)
    return found
