"""What the figures share: colours that colour-blind readers tell apart, plain numbers, labels."""

from collections.abc import Sequence
from dataclasses import dataclass

import matplotlib

matplotlib.use("Agg")

from matplotlib.axes import Axes
from matplotlib.axis import Axis
from matplotlib.ticker import FuncFormatter, LogLocator, NullLocator

from benchmarks.peers import SSL_LOSSES, W2_FORMS
from benchmarks.suites.core import is_ours
from wssl_fast.cli import picture

INK, GRID, OURS_COLOR = picture.INK, picture.GRID, picture.BLUE
FAINT = "#8a94a0"
PEER_COLORS = ("#d55e00", "#009e73", "#cc79a7", "#a67c00", "#56a0d3", "#6f4e9c", "#555555")
"""After Okabe and Ito, Color Universal Design (2008), its yellow darkened for a white page."""

STYLE = {**picture.STYLE, "axes.edgecolor": FAINT}  # as `wssl-fast inspect --plot` draws
DPI = 110
COLUMN = 1.03  # of the axes' width: where the labels' column begins


KNOWN = {
    name: PEER_COLORS[i % len(PEER_COLORS)]
    for registry in (SSL_LOSSES, W2_FORMS)
    for i, name in enumerate(registry)
}


def colors(providers: Sequence[str]) -> dict[str, str]:
    """The package blue, a peer the same in every figure."""
    return {name: OURS_COLOR if is_ours(name) else KNOWN.get(name, FAINT) for name in providers}


@dataclass(frozen=True)
class Label:
    """Words for the point (x, y), in data coordinates."""

    x: float
    y: float
    text: str
    color: str
    bold: bool = False


def label_column(axes: Axes, labels: Sequence[Label], *, gap: float = 0.058) -> None:
    """Labels in a column right of the axes, in the order of their points, a thin line to each.

    gap: least distance of two labels, of the axes' height.
    """
    to_axes = axes.transData + axes.transAxes.inverted()
    placed = sorted(labels, key=lambda label: to_axes.transform((label.x, label.y))[1])
    points = [to_axes.transform((label.x, label.y)) for label in placed]
    heights = _spread([float(point[1]) for point in points], gap)
    for label, point, height in zip(placed, points, heights, strict=True):
        axes.annotate(
            label.text,
            xy=(point[0], point[1]),
            xycoords="axes fraction",
            xytext=(COLUMN, height),
            textcoords="axes fraction",
            color=label.color,
            weight="bold" if label.bold else "normal",
            va="center",
            fontsize=10,
            arrowprops={
                "arrowstyle": "-",
                "color": label.color,
                "alpha": 0.45,
                "linewidth": 0.8,
                "shrinkA": 2,
                "shrinkB": 3,
            },
            annotation_clip=False,
        )


def _spread(heights: Sequence[float], gap: float) -> list[float]:
    """Ascending heights moved apart to `gap`, as little as it takes, around where they were."""
    blocks: list[list[float]] = []  # [sum of (height - offset), members]
    for height in heights:
        blocks.append([height, 1])
        while len(blocks) > 1 and _start(blocks[-2], gap) + blocks[-2][1] * gap > _start(
            blocks[-1], gap
        ):
            total, members = blocks.pop()
            blocks[-1][0] += total
            blocks[-1][1] += members
    found = []
    for block in blocks:
        start = _start(block, gap)
        found += [start + i * gap for i in range(int(block[1]))]
    over = max(found[-1] - 1.02, 0.0) if found else 0.0  # none above the axes' title
    if not over:
        return found
    ceiling = [1.02 - gap * i for i in range(len(found) - 1, -1, -1)]
    return [min(height, most) for height, most in zip(found, ceiling, strict=True)]


def _start(block: Sequence[float], gap: float) -> float:
    total, members = block
    return total / members - (members - 1) * gap / 2


def log_axis(axis: Axis, *, seconds: bool = False, between: bool = False) -> None:
    """Ticks at powers of ten, `between` at 2 and 5 too; plain numbers, milliseconds as ms or s."""
    axis.set_major_locator(LogLocator(base=10, subs=(1, 2, 5) if between else (1,)))
    axis.set_minor_locator(NullLocator())
    shown = duration if seconds else plain
    axis.set_major_formatter(FuncFormatter(lambda value, _: shown(value)))


def plain(value: float) -> str:
    """As 0.001 or 10,000; powers of ten below 1e-3 as 1e-4."""
    if value < 1e-3:
        return f"{value:.0e}".replace("e-0", "e-")
    return f"{value:,.0f}" if value >= 10 else f"{value:g}"


def duration(milliseconds: float) -> str:
    """As 5 ms or 2 s."""
    return f"{milliseconds:g} ms" if milliseconds < 1000 else f"{milliseconds / 1000:g} s"
