"""The paper's four properties, measured for every metric: does it hold, and by how much not.

    IPC  permuting instances changes nothing             ICC  cloning instances changes nothing
    FCC  cloning features lowers the metric, strictly    FBC  appended zeros lower it, strictly

Metrics are "higher is more uniform" and normalise their rows; float64. An equality holds when it
is violated by rounding alone. A strict decrease holds when every batch shows one that rounding does
not explain; what is shown is the smallest decrease found, negative where the metric rose.
"""

from collections.abc import Callable, Iterator, Sequence

import torch
from matplotlib.figure import Figure
from torch import Tensor

from benchmarks.demo.tables import Table
from benchmarks.paper import pictures
from benchmarks.paper.metrics import METRICS
from benchmarks.paper.published import Row
from benchmarks.paper.study import Context, Study

# Sums of up to 10^4 float64 terms, through a root: relative 1e-9 is far above their rounding, and
# far below every real violation.
ROUNDING = 1e-9


def batches(context: Context) -> dict[str, Tensor]:
    """Healthy, collapsed, clustered, off-centre, in both formulations. (n, m) float64"""
    found = {}
    for i, (n, m) in enumerate(((96, 32), (32, 96))):
        generator = context.generator(7, i)

        def normal(n: int, m: int, generator: torch.Generator = generator) -> Tensor:
            return torch.randn(n, m, generator=generator, dtype=torch.float64,
                               device=generator.device)  # fmt: skip

        found[f"healthy {n} x {m}"] = normal(n, m)
        found[f"rank 6 {n} x {m}"] = normal(n, 6) @ normal(6, m)
        found[f"clusters {n} x {m}"] = normal(4, m).repeat(n // 4, 1) + 0.1 * normal(n, m)
        found[f"off centre {n} x {m}"] = normal(n, m) + 1
    return found


def _permuted(z: Tensor) -> Tensor:
    order = torch.randperm(len(z), generator=torch.Generator().manual_seed(0))
    return z[order.to(z.device)]


CHANGES: dict[str, Callable[[Tensor], Tensor]] = {
    "IPC": _permuted,
    "ICC": lambda z: torch.cat([z, z]),
    "FCC": lambda z: torch.cat([z, z], dim=1),
    "FBC": lambda z: torch.nn.functional.pad(z, (0, z.shape[1])),
}
EQUALITIES = ("IPC", "ICC")


def measure(context: Context) -> Iterator[Row]:
    """A row a metric and property: the worst batch's change."""
    samples = batches(context)
    for name, metric in context.track(list(METRICS.items())):
        before = {batch: float(metric(z)) for batch, z in samples.items()}
        for prop, change in CHANGES.items():
            after = {batch: float(metric(change(z))) for batch, z in samples.items()}
            # relative to the metric, of which 1 is the scale where it is close to 0
            fall = {
                batch: (before[batch] - after[batch]) / max(abs(before[batch]), 1.0)
                for batch in samples
            }
            equality = prop in EQUALITIES
            worst = max(fall, key=lambda b: abs(fall[b])) if equality else min(fall, key=fall.get)
            holds = abs(fall[worst]) <= ROUNDING if equality else fall[worst] > ROUNDING
            yield {
                "metric": name,
                "property": prop,
                "holds": "yes" if holds else "no",
                "relative fall": fall[worst],
                "worst batch": worst,
            }


def table(rows: Sequence[Row]) -> Table:
    """Yes or no, with the measured change."""
    cells = {(row["metric"], row["property"]): row for row in rows}
    return Table(
        "The four properties, by metric (higher is more uniform)",
        ["metric", *CHANGES],
        [[name, *(_cell(cells[name, prop]) for prop in CHANGES)] for name in METRICS],
        "IPC, ICC: the largest relative change over eight batches. FCC, FBC: the smallest relative "
        "fall; below zero the metric rose.",
    )


def _cell(row: Row) -> str:
    fall = float(row["relative fall"])
    if row["property"] in EQUALITIES:
        size = f"{abs(fall):.0e}" if abs(fall) > 1e-15 else "0"
    else:
        size = f"{fall:+.0e}" if 0 < abs(fall) < 1e-3 else f"{fall:+.3f}"
    return f"{row['holds']} ({size})"


def draw(rows: Sequence[Row]) -> Figure:
    """Two panels, one a feature property: relative fall of every metric."""
    figure, axes = pictures.panels(2, "Who notices features that add nothing?", height=4.2)
    names = list(METRICS)
    for axis, prop, what in zip(axes, ("FCC", "FBC"), ("cloned", "of zeros"), strict=True):
        falls = {str(row["metric"]): row for row in rows if row["property"] == prop}
        colors = [pictures.PALETTE[0 if falls[n]["holds"] == "yes" else 1] for n in names]
        axis.barh(names, [float(falls[n]["relative fall"]) for n in names], color=colors)
        axis.axvline(0, color=pictures.INK, linewidth=0.8)
        axis.invert_yaxis()
        axis.grid(visible=False, axis="y")
        axis.set_title(f"features {what}: fall of the metric")
    axes[1].set_yticklabels([])
    return figure


STUDY = Study("properties", "the four properties, by metric", measure, draw)
