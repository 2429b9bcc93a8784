"""What a run of the fuzzer found: counts, the worst error of each kind, failures, a record."""

import json
from collections import Counter
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.markup import escape
from rich.table import Table

from benchmarks.machine import commit, hardware, versions
from benchmarks.records import RESULTS
from tests.fuzz.cases import Case
from tests.fuzz.pool import Outcome
from wssl_fast._files import replacing

RECORD = RESULTS / "reliability" / "fuzz.json"
SHOWN = 100
"""Failures printed in full."""


@dataclass
class Worst:
    ratio: float = 0.0
    line: str = ""
    cases: int = 0


@dataclass
class Report:
    counts: dict[str, Counter[str]] = field(default_factory=dict)
    worst: dict[str, Worst] = field(default_factory=dict)
    failures: list[Outcome] = field(default_factory=list)
    cases: int = 0
    seconds: float = 0.0
    commit: str = field(default_factory=commit)
    """Of the start: what the cases ran on."""

    def add(self, outcome: Outcome) -> None:
        self.cases += 1
        self.seconds += outcome.seconds
        case = Case.parse(outcome.line)
        for name, words in traits(case).items():
            self.counts.setdefault(name, Counter()).update(words)
        for kind, ratio in outcome.ratios.items():
            worst = self.worst.setdefault(f"{_class(case)}: {kind}", Worst())
            worst.cases += 1
            if ratio >= worst.ratio:
                worst.ratio, worst.line = ratio, outcome.line
        if outcome.failures:
            self.failures.append(outcome)

    def show(self, console: Console) -> None:
        for name, counter in self.counts.items():
            shown = ", ".join(f"{word} {count}" for word, count in counter.most_common())
            console.print(f"[bold]{name}[/]  {escape(shown)}")
        table = Table("worst error / allowed", "of", "cases", "case", title_justify="left")
        for kind, worst in sorted(self.worst.items(), key=lambda pair: -pair[1].ratio):
            table.add_row(f"{worst.ratio:.2g}", kind, str(worst.cases), escape(worst.line))
        console.print(table)
        for outcome in self.failures[:SHOWN]:
            console.print(f"[bold red]failed[/] {escape(outcome.line)}", soft_wrap=True)
            for what in outcome.failures:
                console.print(f"  {escape(what)}", soft_wrap=True)
        if len(self.failures) > SHOWN:
            console.print(f"and {len(self.failures) - SHOWN} more")
        console.print(
            f"{self.cases} cases, {len(self.failures)} failed, "
            f"{1e3 * self.seconds / max(1, self.cases):.0f} ms each"
        )

    def record(self, seed: int, seconds: float, path: Path = RECORD) -> None:
        row: dict[str, Any] = {
            "group": "fuzz",
            "seeds": [seed, seed + self.cases],
            "cases": self.cases,
            "failed": [outcome.line for outcome in self.failures],
            "seconds": round(seconds),
            "milliseconds_per_case": round(1e3 * self.seconds / max(1, self.cases), 1),
            "counts": {name: dict(counter.most_common()) for name, counter in self.counts.items()},
            "worst": {
                kind: {
                    "ratio": float(f"{worst.ratio:.3g}"),
                    "cases": worst.cases,
                    "case": worst.line,
                }
                for kind, worst in sorted(self.worst.items())
            },
            "hardware": hardware(),
            "versions": versions(),
            "commit": self.commit,
        }
        path.parent.mkdir(parents=True, exist_ok=True)
        with replacing(path) as part:
            part.write_text(json.dumps(row, indent=1) + "\n", encoding="utf-8")


def traits(case: Case) -> dict[str, list[str]]:
    """The words a case is counted under."""
    n, m = case.n, case.m
    size = max(n, m)
    special = [*case.traits]
    special += ["mean"] * (case.mean != 0) + ["row scales"] * (case.row_scales != 0)
    special += ["scale"] * (case.scale != 0) + ["ridge"] * (case.eps > 0)
    special += ["batch"] * bool(case.batch) + [case.bad] * bool(case.bad)
    return {
        "function": [case.function],
        "formulation": ["n < m" if n < m else "n = m" if n == m else "n > m"],
        "size": [
            "1"
            if min(n, m) == 1
            else "to 10"
            if size <= 10
            else "to 100"
            if size <= 100
            else "to 300"
        ],
        "dtype": [case.dtype],
        "backend": [case.backend],
        "solver": [case.solver],
        "precision": [case.precision],
        "spectrum": [case.spectrum],
        "layout": [case.layout],
        "trait": special,
    }


def _class(case: Case) -> str:
    if case.function != "wasserstein_uniformity":
        return case.function
    rows = "unit" if case.normalize else "raw"
    precision = "float64" if case.dtype == "float64" else case.precision
    solver = "newton_schulz" if case.solver == "newton_schulz" else "eigh"
    return f"W2, {rows}, {precision}, {solver}"
