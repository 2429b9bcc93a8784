"""Which products make the best inverse square root: the study behind `solver="newton_schulz"`.

python -m benchmarks.studies.newton_schulz                 run, print, write rows and figure
python -m benchmarks.studies.newton_schulz --quick         k = 64, printed and not written
python -m benchmarks.studies.newton_schulz --draw          figure from the rows there are
python -m benchmarks.studies.newton_schulz --write-docs    tables into docs/newton_schulz.md
python -m benchmarks.studies.newton_schulz --coefficients  the solver's schedules
"""

import argparse
import json
import statistics
import time
from collections.abc import Iterator
from dataclasses import asdict
from pathlib import Path

import torch
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn

from benchmarks import machine
from benchmarks.studies import newton_schulz_report as report
from benchmarks.studies.quintics import committed_schedule
from benchmarks.studies.solvers import CHOSEN, Candidate, candidates
from benchmarks.studies.spectra import SPECTRA, batch, evaluate, ladder

SIZES = (64, 256, 512)
DTYPES = {"float32": torch.float32, "float64": torch.float64}
ROUNDS = {64: 40, 256: 10, 512: 5}
Row = dict[str, object]


def accuracy_rows(sizes: tuple[int, ...]) -> list[Iterator[Row]]:
    """One lazy job for each size and candidate: its errors on every spectrum, and the ladder."""

    def errors(name: str, k: int, candidate: Candidate) -> Iterator[Row]:
        dtype = DTYPES[name]
        common: Row = {
            "candidate": candidate.name,
            "products": candidate.products,
            "dtype": name,
            "k": k,
        }
        for spectrum in SPECTRA:
            found = asdict(evaluate(candidate, batch(spectrum, k, dtype)))
            del found["weights"]
            yield {"row": "errors", **common, "spectrum": spectrum, **found}
        steps = ladder(k, dtype)
        found = asdict(evaluate(candidate, steps))
        relative = steps.relative.tolist()
        kept = slice(0, None, max(1, k // 64))
        yield {
            "row": "ladder",
            **common,
            "resolution": found["resolution"],
            "relative": [float(f"{s:.4g}") for s in relative[kept]],
            "weights": [float(f"{w:.5g}") for w in found["weights"][kept]],
        }

    return [
        errors(name, k, candidate)
        for name in DTYPES
        for k in sizes
        for candidate in candidates(DTYPES[name])
    ]


def timing_rows(sizes: tuple[int, ...]) -> list[Iterator[Row]]:
    """One lazy job for each size and dtype: candidates interleaved, medians over eigh's."""

    def timed(name: str, k: int) -> Iterator[Row]:
        data = batch("power law", k, DTYPES[name])
        a = data.centred @ data.centred.mT / k
        a = a + a.diagonal().mean() / k
        plain = [c for c in candidates(DTYPES[name]) if c.first is None and c.gram is None]
        samples: dict[str, list[float]] = {c.name: [] for c in plain}
        for i in range(ROUNDS[k] + 1):
            for candidate in plain[i % len(plain) :] + plain[: i % len(plain)]:
                start = time.perf_counter()
                candidate.solve(a)
                if i:  # the first round warms up
                    samples[candidate.name].append(time.perf_counter() - start)
        yardstick = statistics.median(samples[plain[0].name])
        for candidate in plain:
            seconds = statistics.median(samples[candidate.name])
            yield {
                "row": "time",
                "candidate": candidate.name,
                "products": candidate.products,
                "dtype": name,
                "k": k,
                "seconds": seconds,
                "over_eigh": seconds / yardstick,
                "rounds": ROUNDS[k],
            }

    return [timed(name, k) for name in DTYPES for k in sizes]


def run(sizes: tuple[int, ...], errors: list[Row] | None = None) -> list[Row]:
    """All rows, the machine first; `errors` of an earlier run are kept instead of made."""
    rows: list[Row] = [
        {"row": "machine", "hardware": machine.hardware(), "versions": machine.versions()}
    ]
    work = {"errors": accuracy_rows(sizes), "times": timing_rows(sizes)}
    if errors is not None:
        rows += errors
        del work["errors"]
    columns = (
        TextColumn("{task.description}"),
        BarColumn(),
        MofNCompleteColumn(),
        TimeElapsedColumn(),
    )
    with Progress(*columns, console=Console(stderr=True)) as progress:
        for title, jobs in work.items():
            for job in progress.track(jobs, description=title):
                rows.extend(job)
    return rows


def _rounded(row: Row) -> Row:
    """Four digits: more would be noise in the file."""
    return {
        key: float(f"{value:.4g}") if isinstance(value, float) else value
        for key, value in row.items()
    }


def print_coefficients() -> None:
    """The solver's tables, as committed."""
    for name, dtype in DTYPES.items():
        print(name)
        for step in committed_schedule(dtype):
            print(f"    {step},")


def main() -> None:
    """Command line."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0] if __doc__ else None)
    action = parser.add_mutually_exclusive_group()
    action.add_argument("--quick", action="store_true", help="k = 64 alone, nothing written")
    action.add_argument("--times", action="store_true", help="time again, keep the errors")
    action.add_argument("--draw", action="store_true", help="figure from the rows there are")
    action.add_argument("--write-docs", action="store_true", help="tables into the docs page")
    action.add_argument("--coefficients", action="store_true", help="print the schedules")
    parser.add_argument("--rows", type=Path, default=report.ROWS, help="JSON lines")
    options = parser.parse_args()
    if options.coefficients:
        print_coefficients()
    elif options.draw:
        report.draw(report.read(options.rows), options.rows.with_suffix(".png"), CHOSEN)
    elif options.write_docs:
        report.write_docs(report.read(options.rows))
    else:
        kept = None
        if options.times:
            kept = [r for r in report.read(options.rows) if r["row"] in ("errors", "ladder")]
        rows = run(SIZES[:1] if options.quick else SIZES, kept)
        report.show(rows)
        if not options.quick:
            options.rows.parent.mkdir(parents=True, exist_ok=True)
            options.rows.write_text("".join(json.dumps(_rounded(row)) + "\n" for row in rows))
            report.draw(rows, options.rows.with_suffix(".png"), CHOSEN)


if __name__ == "__main__":
    main()
