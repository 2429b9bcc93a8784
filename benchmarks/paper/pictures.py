"""How the studies are drawn: points are sampled, lines are closed forms."""

from collections.abc import Sequence

import matplotlib

matplotlib.use("Agg")

import numpy as np
from matplotlib import pyplot as plt
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from benchmarks.paper.published import Value
from benchmarks.plots.style import FAINT, GRID, INK, OURS_COLOR, PEER_COLORS

PALETTE = (OURS_COLOR, *PEER_COLORS)
MARKERS = "osD^vP"


def panels(count: int, title: str, *, rows: int = 1, width: float = 12.0, height: float = 4.8,
           **subplots: object) -> tuple[Figure, np.ndarray]:  # fmt: skip
    """A figure with a title and `count` axes in `rows` rows."""
    figure, axes = plt.subplots(
        rows, -(-count // rows), figsize=(width, height), layout="constrained", **subplots
    )
    figure.suptitle(title, x=0.01, ha="left", weight="bold", fontsize=13.5, color=INK)
    return figure, np.atleast_1d(axes).ravel()


def points(axes: Axes, x: Sequence[Value], y: Sequence[Value], i: int, label: str = "") -> None:
    """Sampled values: open markers in the i-th colour."""
    axes.plot(
        x, y, MARKERS[i % len(MARKERS)], color=PALETTE[i], markersize=5.5, fillstyle="none",
        markeredgewidth=1.4, label=label or None,
    )  # fmt: skip


def line(
    axes: Axes, x: Sequence[Value], y: Sequence[Value], i: int, label: str = "", style: str = "-"
) -> None:
    """A closed form: a thin line in the i-th colour."""
    axes.plot(
        x, y, style, color=PALETTE[i], linewidth=1.2, alpha=0.85, label=label or None, zorder=1
    )


def sphere_axes(axes: Axes) -> None:
    """A unit sphere to put points on, seen without a frame."""
    u, v = np.mgrid[0 : 2 * np.pi : 25j, 0 : np.pi : 13j]
    axes.plot_wireframe(
        np.cos(u) * np.sin(v), np.sin(u) * np.sin(v), np.cos(v), color=GRID, linewidth=0.6
    )
    axes.set_box_aspect((1, 1, 1), zoom=1.25)
    axes.set_axis_off()
    axes.view_init(elev=22, azim=35)


def circle(axes: Axes) -> None:
    """The unit circle, and nothing else."""
    angle = np.linspace(0, 2 * np.pi, 200)
    axes.plot(np.cos(angle), np.sin(angle), color=FAINT, linewidth=0.8, zorder=0)
    axes.set_aspect("equal")
    axes.set_xticks([-1, 0, 1])
    axes.set_yticks([-1, 0, 1])
    axes.grid(False)
