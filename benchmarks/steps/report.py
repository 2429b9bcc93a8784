"""What the rows say: one table, and what became of the target. From rows alone."""

from collections.abc import Iterable, Sequence

from benchmarks.demo.tables import Table
from benchmarks.records import Row, latest, pick
from benchmarks.steps.arms import EIGVALSH, NONE, OURS, PAPER, PROBE_DIM, VALUE_TOLERANCE
from benchmarks.steps.measure import MODE
from benchmarks.steps.step import ENCODERS, HIDDEN
from benchmarks.suites.targets import STEP_CASE, STEP_LIMIT

SECTION = "steps"  # of docs/benchmarks.md
CELL = ("device", "encoder", "method", "dim", "batch")


def recorded(rows: Sequence[Row]) -> list[Row]:
    """The training steps among recorded rows, the newest of each."""
    return latest(pick(rows, mode=MODE))


def cells(rows: Iterable[Row]) -> list[dict[str, Row]]:
    """Rows by arm, one dict a cell, in the rows' order."""
    found: dict[tuple[object, ...], dict[str, Row]] = {}
    for row in rows:
        found.setdefault(tuple(row[key] for key in CELL), {})[str(row["arm"])] = row
    return list(found.values())


def tables(rows: Sequence[Row]) -> list[Table]:
    """One table for each device and encoder."""
    places: dict[tuple[object, object], list[Row]] = {}
    for row in rows:
        places.setdefault((row["device"], row["encoder"]), []).append(row)
    return [_table(str(device), str(encoder), of) for (device, encoder), of in places.items()]


def _table(device: str, encoder: str, rows: Sequence[Row]) -> Table:
    return Table(
        title=f"One training step, {encoder} encoder, {device}: what W2 adds to it, in %",
        header=[
            "",
            "m",
            "batch",
            "step, ms",
            "own loss",
            "wssl_fast",
            "20..80 %",
            "alone",
            EIGVALSH,
            PAPER,
        ],
        rows=[_line(arms) for arms in cells(rows)],
        note=f"Step: both views forward, loss, backward, SGD with momentum, target and queue, "
        f"without W2. Encoder: {ENCODERS[encoder].text}; projector of three layers, {HIDDEN:,} "
        f"hidden and m out. Own loss: the method's loss alone, forward and backward at the step's "
        f"embeddings, in % of the step. wssl_fast, eigvalsh, paper's eigh: median over rounds of "
        f"the step with W2 less the step without it of the same round, in % of the step; 20..80: "
        f"percentiles of that; alone: W2 forward and backward by itself. W2 takes both views, "
        f"2 x batch rows. Synthetic images, every step from the same initial weights: cost, not "
        f"learning. > : not run, the step foreseen to take longer than the limit: the step without "
        f"W2 plus W2's time at m = {PROBE_DIM:,} times (m / {PROBE_DIM:,})^3. Named instead of "
        f"timed: an arm whose value is off by more than {VALUE_TOLERANCE:g} or whose gradient is "
        f"not finite.",
    )


def _line(arms: dict[str, Row]) -> list[str]:
    base = arms[NONE]
    return [
        str(base["method"]),
        f"{base['dim']:,}",
        str(base["batch"]),
        _figure(base["p50_ms"]),
        _percent(base["alone"]),
        *_ours(arms.get(OURS), base),
        *(_added(arms.get(name)) for name in (EIGVALSH, PAPER)),
    ]


def _ours(row: Row | None, base: Row) -> tuple[str, str, str]:
    if row is None or row["overhead"] is None:
        return _added(row), "", ""
    low, high = (100 * float(row[f"overhead_p{p}_ms"]) / float(base["p50_ms"]) for p in (20, 80))
    return _added(row), f"{low:.1f}..{high:.1f}", _percent(row["alone"])


def _added(row: Row | None) -> str:
    """What an arm adds, or why that is not known."""
    if row is None:
        return ""
    if row["foreseen_ms"] is not None:
        return f"> (~{float(row['foreseen_ms']) / 1e3:.0f} s)"
    return str(row["wrong"]) if row["wrong"] else _percent(row["overhead"])


def _percent(share: object) -> str:
    """The share in %, with as many digits as say something."""
    if share is None:
        return ""
    percent = 100 * float(share)
    return f"{percent:,.0f}" if abs(percent) >= 100 else f"{percent:.1f}"


def _figure(milliseconds: object) -> str:
    return "" if milliseconds is None else f"{float(milliseconds):,.0f}"


def verdicts(rows: Sequence[Row]) -> list[str]:
    """The target, hit or missed, with what is known of the cause."""
    lines = []
    for arms in cells(rows):
        base, ours = arms[NONE], arms.get(OURS)
        if ours is None or not pick([base], **STEP_CASE):
            continue
        case = f"W2 beside {base['method']}, m = {base['dim']}, batch {base['batch']}, "
        case += f"{base['encoder']} encoder, {base['device']}: "
        if ours["overhead"] is None:
            lines.append(f"{case}not timed: {ours['wrong']}")
            continue
        hit = float(ours["overhead"]) <= STEP_LIMIT
        low, _, high = _ours(ours, base)[1].partition("..")
        lines.append(
            f"{case}{_percent(ours['overhead'])} % of a step of {_figure(base['p50_ms'])} ms "
            f"({low} to {high} in 60 % of the rounds; the loss alone {_percent(ours['alone'])} %), "
            f"aimed at {100 * STEP_LIMIT:g} %: {'hit' if hit else '**missed**'}"
        )
    return lines


def markdown(rows: Sequence[Row]) -> str:
    """Tables, verdicts and where they were measured."""
    parts = [table.markdown() for table in tables(rows)]
    parts += ["".join(f"* {line}\n" for line in verdicts(rows))] if verdicts(rows) else []
    where = {
        f"{row['hardware'].get('gpu', row['hardware']['cpu'])} ({row['hardware']['generation']}), "
        f"{row['hardware']['threads']} threads, "
        f"torch {row['versions']['torch']}, commit {row['commit']}": None
        for row in rows
    }
    return "\n".join([*parts, f"Measured on {'; '.join(where)}.\n"])
