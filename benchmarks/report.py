"""`python -m benchmarks.report`: tables from recorded rows; `--write-docs` pastes them.

They go between the lines `<!-- NAME: begin -->` and `<!-- NAME: end -->` of docs/benchmarks.md.
Rows are those of the last commit that measured each group.
"""

import argparse
import math
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

from rich.console import Console

from benchmarks import machine, scaling
from benchmarks.demo.tables import Table
from benchmarks.records import RESULTS, Row, latest, pick, read_machine
from benchmarks.suites.core import OURS, is_ours, merged
from benchmarks.suites.targets import (
    EXPONENT_LIMIT,
    FASTEST_FROM,
    MEMORY_LIMIT,
    MEMORY_SHAPE,
    STEP_CASE,
    STEP_LIMIT,
    targets,
)

PAGE = Path(__file__).parents[1] / "docs" / "benchmarks.md"
TITLES: Mapping[tuple[str, str], str] = {
    ("W2", "forward+backward"): "W2, forward and backward",
    ("W2", "forward"): "W2, forward",
    ("solver", "forward"): "A^(-1/2), k x k",
    ("Gram", "forward"): "Gram matrix",
    ("covariance", "forward"): "Second moment",
    ("L_U", "forward+backward"): "L_U, forward and backward",
    ("Frechet", "forward"): "Frechet distance of two batches, n rows each, forward",
}


def targets_table(rows: Sequence[Row]) -> Table | None:
    """Every target that the rows speak about."""
    cells = []
    for target in targets():
        if target.rows(rows):
            ratio = target.ratio(rows)
            text = target.text if target.slower is None else f"time of {target.text} over ours"
            case = f"{target.family} {_shape(target.shape)}"
            cells.append([case, text, _number(ratio), target.aim, target.verdict(rows)])
    cells += _fastest_target(rows) + _exponent_target(rows)
    cells += _memory_target(rows) + _step_targets(rows)
    if not cells:
        return None
    return Table("Targets", ["case", "ratio", "measured", "target", ""], cells)


def _fastest_target(rows: Sequence[Row]) -> list[list[str]]:
    """Ours against the fastest form of W2 with a finite gradient, wherever n <= m and m >= 1024;
    a wrong value does not take a provider out."""
    from benchmarks.peers import W2_FORMS

    times: dict[tuple[str, str], dict[str, float]] = {}
    for group in ("W2", *(axis.name for axis in scaling.AXES)):
        for row in pick(rows, group=group, mode="forward+backward"):
            name, (n, m) = str(row["provider"]), row["shape"]
            finite = "not finite" not in (row.get("wrong") or "")
            of_w2 = name == OURS or name in W2_FORMS
            if n <= m and m >= FASTEST_FROM and of_w2 and finite and row["p50_ms"]:
                times.setdefault((group, _shape((n, m))), {})[name] = row["p50_ms"]
    ratios = [
        (min(others.values()) / found[OURS], min(others, key=others.__getitem__), shape)
        for (_, shape), found in times.items()
        if OURS in found and (others := {k: t for k, t in found.items() if k != OURS})
    ]
    if not ratios:
        return []
    won = sum(ratio >= 1 for ratio, _, _ in ratios)
    least, other, shape = min(ratios)
    text = "fastest form of W2 with a finite gradient over ours; least of all rows"
    case = f"{won} of {len(ratios)} rows with n <= m, m >= {FASTEST_FROM}"
    measured = f"{_number(least)} ({other}, {shape})"
    return [[case, text, measured, ">= 1", _hit(least >= 1)]]


def _exponent_target(rows: Sequence[Row]) -> list[list[str]]:
    axis = scaling.AXES[0]
    table = _on_axis(rows, axis)
    found = scaling.fits(table, axis).get(OURS) if table else None
    if found is None:
        return []
    verdict = _hit(found.exponent <= EXPONENT_LIMIT)
    case = f"W2 n = {axis.fixed}, m grows"
    return [[case, "exponent of time in m", str(found), f"<= {EXPONENT_LIMIT:g}", verdict]]


def _memory_target(rows: Sequence[Row]) -> list[list[str]]:
    found = []
    for row in pick(rows, group="memory", shape=list(MEMORY_SHAPE)):
        floats = row["peak_bytes"] / (4 * MEMORY_SHAPE[0] ** 2)
        ours = row["provider"] == OURS
        text = "peak above input and gradient, in n^2 floats"
        aim, verdict = (f"<= {MEMORY_LIMIT:g}", _hit(floats <= MEMORY_LIMIT)) if ours else ("", "")
        name = "" if ours else f"{row['provider']}: "
        found.append([f"memory {_shape(MEMORY_SHAPE)}", name + text, f"{floats:.1f}", aim, verdict])
    return found


def _step_targets(rows: Sequence[Row]) -> list[list[str]]:
    found = []
    for row in pick(rows, group="step", **STEP_CASE):
        if is_ours(str(row.get("arm", ""))) and row.get("overhead") is not None:
            case = f"step of {row['method']}, batch {row['batch']}, dimension {row['dim']}"
            added = f"{100 * row['overhead']:.1f} %"
            verdict = _hit(row["overhead"] <= STEP_LIMIT)
            found.append([case, "time that W2 adds", added, f"<= {100 * STEP_LIMIT:g} %", verdict])
    return found


def group_tables(rows: Sequence[Row]) -> list[Table]:
    """A table a family and mode: providers by shape, milliseconds and time over the floor."""
    return [
        _group_table(title, found)
        for (family, mode), title in TITLES.items()
        if (found := pick(rows, group=family, mode=mode))
    ]


def _group_table(title: str, rows: Sequence[Row]) -> Table:
    columns = merged([_column(row) for row in rows])
    floor = {_column(row): row.get("floor_ms") for row in rows}
    cells = []
    for provider in merged([str(row["provider"]) for row in rows]):
        found = {_column(row): row for row in pick(rows, provider=provider)}
        cells.append([provider, *(_time_cell(found.get(column)) for column in columns)])
    cells.append(["floor", *(_milliseconds(floor[column]) for column in columns)])
    return Table(title, ["ms (over the floor)", *columns], cells, _reasons(rows))


def _column(row: Row) -> str:
    return _shape(row["shape"]) + (f" {row['dtype']}" if row["dtype"] != "float32" else "")


def _time_cell(row: Row | None) -> str:
    if row is None:
        return ""
    if row["p50_ms"] is None:
        return "wrong" if row["wrong"] else "not run"
    over = row["time_over_floor"]
    return _milliseconds(row["p50_ms"]) + (f" ({_number(over)})" if over else "")


def _reasons(rows: Sequence[Row]) -> str:
    """Why cells are empty, each once: providers by reason's kind and shape."""
    found = [
        f"{row['provider']} at {_column(row)}: {row['wrong'] or row['skipped']}"
        for row in rows
        if row.get("wrong") or row.get("skipped")
    ]
    return ("Wrong or not run: " + "; ".join(found) + ".") if found else ""


def scaling_table(rows: Sequence[Row]) -> Table | None:
    """Exponents of every provider on both axes, and its time at the last size it was run at."""
    axes = [axis for axis in scaling.AXES if _on_axis(rows, axis)]
    if not axes:
        return None
    tables = {axis.name: _on_axis(rows, axis) for axis in axes}
    timed = [row for table in tables.values() for row in table if row["mode"] != "part"]
    cells = []
    for provider in merged([str(row["provider"]) for row in timed]):
        line = [provider]
        for axis in axes:
            found = scaling.fits(tables[axis.name], axis).get(provider)
            mine = [row for row in pick(tables[axis.name], provider=provider) if row["p50_ms"]]
            last = mine[-1] if mine else None
            line.append(str(found) if found else "too few points")
            line.append(f"{_milliseconds(last['p50_ms'])} at {_size(last, axis):,}" if last else "")
        cells.append(line)
    header = [""]
    for axis in axes:
        other = "n" if axis.grows == "m" else "m"
        header += [f"exponent in {axis.grows} at {other} = {axis.fixed:,}", "longest, ms"]
    wrong = {row["provider"]: row["wrong"] for row in timed if row.get("wrong")}
    note = (
        "Exponent: least squares of log time on log size over the upper half of the sizes that a "
        f"provider was run at, three at least, ± standard error. Over {scaling.LIMIT:g} s a call "
        "a curve ends."
    )
    if wrong:
        named = "; ".join(f"{provider} ({why})" for provider, why in wrong.items())
        note += f" Timed although wrong at some sizes: {named}."
    return Table("Scaling, forward and backward", header, cells, note)


def _on_axis(rows: Sequence[Row], axis: scaling.Axis) -> list[Row]:
    place = 0 if axis.grows == "m" else 1
    return [row for row in pick(rows, group=axis.name) if row["shape"][place] == axis.fixed]


def _size(row: Row, axis: scaling.Axis) -> int:
    return row["shape"][1 if axis.grows == "m" else 0]


def sections(rows: Sequence[Row]) -> dict[str, str]:
    """Marker -> Markdown; only of what was measured."""
    made: dict[str, Sequence[Table | None]] = {
        "targets": [targets_table(rows)],
        "groups": group_tables(rows),
        "scaling": [scaling_table(rows)],
    }
    found = {name: [t.markdown() for t in tables if t] for name, tables in made.items()}
    return {name: "\n".join(texts) for name, texts in found.items() if texts}


def paste(name: str, text: str, page: str) -> str:
    """The page with what lies between the markers of `name` replaced; ValueError without both."""
    begin, end = f"<!-- {name}: begin -->", f"<!-- {name}: end -->"
    before, found, rest = page.partition(begin)
    _, closed, after = rest.partition(end)
    if not found or not closed:
        raise ValueError(f"the page needs the lines {begin} and {end}, in this order")
    return f"{before}{begin}\n{text.strip()}\n{end}{after}"


def _shape(shape: Sequence[int]) -> str:
    return " x ".join(map(str, shape))


def _milliseconds(value: float | None) -> str:
    if value is None:
        return ""
    return f"{value:,.0f}" if value >= 100 else f"{value:.3g}"


def _number(value: float) -> str:
    return "" if math.isnan(value) else f"{value:.2f}" if value < 100 else f"{value:,.0f}"


def _hit(met: bool) -> str:
    return "hit" if met else "**missed**"


def main(arguments: Sequence[str] | None = None, say: Callable[[str], None] = print) -> None:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.report", description=__doc__)
    parser.add_argument("--machine", default=machine.machine_name(), help="folder of the rows")
    parser.add_argument("--write-docs", action="store_true", help="paste into docs/benchmarks.md")
    parser.add_argument("--page", type=Path, default=PAGE)
    given = parser.parse_args(arguments)
    rows = latest(read_machine(RESULTS / given.machine))
    if not rows:
        parser.exit(2, f"no rows in {RESULTS / given.machine}\n")
    if not given.write_docs:
        console = Console(width=160)
        for table in (targets_table(rows), *group_tables(rows), scaling_table(rows)):
            if table:
                console.print(table.rich())
        return
    page = given.page.read_text(encoding="utf-8")
    found = sections(rows)
    if not found:
        parser.exit(2, f"no rows of targets, groups or scaling in {RESULTS / given.machine}\n")
    for name, text in found.items():
        page = paste(name, text, page)
        say(f"{given.page}: {name} written")
    given.page.write_text(page, encoding="utf-8")


if __name__ == "__main__":
    main()
