"""Rows to a table, to a file of rows, and to the page."""

import json
import math
import statistics
from collections.abc import Callable, Mapping, Sequence
from datetime import UTC, datetime
from pathlib import Path

from benchmarks import machine
from benchmarks.accuracy.measure import ABOVE, TIMED, TWO_ROWS
from benchmarks.demo.readme import paste

BEGIN, END = "<!-- accuracy: begin -->", "<!-- accuracy: end -->"
RESULTS = Path(__file__).parents[1] / "results"
PAGE = Path(__file__).parents[2] / "docs" / "benchmarks.md"
HEADER = (
    "W2 by",
    "W2 error",
    f"gradient error, sigma > {ABOVE[0]:g}",
    f"gradient error, sigma > {ABOVE[1]:g}",
    "cosine",
    "not finite",
    "resolution",
    "time, n < m",
    "time, n > m",
)

Row = Mapping[str, object]


def cells(rows: Sequence[Row]) -> list[list[str]]:
    """One line a provider, over the batches of both formulations; as HEADER."""
    lines = []
    for provider in dict.fromkeys(row["provider"] for row in rows):
        own = [row for row in rows if row["provider"] == provider]
        batches = [errors for row in own for errors in row["spectra"].values()]
        right = [errors for errors in batches if errors["failure"] is None]
        line = [str(provider), _pair([e["value"] for e in right], "{:.0e}")]
        line += [_pair([e["gradient"][f"{above:g}"] for e in right], "{:.0e}") for above in ABOVE]
        line.append(_pair([e["cosine"] for e in right], "{:.3f}", min))
        failed = len(batches) - len(right)
        line.append(f"{failed} of {len(batches)}" if failed else "-")
        line.append(_resolution([row["resolution"] for row in own]))
        line += [" / ".join(_ratio(row[f"{batch}_over_ours"]) for batch in TIMED) for row in own]
        lines.append(line)
    return lines


def markdown(rows: Sequence[Row]) -> str:
    """The table as it stands in the page."""
    table = [HEADER, (":--", *["--:"] * (len(HEADER) - 1)), *cells(rows)]
    text = "\n".join("| " + " | ".join(line) + " |" for line in table)
    return f"{text}\n\n{caption(rows)}"


def caption(rows: Sequence[Row]) -> str:
    """What the columns are, what failed, and where it was measured."""
    shapes = {row["formulation"]: "{} x {}".format(*row["shape"]) for row in rows}
    base = [row for row in rows if row["provider"] == rows[0]["provider"]]
    unit = ", ".join(
        f"{shapes[row['formulation']]} {row['healthy_ms']:.1f} and {row['collapsed_ms']:.1f} ms"
        for row in base
    )
    named = machine_words(rows[0]["hardware"])
    but = f" ({TWO_ROWS}: two rows)" if any(TWO_ROWS in row["spectra"] for row in base) else ""
    text = (
        f"Median / worst over {sum(len(row['spectra']) for row in base)} batches of "
        f"{' and '.join(shapes.values())} float32 rows{but}, of those with a finite "
        "result. Gradient error: of the polar factor P, relative, on directions above that share "
        f"of sigma_max; cosine: the same above {ABOVE[1]:g}. Resolution: smallest "
        "sigma/sigma_max that is pushed with weight 1 to within 0.1, the worse formulation. "
        "Time: forward and backward over that of the first row, interleaved, on a healthy / a "
        f"collapsed batch; 1.00 is {unit}."
    )
    failures = failed(rows)
    return f"{text}{' Not finite: ' + failures + '.' if failures else ''} Measured on {named}."


def failed(rows: Sequence[Row]) -> str:
    """Provider: spectra on which it failed, both formulations together."""
    found: dict[str, dict[str, None]] = {}
    for row in rows:
        for spectrum, errors in row["spectra"].items():
            if errors["failure"]:
                found.setdefault(str(row["provider"]), {})[f"{spectrum} ({errors['failure']})"] = (
                    None
                )
    return "; ".join(f"{provider}: {', '.join(what)}" for provider, what in found.items())


def machine_words(where: Mapping[str, object]) -> str:
    """Processor and threads."""
    return f"{where['cpu']} ({where['generation']}), threads: {where['threads']}"


def located(rows: Sequence[Row]) -> list[dict[str, object]]:
    """The rows with where, with what and at which commit they were measured."""
    where = {
        "hardware": machine.hardware(),
        "versions": machine.versions(),
        "commit": machine.commit(),
        "when": datetime.now(UTC).isoformat(timespec="seconds"),
    }
    return [{**row, **where} for row in rows]


def record(rows: Sequence[Row], folder: Path = RESULTS) -> Path:
    """Append to <folder>/<machine>/accuracy.jsonl; never rewrites what is there."""
    path = folder / machine.machine_name() / "accuracy.jsonl"
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("a", encoding="utf-8") as file:
        file.writelines(json.dumps(row, allow_nan=False) + "\n" for row in rows)
    return path


def write_docs(rows: Sequence[Row], page: Path = PAGE) -> None:
    """The table between the page's markers; ValueError without them."""
    page.write_text(
        paste(markdown(rows), page.read_text(encoding="utf-8"), BEGIN, END), encoding="utf-8"
    )


def _pair(
    values: Sequence[float], form: str, worst: Callable[[Sequence[float]], float] = max
) -> str:
    if not values:
        return "-"
    return f"{form.format(statistics.median(values))} / {form.format(worst(values))}"


def _ratio(value: float | None) -> str:
    return "-" if value is None else f"{value:.2f}"


def _resolution(found: Sequence[float | None]) -> str:
    return "not finite" if None in found else f"{max(found, default=math.nan):.0e}"
