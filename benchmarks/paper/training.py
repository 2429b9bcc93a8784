"""Figures 7 and 15 to 17: spectra and curves of trained networks, from the training suite's runs.

A run is a folder with metrics.jsonl, as `python -m benchmarks.ssl train` writes it, or one of many
in a folder with rows.jsonl, as committed under benchmarks/results/ssl/. Accuracy along the epochs
is kNN's, not the linear probe's, which is measured once, at the end.
"""

from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

from matplotlib.axes import Axes
from matplotlib.figure import Figure

from benchmarks import records
from benchmarks.paper import pictures
from benchmarks.paper.published import Row
from benchmarks.paper.study import Context, Study

LABELS = {"none": "alone", "lu": "+ L_U", "w2": "+ W2"}


class RunsError(ValueError):
    """A folder that holds no finished run."""


def finished_runs(folders: Sequence[Path]) -> dict[str, list[records.Row]]:
    """Rows of each finished run, by name; RunsError where a folder has none."""
    found: dict[str, list[records.Row]] = {}
    for folder in folders:
        one, many = folder / "metrics.jsonl", folder / "rows.jsonl"
        rows = [{"run": folder.name} | row for row in records.read(one)] + records.read(many)
        named: dict[str, list[records.Row]] = {}
        for row in rows:
            named.setdefault(str(row["run"]), []).append(row)
        finished = {
            name: own
            for name, own in named.items()
            if any(row.get("kind") == "final" for row in own)
        }
        if not finished:
            raise RunsError(
                f"{folder}: no finished run in it (metrics.jsonl of `python -m benchmarks.ssl "
                'train`, or rows.jsonl of recorded runs, with a row of kind "final")'
            )
        found |= finished
    return found


def _final(rows: Sequence[records.Row]) -> records.Row:
    return next(row for row in reversed(rows) if row.get("kind") == "final")


def measure_spectra(context: Context) -> Iterator[Row]:
    """Log singular values of the test embeddings' covariance, by rank."""
    for run, rows in context.track(list(finished_runs(context.runs).items())):
        final = _final(rows)
        for k, value in enumerate(final["spectrum"], start=1):
            yield {
                "run": run,
                "method": str(final["method"]),
                "uniformity": str(final["uniformity_kind"]),
                "direction": float(k),
                "log singular value": float(value),
            }


def curve(measure: str) -> Callable[[Context], Iterator[Row]]:
    """One measure of every run along its epochs."""

    def along(context: Context) -> Iterator[Row]:
        for run, rows in context.track(list(finished_runs(context.runs).items())):
            final = _final(rows)
            points = {float(row["epoch"]): row[measure] for row in rows if row.get(measure)}
            for epoch, value in sorted(points.items()):
                yield {
                    "run": run,
                    "method": str(final["method"]),
                    "uniformity": str(final["uniformity_kind"]),
                    "epoch": epoch,
                    measure: float(value),
                }

    return along


def _draw(rows: Sequence[Row], title: str, x: str, y: str) -> Figure:
    """A panel a method, a colour a uniformity loss, a line a run."""
    methods = list(dict.fromkeys(str(row["method"]) for row in rows))
    figure, axes = pictures.panels(len(methods), title, width=4.2 * max(len(methods), 2))
    for axis, method in zip(axes, methods, strict=False):
        _lines(axis, [row for row in rows if row["method"] == method], x, y)
        axis.set_title(method)
        axis.set_xlabel(x)
    axes[0].set_ylabel(y)
    axes[0].legend(frameon=False)
    return figure


def _lines(axes: Axes, rows: Sequence[Row], x: str, y: str) -> None:
    labelled: set[str] = set()
    for run in dict.fromkeys(str(row["run"]) for row in rows):
        own = [row for row in rows if row["run"] == run]
        kind = str(own[0]["uniformity"])
        label = "" if kind in labelled else LABELS.get(kind, kind)
        labelled.add(kind)
        i = list(LABELS).index(kind) if kind in LABELS else len(LABELS)
        pictures.line(axes, [row[x] for row in own], [row[y] for row in own], i, label)


def draw_spectra(rows: Sequence[Row]) -> Figure:
    title = "Log singular values of the test embeddings' covariance"
    return _draw(rows, title, "direction", "log singular value")


def _drawn(measure: str, title: str) -> Callable[[Sequence[Row]], Figure]:
    return lambda rows: _draw(rows, title, "epoch", measure)


FIGURES = (
    Study("7", "spectra of trained embeddings (needs --runs)", measure_spectra, draw_spectra),
    Study("15", "kNN accuracy along training (needs --runs)", curve("knn"),
          _drawn("knn", "kNN accuracy on test images, %")),
    Study("16", "W2 along training (needs --runs)", curve("w2"),
          _drawn("w2", "W2 of test embeddings")),
    Study("17", "alignment along training (needs --runs)", curve("alignment"),
          _drawn("alignment", "Alignment of two views of the test images")),
)  # fmt: skip
