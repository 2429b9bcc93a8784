"""Time against m at fixed n for every loss, log-log, with the fitted exponents."""

from collections.abc import Sequence

from matplotlib import pyplot as plt
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from benchmarks import scaling
from benchmarks.peers import SSL_LOSSES
from benchmarks.plots.style import INK, Label, colors, label_column, log_axis
from benchmarks.records import Row, pick
from benchmarks.suites.core import is_ours, merged

AXIS = scaling.AXES[0]
NEEDS = "rows of the scaling in m"


def draw(rows: Sequence[Row]) -> Figure | None:
    """Forms of W2 on the left, the losses that it stands beside on the right; None without rows."""
    table = [row for row in pick(rows, group=AXIS.name) if row["mode"] != "part"]
    if not table:
        return None
    names = merged([str(row["provider"]) for row in table])
    forms = [name for name in names if name not in SSL_LOSSES]
    others = [name for name in names if name in SSL_LOSSES or is_ours(name)]
    figure, axes = plt.subplots(1, 2, figsize=(13.2, 5.4), sharey=True)
    _panel(axes[0], table, forms, "W2, forward + backward")
    _panel(axes[1], table, others, "beside the losses it joins")
    axes[0].set_ylabel(f"time at n = {AXIS.fixed}")
    figure.tight_layout(w_pad=1)
    figure.subplots_adjust(wspace=0.62, right=0.84)
    for panel, names in zip(axes, (forms, others), strict=True):
        _labels(panel, table, names)
    return figure


def _points(table: Sequence[Row], name: str) -> tuple[list[int], list[float]]:
    found = [row for row in pick(table, provider=name) if row["p50_ms"]]
    return [row["shape"][1] for row in found], [row["p50_ms"] for row in found]


def _panel(axes: Axes, table: Sequence[Row], names: Sequence[str], title: str) -> None:
    axes.set_title(title)
    axes.set_xscale("log", base=2)
    axes.set_yscale("log")
    for name, color in colors(names).items():
        sizes, times = _points(table, name)
        wrong = any(row["wrong"] for row in pick(table, provider=name))
        axes.plot(
            *(sizes, times),
            color=color,
            linewidth=3.2 if is_ours(name) else 1.8,
            linestyle=(0, (4, 2)) if wrong else "-",
            marker="o",
            markersize=6 if is_ours(name) else 4,
            zorder=3 if is_ours(name) else 2,
        )
        if any(row["skipped"] for row in pick(table, provider=name)) and sizes:
            axes.plot(sizes[-1], times[-1], "x", color=color, ms=10, mew=2.2)
    sizes = sorted({row["shape"][1] for row in table})
    axes.set_xticks(sizes[::2], [f"{m:,}" for m in sizes[::2]])
    axes.minorticks_off()
    log_axis(axes.yaxis, seconds=True)
    axes.set_ylim(top=max(row["p50_ms"] or 0 for row in table) * 4)  # the key's lines
    axes.set_xlabel("embedding dimension m")
    axes.text(
        *(0.02, 0.985, _key(table, names)),
        transform=axes.transAxes,
        color=INK,
        fontsize=9,
        va="top",
    )


def _key(table: Sequence[Row], names: Sequence[str]) -> str:
    mine = [row for row in table if row["provider"] in names]
    lines = []
    if any(row["skipped"] for row in mine):
        lines.append(f"×  the next m is foreseen above {scaling.LIMIT:g} s")
    if any(row["wrong"] for row in mine):
        lines.append("dashed: wrong on these batches")
    return "\n".join(lines)


def _labels(axes: Axes, table: Sequence[Row], names: Sequence[str]) -> None:
    found = scaling.fits(table, AXIS)
    labels = []
    for name, color in colors(names).items():
        sizes, times = _points(table, name)
        if sizes:
            exponent = f"  m^{found[name].exponent:.2f}" if found[name] else ""
            labels.append(Label(sizes[-1], times[-1], name + exponent, color, is_ours(name)))
    label_column(axes, labels)
