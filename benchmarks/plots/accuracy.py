"""Error of the gradient over the zoo against the time it costs, for solvers, precisions and peers.

Rows of benchmarks.accuracy: `spectra` maps a spectrum to its errors, of which `gradient` maps the
least sigma/sigma_max counted to the relative error, null with `failure` where nothing finite came.
"""

import statistics
from collections.abc import Sequence

from matplotlib import pyplot as plt
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from benchmarks.plots.style import FAINT, INK, Label, colors, label_column, log_axis
from benchmarks.records import Row, pick
from benchmarks.suites.core import is_ours, merged

NEEDS = "rows of the accuracy"
ABOVE = "3e-05"  # every direction that auto promises to resolve
NOT_FINITE = 30.0  # where a provider stands that gave NaN, or raised, on some spectrum
LEAST = 1e-8  # an error drawn below this would be drawn here


def draw(rows: Sequence[Row]) -> Figure | None:
    """A panel a formulation: worst spectrum as a point, the median as the line's other end."""
    table = pick(rows, group="accuracy")
    if not table:
        return None
    shapes = merged([str(row["formulation"]) for row in table])
    figure, axes = plt.subplots(1, len(shapes), figsize=(6.6 * len(shapes), 6.2), squeeze=False)
    panels = list(zip(axes[0], shapes, strict=True))
    found = [_panel(panel, pick(table, formulation=shape)) for panel, shape in panels]
    axes[0, 0].set_ylabel("gradient error, worst spectrum (point) to median")
    figure.tight_layout(w_pad=1)
    figure.subplots_adjust(wspace=0.85, right=0.81)
    for panel, labels in zip(axes[0], found, strict=True):
        label_column(panel, labels, gap=0.047)
    return figure


def _panel(axes: Axes, table: Sequence[Row]) -> list[Label]:
    n, m = table[0]["shape"]
    axes.set_title(f"{table[0]['formulation']}: {n} x {m}, float32")
    axes.set_xscale("log")
    axes.set_yscale("log")
    labels = []
    drawn: list[Row] = []
    for name, color in colors([str(row["provider"]) for row in table]).items():
        (row,) = pick(table, provider=name)
        if is_ours(name) and row["spectra"] in drawn:
            continue  # on a CPU high and medium are highest, and auto takes eigh: one point
        drawn.append(row["spectra"])
        time = row["healthy_ms"]
        errors = [max(e["gradient"][ABOVE], LEAST) for e in _spectra(row) if e.get("gradient")]
        failed = sum(1 for e in _spectra(row) if e.get("failure"))
        if not time or not (errors or failed):
            continue
        worst = NOT_FINITE if failed else max(errors)
        if errors:
            axes.plot([time] * 2, [statistics.median(errors), worst], color=color, alpha=0.5, lw=2)
        marker = "X" if failed else "o"
        axes.plot(time, worst, marker, color=color, ms=9 if is_ours(name) else 7, zorder=3)
        said = f"{name} (NaN on {failed})" if failed else name
        labels.append(Label(time, worst, said, color, is_ours(name) and "," not in name))
    axes.axhline(1, color=FAINT, linewidth=1.2, linestyle=(0, (4, 3)))
    axes.text(
        *(0.02, 1.15, "no digit right"),
        transform=axes.get_yaxis_transform(),
        color=INK,
        fontsize=9,
    )
    axes.set_ylim(top=NOT_FINITE * 2)
    log_axis(axes.yaxis)
    log_axis(axes.xaxis, seconds=True, between=True)
    axes.set_xlabel("forward + backward, healthy batch")
    return labels


def _spectra(row: Row) -> list[Row]:
    return list(row["spectra"].values())
