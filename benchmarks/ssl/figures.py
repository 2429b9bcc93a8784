"""Figures of runs: curves over epochs, spectra of the final test embeddings. From rows alone."""

import os
from collections.abc import Mapping, Sequence
from pathlib import Path

from matplotlib import pyplot as plt
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.ticker import MaxNLocator

from benchmarks.plots.style import DPI, FAINT, OURS_COLOR, PEER_COLORS, STYLE
from benchmarks.records import Row
from benchmarks.ssl.methods import METHODS
from benchmarks.ssl.runs import RunFolder

CURVES = {
    "loss": "training loss, in all",
    "knn": "kNN accuracy on test images, %",
    "w2": "W2 of test embeddings",
    "uniformity": "L_U of test embeddings",
    "effective_rank": "effective rank of test embeddings",
    "alignment": "alignment of two views",
}
COLORS = (OURS_COLOR, *PEER_COLORS)
KIND_COLORS = {"none": PEER_COLORS[0], "lu": PEER_COLORS[1], "w2": OURS_COLOR}


def draw_run(folder: RunFolder) -> None:
    """curves.png and spectrum.png in a run's folder."""
    runs = {folder.path.name: folder.rows()}
    draw_curves(folder.path / "curves.png", runs)
    draw_spectra(folder.path / "spectrum.png", runs)


def draw_curves(path: Path, runs: Mapping[str, Sequence[Row]]) -> None:
    """One panel a measure, one line a run; W2 with its floor."""
    with plt.rc_context(STYLE):
        figure, axes = plt.subplots(2, 3, figsize=(15, 8), facecolor="white")
        for axis, (measure, title) in zip(axes.flat, CURVES.items(), strict=True):
            axis.set_title(title)
            for index, (name, rows) in enumerate(runs.items()):
                points = _curve(rows, measure)
                if points:
                    axis.plot(
                        *zip(*sorted(points.items()), strict=True),
                        color=COLORS[index % len(COLORS)],
                        marker="o" if len(points) < 20 else None,
                        markersize=4,
                        label=name,
                    )
            axis.xaxis.set_major_locator(MaxNLocator(integer=True))
            axis.set_xlabel("epoch")
        _floors(axes.flat[list(CURVES).index("w2")], runs)
        figure.legend(
            *axes.flat[0].get_legend_handles_labels(),
            loc="lower center",
            ncols=min(len(runs), 4),
            frameon=False,
        )
        figure.tight_layout(rect=(0, 0.05 + 0.03 * ((len(runs) - 1) // 4), 1, 1))
        _save(figure, path)


def draw_spectra(path: Path, runs: Mapping[str, Sequence[Row]]) -> None:
    """Log singular values of the final test embeddings' covariance, as the paper's figure 7."""
    with plt.rc_context(STYLE):
        figure, axes = plt.subplots(figsize=(8, 5.5), facecolor="white")
        axes.set_title("Log singular values of the test embeddings' covariance")
        for index, (name, rows) in enumerate(runs.items()):
            spectrum = next((row["spectrum"] for row in rows if row["kind"] == "final"), None)
            if spectrum:
                axes.plot(
                    range(1, len(spectrum) + 1),
                    spectrum,
                    color=COLORS[index % len(COLORS)],
                    label=name,
                )
        axes.set_xlabel("direction, by size")
        if axes.lines:
            axes.legend(frameon=False)
        figure.tight_layout()
        _save(figure, path)


def _save(figure: Figure, path: Path) -> None:
    """Under another name first: two grids may draw the same file."""
    fresh = path.with_name(f"{path.stem}.{os.getpid()}.png")
    figure.savefig(fresh, dpi=DPI)
    plt.close(figure)
    os.replace(fresh, path)


def _curve(rows: Sequence[Row], measure: str) -> dict[int, float]:
    return {row["epoch"]: row[measure] for row in rows if row.get(measure) is not None}


def _floors(axes: Axes, runs: Mapping[str, Sequence[Row]], *beside: Axes) -> None:
    """What as many uniform points have: one line if it is the same for all; also in `beside`."""
    floors = {row["w2_floor"] for rows in runs.values() for row in rows if "w2_floor" in row}
    axes.set_ylim(0, 1.08 * axes.get_ylim()[1])
    for floor in floors:
        for axis in (axes, *beside):
            axis.axhline(floor, color=FAINT, linewidth=1.2, linestyle=(0, (4, 3)))
    if len(floors) == 1:
        axes.text(
            axes.get_xlim()[0], min(floors), f" as many uniform points: {min(floors):.2f}",
            color=FAINT, va="bottom",
        )  # fmt: skip


def draw_grid(path: Path, runs: Mapping[str, Sequence[Row]]) -> None:
    """A column a method: spectra, W2 and kNN over epochs; a colour a uniformity loss, all seeds."""
    finals = {name: rows[-1] for name, rows in runs.items()}
    methods = [name for name in METHODS if name in {row["method"] for row in finals.values()}]
    epochs = max(row["epoch"] for row in finals.values())
    with plt.rc_context(STYLE):
        figure, axes = plt.subplots(
            3, len(methods), figsize=(4.2 * len(methods), 10), squeeze=False, sharey="row",
            facecolor="white",
        )  # fmt: skip
        for column, method in enumerate(methods):
            spectra, w2, knn = axes[:, column]
            for name, final in finals.items():
                if final["method"] != method:
                    continue
                style = {"color": KIND_COLORS[final["uniformity_kind"]], "linewidth": 1.6}
                spectra.plot(range(1, len(final["spectrum"]) + 1), final["spectrum"], **style)
                for axis, measure in ((w2, "w2"), (knn, "knn")):
                    points = sorted(_curve(runs[name], measure).items())
                    axis.plot(*zip(*points, strict=True), marker="o", markersize=3, **style)
            spectra.set_title(METHODS[method].name)
            spectra.set_xlabel("direction, by size")
            for axis in (w2, knn):
                axis.xaxis.set_major_locator(MaxNLocator(integer=True))
                axis.set_xlim(0, 1.03 * epochs)
                axis.set_xlabel("epoch")
        _floors(axes[1, 0], runs, *axes[1, 1:])
        for row, label in enumerate(("log singular value", "W2 of test embeddings", "kNN, %")):
            axes[row, 0].set_ylabel(label)
        handles = [
            Line2D([], [], color=color, label={"none": "alone", "lu": "+ L_U", "w2": "+ W2"}[kind])
            for kind, color in KIND_COLORS.items()
        ]
        figure.legend(handles=handles, loc="lower center", ncols=3, frameon=False)
        figure.tight_layout(rect=(0, 0.04, 1, 1))
        _save(figure, path)
