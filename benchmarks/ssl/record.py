"""Finished runs as committed files: rows, configurations, table and figure."""

import json
from collections.abc import Mapping, Sequence
from pathlib import Path

from benchmarks.demo.readme import paste
from benchmarks.demo.tables import Table
from benchmarks.records import RESULTS, Row
from benchmarks.ssl.figures import draw_grid
from benchmarks.ssl.runs import CONFIG, write_whole
from benchmarks.ssl.table import as_csv, tables

PAGE = Path(__file__).parents[2] / "docs" / "ssl.md"
FOLDER = RESULTS / "ssl"
Runs = Mapping[str, Sequence[Row]]  # all rows of a finished run, by its name
Failures = Mapping[str, str]  # why, by the run's name


def write_tables(out: Path, runs: Runs, failures: Failures) -> tuple[list[Table], str]:
    """table.md and table.csv of the runs, in `out`; returns the tables, and the Markdown."""
    finals = [rows[-1] for rows in runs.values()]
    made = tables(finals)
    text = markdown(made, finals, failures)
    write_whole(out / "table.md", text)
    write_whole(out / "table.csv", as_csv(finals))
    return made, text


def markdown(made: Sequence[Table], finals: Sequence[Row], failures: Failures) -> str:
    """Tables, what failed, and where the runs were made."""
    places = dict.fromkeys(
        f"{row['hardware'].get('gpu', row['hardware']['cpu'])} ({row['hardware']['generation']}), "
        f"{row['hardware']['threads']} threads, torch {row['versions']['torch']}, "
        f"commit {row['commit']}"
        for row in finals
    )
    failed = [f"* **Failed**: {message}\n" for message in failures.values()]
    parts = [*(table.markdown() for table in made), *(["".join(failed)] if failed else [])]
    return "\n".join([*parts, f"Trained on {'; '.join(places)}.\n"])


def record(name: str, out: Path, runs: Runs, failures: Failures) -> Path:
    """Everything that a reader needs, under benchmarks/results/ssl/<name>."""
    place = FOLDER / name
    _rows_and_configs(place, out, runs)
    write_tables(place, runs, failures)
    draw_grid(place / "grid.png", runs)
    return place


def record_search(name: str, out: Path, runs: Runs, made: Table) -> Path:
    """Rows, configurations and table of a search, under benchmarks/results/ssl/<name>."""
    place = FOLDER / name
    _rows_and_configs(place, out, runs)
    text = markdown([made], [rows[-1] for rows in runs.values()], {})
    write_whole(place / "search.md", text)
    return place


def into_page(text: str, section: str = "ssl") -> None:
    """Between the page's markers <!-- section:begin --> and <!-- section:end -->."""
    markers = f"<!-- {section}:begin -->", f"<!-- {section}:end -->"
    write_whole(PAGE, paste(text, PAGE.read_text(encoding="utf-8"), *markers))


def _rows_and_configs(place: Path, out: Path, runs: Runs) -> None:
    (place / "configs").mkdir(parents=True, exist_ok=True)
    lines = [json.dumps({"run": run} | row) for run, rows in runs.items() for row in rows]
    write_whole(place / "rows.jsonl", "\n".join(lines) + "\n")
    for run in runs:
        text = (out / run / CONFIG).read_text(encoding="utf-8")
        write_whole(place / "configs" / f"{run}.json", text)
