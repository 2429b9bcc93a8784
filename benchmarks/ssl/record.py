"""Finished runs as committed files: rows, configurations, table and figure."""

import json
from collections.abc import Mapping, Sequence
from pathlib import Path

from benchmarks.demo.readme import paste
from benchmarks.demo.tables import Table
from benchmarks.records import RESULTS, Row
from benchmarks.ssl.figures import draw_grid
from benchmarks.ssl.runs import CONFIG
from benchmarks.ssl.table import as_csv, tables

PAGE = Path(__file__).parents[2] / "docs" / "ssl.md"
FOLDER = RESULTS / "ssl"


def write_tables(out: Path, runs: Mapping[str, Sequence[Row]]) -> list[Table]:
    """table.md, table.csv and grid.png of the runs, in `out`."""
    finals = [rows[-1] for rows in runs.values()]
    made = tables(finals)
    (out / "table.md").write_text(markdown(made, finals), encoding="utf-8")
    (out / "table.csv").write_text(as_csv(finals), encoding="utf-8")
    draw_grid(out / "grid.png", runs)
    return made


def markdown(made: Sequence[Table], finals: Sequence[Row]) -> str:
    """Tables, and where their runs were made."""
    places = dict.fromkeys(
        f"{row['hardware'].get('gpu', row['hardware']['cpu'])} ({row['hardware']['generation']}), "
        f"{row['hardware']['threads']} threads, torch {row['versions']['torch']}, "
        f"commit {row['commit']}"
        for row in finals
    )
    return "\n".join([*(table.markdown() for table in made), f"Trained on {'; '.join(places)}.\n"])


def record(name: str, out: Path, runs: Mapping[str, Sequence[Row]]) -> Path:
    """Everything that a reader needs, under benchmarks/results/ssl/<name>."""
    place = FOLDER / name
    _rows_and_configs(place, out, runs)
    write_tables(place, runs)
    return place


def _rows_and_configs(place: Path, out: Path, runs: Mapping[str, Sequence[Row]]) -> None:
    (place / "configs").mkdir(parents=True, exist_ok=True)
    lines = [json.dumps({"run": run} | row) for run, rows in runs.items() for row in rows]
    (place / "rows.jsonl").write_text("\n".join(lines) + "\n", encoding="utf-8")
    for run in runs:
        text = (out / run / CONFIG).read_text(encoding="utf-8")
        (place / "configs" / f"{run}.json").write_text(text, encoding="utf-8")


def record_search(name: str, out: Path, runs: Mapping[str, Sequence[Row]], made: Table) -> Path:
    """Rows, configurations and table of a search, under benchmarks/results/ssl/<name>."""
    place = FOLDER / name
    _rows_and_configs(place, out, runs)
    text = markdown([made], [rows[-1] for rows in runs.values()])
    (place / "search.md").write_text(text, encoding="utf-8")
    return place


def into_page(text: str, section: str = "ssl") -> None:
    """Between the page's markers <!-- section:begin --> and <!-- section:end -->."""
    markers = f"<!-- {section}:begin -->", f"<!-- {section}:end -->"
    pasted = paste(text, PAGE.read_text(encoding="utf-8"), *markers)
    PAGE.write_text(pasted, encoding="utf-8")
