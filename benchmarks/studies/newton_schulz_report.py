"""Tables and figure of the Newton-Schulz study, from its rows."""

import json
import re
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.table import Table

from benchmarks.studies.spectra import SPECTRA

ROOT = Path(__file__).resolve().parents[2]
ROWS = ROOT / "benchmarks" / "results" / "studies" / "newton_schulz.jsonl"
DOCS = ROOT / "docs" / "newton_schulz.md"

CURVES = (
    "eigh, clamped",
    "Gram, minimax, shift",
    "Gram, published table, shift",
    "chosen, with the shift",
    "chosen",
    "chosen, two passes",
    "chosen, float64 Gram",
)
Rows = list[dict[str, Any]]
Cells = list[list[str]]


def read(path: Path) -> Rows:
    """Rows of a run."""
    if not path.exists():
        raise SystemExit(f"{path}: no rows yet; run python -m benchmarks.studies.newton_schulz")
    return [json.loads(line) for line in path.read_text().splitlines()]


def gradient_table(rows: Rows, dtype: str, k: int) -> Cells:
    """Gradient error of each candidate on each spectrum; head first."""
    body = [["candidate", *SPECTRA]]
    for name in _candidates(rows, dtype):
        found = {r["spectrum"]: r for r in _select(rows, "errors", dtype, k, name)}
        body.append([name, *(_short(found[s]["gradient"]) for s in SPECTRA)])
    return body


def summary_table(rows: Rows, dtype: str) -> Cells:
    """Products, worst errors over all spectra and sizes, resolution, times; head first."""
    sizes = sorted({r["k"] for r in rows if r["row"] == "errors"})
    at = max(s for s in sizes if s <= 256)
    head = ["candidate", "products", "gradient", "leak", "W2", f"resolution, k = {at}"]
    body = [[*head, *(f"time / eigh, k = {k}" for k in sizes)]]
    for name in _candidates(rows, dtype):
        errors = [r for k in sizes for r in _select(rows, "errors", dtype, k, name)]
        ladder = _select(rows, "ladder", dtype, at, name)[0]
        times = [_select(rows, "time", dtype, k, name) for k in sizes]
        body.append(
            [
                name,
                str(errors[0]["products"] or "-"),
                *(_short(_worst(r[key] for r in errors)) for key in ("gradient", "leak", "value")),
                _short(ladder["resolution"]),
                *(f"{t[0]['over_eigh']:.2f}" if t else "-" for t in times),
            ]
        )
    return body


def show(rows: Rows) -> None:
    """All tables on the terminal."""
    console = Console(width=220)
    for title, cells in _tables(rows):
        table = Table(title=title)
        for i, column in enumerate(cells[0]):
            table.add_column(column, justify="right" if i else "left")
        for line in cells[1:]:
            table.add_row(*line)
        console.print(table)


def write_docs(rows: Rows) -> None:
    """Replace what stands between the page's markers by the tables of these rows."""
    blocks = []
    for title, cells in _tables(rows):
        lines = [cells[0], ["---"] + ["---:"] * (len(cells[0]) - 1), *cells[1:]]
        blocks.append(f"**{title}**\n\n" + "\n".join(f"| {' | '.join(line)} |" for line in lines))
    page = DOCS.read_text()
    made = "<!-- tables: begin -->\n" + "\n\n".join(blocks) + "\n<!-- tables: end -->"
    between = re.compile(r"<!-- tables: begin -->.*<!-- tables: end -->", flags=re.S)
    page, count = between.subn(lambda _: made, page)
    if count != 1:
        raise SystemExit(f"{DOCS}: one pair of <!-- tables: begin/end --> markers expected")
    DOCS.write_text(page)


def draw(rows: Rows, path: Path, chosen: str) -> None:
    """Weight against sigma/sigma_max, and worst errors of every candidate, for each dtype."""
    import matplotlib

    matplotlib.use("Agg")
    import matplotlib.pyplot as plt

    sizes = sorted({r["k"] for r in rows if r["row"] == "ladder"})
    k = max(s for s in sizes if s <= 256)
    figure, axes = plt.subplots(2, 2, figsize=(13, 10), layout="constrained")
    for (curve, cost), dtype in zip(axes, ("float32", "float64"), strict=True):
        for color, name in enumerate(CURVES):
            for r in _select(rows, "ladder", dtype, k, name):
                wide = 2.5 if name == chosen else 1.2
                curve.plot(r["relative"], r["weights"], f"C{color}", label=name, linewidth=wide)
        curve.axhline(1, color="0.8", zorder=0)
        curve.set(xscale="log", ylim=(-0.2, 1.4), title=f"{dtype} rows, k = {k}")
        curve.set(xlabel="sigma / sigma_max", ylabel="weight of the direction in the gradient")
        curve.invert_xaxis()
        curve.legend(fontsize=8, loc="lower left")
        names, worst = [], []
        for name in _candidates(rows, dtype):
            found = [r for s in sizes for r in _select(rows, "errors", dtype, s, name)]
            names.append(f"{name} ({found[0]['products'] or 'LAPACK'})")
            errors = [_worst(r[key] for r in found) for key in ("gradient", "leak")]
            worst.append([min(e, 10.0) if e == e else 10.0 for e in errors])
        for marker, label, values in zip(
            "os", ("gradient", "leak"), zip(*worst, strict=True), strict=True
        ):
            cost.plot(values, names, marker, label=label)
        cost.invert_yaxis()
        cost.grid(color="0.9")
        cost.set(xscale="log", xlabel="worst relative error over spectra and k (10: diverged)")
        cost.set_title(f"{dtype} rows: candidates (products)")
        cost.legend(fontsize=8, loc="lower right")
    path.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path, dpi=110)
    plt.close(figure)


def _tables(rows: Rows) -> list[tuple[str, Cells]]:
    tables = []
    threads = next(r["hardware"]["threads"] for r in rows if r["row"] == "machine")
    for dtype, deep in (("float32", "1e-3"), ("float64", "1e-6")):
        sizes = sorted({r["k"] for r in rows if r["row"] == "errors" and r["dtype"] == dtype})
        k = max(s for s in sizes if s <= 256)
        tables += [
            (f"{dtype}: worst over spectra and k = {', '.join(map(str, sizes))}; "
             f"times with threads = {threads}", summary_table(rows, dtype)),
            (f"{dtype}, k = {k}: gradient error on directions above {deep} sigma_max",
             gradient_table(rows, dtype, k)),
        ]  # fmt: skip
    return tables


def _candidates(rows: Rows, dtype: str) -> list[str]:
    return list(
        dict.fromkeys(r["candidate"] for r in rows if r["row"] == "errors" and r["dtype"] == dtype)
    )


def _select(rows: Rows, kind: str, dtype: str, k: int, name: str) -> Rows:
    wanted = {"row": kind, "dtype": dtype, "k": k, "candidate": name}
    return [r for r in rows if all(r.get(key) == value for key, value in wanted.items())]


def _worst(values: Iterable[float]) -> float:
    found = list(values)
    return float("nan") if any(v != v for v in found) else max(found)


def _short(value: float) -> str:
    if value != value:
        return "NaN"
    return "diverged" if value > 100 else f"{value:.1e}"
