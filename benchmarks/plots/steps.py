"""What a loss of W2 adds to a training step, by method and projector dimension, in percent."""

from collections.abc import Sequence

from matplotlib import pyplot as plt
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from benchmarks.plots.style import FAINT, colors, log_axis
from benchmarks.records import Row, pick
from benchmarks.suites.core import is_ours, merged

NEEDS = "rows of training steps"
LEAST = (
    0.1  # percent: what is less, or lost in the noise, is drawn here and labelled with its value
)
TARGET = 3.0  # percent
WIDTH = 0.8


def draw(rows: Sequence[Row]) -> Figure | None:
    """A panel a batch size, bars by method and dimension, one a form of W2; None without rows."""
    table = pick(rows, group="step")
    arms = [arm for arm in merged([str(row["arm"]) for row in table]) if arm != "none"]
    if not arms:
        return None
    methods = merged([str(row["method"]) for row in table])
    batches = sorted({row["batch"] for row in table})
    cells = len({(row["method"], row["dim"]) for row in table})
    figure, panels = plt.subplots(
        len(batches), 1, figsize=(max(9.0, 1.15 * cells), 1 + 3.6 * len(batches)),
        sharex=True, sharey=True, squeeze=False,
    )  # fmt: skip
    for axes, batch in zip(panels[:, 0], batches, strict=True):
        axes.set_yscale("log")
        _bars(axes, pick(table, batch=batch), methods, arms)
        axes.set_title(f"What W2 adds to a training step, batch {batch}", pad=24)
        for place, (arm, color) in enumerate(colors(arms).items()):
            axes.text(
                *(0.14 * place, 1.02, f"■ {arm}"),
                transform=axes.transAxes,
                color=color,
                weight="bold" if is_ours(arm) else "normal",
            )
    largest = max(100 * row["overhead"] for row in table if row.get("overhead") is not None)
    panels[0, 0].set_ylim(LEAST / 2, max(LEAST, largest) * 4)
    figure.tight_layout()
    return figure


def _bars(axes: Axes, table: Sequence[Row], methods: Sequence[str], arms: Sequence[str]) -> None:
    keys = sorted(
        {(row["method"], row["dim"]) for row in table},
        key=lambda key: (methods.index(key[0]), key[1]),
    )
    for index, (method, dim) in enumerate(keys):
        found = pick(table, method=method, dim=dim)
        for place, (arm, color) in enumerate(colors(arms).items()):
            x = index + (place + 0.5) * WIDTH / len(arms) - WIDTH / 2
            (row,) = pick(found, arm=arm) or [{}]
            percent = 100 * row["overhead"] if row.get("overhead") is not None else None
            shown = max(percent or 0, LEAST)
            if percent is not None:
                axes.bar(x, shown - LEAST / 2, WIDTH / len(arms) * 0.92, LEAST / 2, color=color)
            axes.text(
                *(x, shown * 1.12, _value(percent) if percent is not None else _why(row)),
                color=color,
                fontsize=8.5,
                ha="center",
                va="bottom",
                rotation=0 if percent is not None else 90,
                weight="bold" if is_ours(arm) else "normal",
                bbox={"facecolor": "white", "edgecolor": "none", "pad": 0.5},
            )
    axes.set_xticks(range(len(keys)), [f"{name}\nm = {dim:,}" for name, dim in keys])
    axes.tick_params(axis="x", labelsize=9)
    axes.grid(visible=False, axis="x")
    axes.axhline(TARGET, color=FAINT, linewidth=1.2, linestyle=(0, (4, 3)))
    place = axes.get_yaxis_transform()
    axes.text(1.005, TARGET, "target\n3 %", color=FAINT, va="center", fontsize=9, transform=place)
    log_axis(axes.yaxis)
    axes.set_ylabel("added to a step, %")


def _value(percent: float) -> str:
    return f"{percent:,.0f}" if percent >= 10 else f"{percent:.1f}"


def _why(row: Row) -> str:
    if row.get("wrong"):
        return "wrong"
    return "not run: too slow" if row.get("skipped") else "no row"
