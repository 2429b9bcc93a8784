"""What a loss of W2 adds to a training step, by method and projector dimension, in percent."""

from collections.abc import Sequence

from matplotlib import pyplot as plt
from matplotlib.figure import Figure

from benchmarks.plots.style import FAINT, colors, log_axis
from benchmarks.records import Row, pick
from benchmarks.suites.core import is_ours, merged

NEEDS = "rows of training steps"
LEAST = (
    0.1  # percent: what is less, or lost in the noise, is drawn here and labelled with its value
)
WIDTH = 0.8


def draw(rows: Sequence[Row]) -> Figure | None:
    """Bars by method and dimension, one a form of W2; None without rows."""
    table = pick(rows, group="step")
    arms = [arm for arm in merged([str(row["arm"]) for row in table]) if arm != "none"]
    if not arms:
        return None
    methods = merged([str(row["method"]) for row in table])
    keys = sorted(
        {(row["batch"], row["method"], row["dim"]) for row in table},
        key=lambda key: (key[0], methods.index(key[1]), key[2]),
    )
    figure, axes = plt.subplots(figsize=(max(9.0, 1.5 * len(keys)), 5))
    axes.set_yscale("log")
    top = LEAST
    for index, (batch, method, dim) in enumerate(keys):
        found = pick(table, batch=batch, method=method, dim=dim)
        for place, (arm, color) in enumerate(colors(arms).items()):
            x = index + (place + 0.5) * WIDTH / len(arms) - WIDTH / 2
            (row,) = pick(found, arm=arm) or [{}]
            percent = 100 * row["overhead"] if row.get("overhead") is not None else None
            shown = max(percent or 0, LEAST)
            top = max(top, shown)
            if percent is not None:
                axes.bar(x, shown - LEAST / 2, WIDTH / len(arms) * 0.92, LEAST / 2, color=color)
            text = _value(percent) if percent is not None else _why(row)
            flat = percent is not None
            axes.text(
                *(x, shown * 1.12, text),
                color=color,
                fontsize=9,
                ha="center",
                va="bottom",
                rotation=0 if flat else 90,
                weight="bold" if is_ours(arm) else "normal",
                bbox={"facecolor": "white", "edgecolor": "none", "pad": 0.5},
            )
    axes.set_xticks(range(len(keys)), [f"{name}\nm = {dim:,}" for _, name, dim in keys])
    batches = sorted({batch for batch, _, _ in keys})
    if len(batches) > 1:
        axes.set_xticks(range(len(keys)), [f"{n}\nm = {d:,}\nbatch {b}" for b, n, d in keys])
    axes.grid(visible=False, axis="x")
    axes.set_ylim(LEAST / 2, top * 4)
    axes.axhline(3, color=FAINT, linewidth=1.2, linestyle=(0, (4, 3)))
    place = axes.get_yaxis_transform()
    axes.text(1.005, 3, "target\n3 %", color=FAINT, va="center", fontsize=9, transform=place)
    log_axis(axes.yaxis)
    axes.set_ylabel("added to a step, %")
    said = f"What W2 adds to a training step, batch {', '.join(map(str, batches))}"
    axes.set_title(said, pad=26)
    for place, (arm, color) in enumerate(colors(arms).items()):
        axes.text(
            *(0.22 * place, 1.02, f"■ {arm}"),
            transform=axes.transAxes,
            color=color,
            weight="bold" if is_ours(arm) else "normal",
        )
    figure.tight_layout()
    return figure


def _value(percent: float) -> str:
    return f"{percent:,.0f}" if percent >= 10 else f"{percent:.1f}"


def _why(row: Row) -> str:
    if row.get("wrong"):
        return "wrong"
    return "not run: too slow" if row.get("skipped") else "no row"
