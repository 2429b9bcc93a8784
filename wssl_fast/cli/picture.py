"""The picture of `--plot`: spectrum and pairwise cosines, beside those of uniform points."""

import io
import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

import matplotlib
import torch
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import FuncFormatter, LogLocator, MaxNLocator, NullLocator
from torch import Tensor
from torch.nn import functional as F

from wssl_fast.cli.scan import Scan
from wssl_fast.cli.summary import Values
from wssl_fast.metrics import uniform_spectrum

INK, FAINT, GRID = "#1f2933", "#7b8794", "#e6e9ed"
BLUE, ORANGE = "#0072b2", "#d55e00"  # after Okabe and Ito, Color Universal Design, 2008
STYLE: dict[Any, Any] = {  # keys are a closed set to matplotlib's types
    "font.family": "DejaVu Sans",
    "font.size": 11,
    "axes.edgecolor": FAINT,
    "axes.labelcolor": INK,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.titlesize": 12.5,
    "axes.titleweight": "bold",
    "axes.titlelocation": "left",
    "axes.titlecolor": INK,
    "axes.titlepad": 10,
    "axes.grid": True,
    "axes.axisbelow": True,
    "grid.color": GRID,
    "xtick.color": INK,
    "ytick.color": INK,
    "text.color": INK,
}
DEEPEST = 1e-6  # of the largest: a singular value below is drawn there
PAIR_ROWS = 1500  # 1.1 million pairs: a smooth histogram
BINS = 120


class Set(NamedTuple):
    """What is drawn of one scan."""

    name: str
    color: str
    scan: Scan
    values: Values


def of_one(scan: Scan, values: Values) -> bytes:
    """PNG of one set of embeddings."""
    file = Path(scan.sources[0].name).name
    more = len(scan.sources) - 1
    name = f"{file} and {more} more" if more else file
    return _draw([Set(name, BLUE, scan, values)], _heading(name, values))


def of_two(scans: Sequence[Scan], both: Sequence[Values], distances: Values) -> bytes:
    """PNG of two sets of embeddings."""
    names = [f"{side}: {Path(s.sources[0].name).name}" for side, s in zip("ab", scans, strict=True)]
    sets = [Set(*x) for x in zip(names, (ORANGE, BLUE), scans, both, strict=True)]
    titles = [f"$W_2$ of {side} = {v['w2']:.3f}" for side, v in zip("ab", both, strict=True)]
    frechet = f"Frechet distance (squared) = {distances['frechet_distance']:.4g}"
    return _draw(sets, ",   ".join([frechet, *titles]))


def _heading(name: str, values: Values) -> str:
    uniformity = values["uniformity"]
    name = name.replace("$", r"\$")  # a dollar would begin a formula
    return (
        f"{name},  {values['rows']:,} x {values['columns']:,}:   "
        f"$W_2$ = {values['w2']:.3f}  (as many uniform points: {values['w2_of_uniform']:.3f})"
        + ("" if uniformity is None else f",   $L_U$ = {uniformity:.2f}")
        + f",   RankMe {values['rankme']:.1f}"
    )


def _draw(sets: Sequence[Set], heading: str) -> bytes:
    with matplotlib.rc_context(STYLE):
        figure = Figure(figsize=(12.4, 5.0), facecolor="white", layout="constrained")
        figure.suptitle(heading, x=0.012, ha="left", fontsize=12, color=INK)
        left, right = figure.subplots(1, 2, width_ratios=(1.55, 1))
        _spectra(left, sets)
        _cosines(right, sets)
        png = io.BytesIO()
        figure.savefig(png, dpi=120, format="png", metadata={"Software": "wssl-fast"})
    return png.getvalue()


def _spectra(axes: Axes, sets: Sequence[Set]) -> None:
    axes.set_title("Spectrum: standard deviation by direction")
    axes.set_yscale("log")
    lowest, highest = math.inf, 0.0
    for one in sets:
        sigma = one.scan.moments.covariance_spectrum().sqrt()
        top = max(float(sigma[0]), 1e-300)
        drawn = sigma.clamp_min(DEEPEST * top)
        lowest, highest = min(lowest, float(drawn[-1])), max(highest, float(drawn[0]))
        place = range(1, len(sigma) + 1)
        rank = float(one.values["effective_rank"] or 0)
        label = f"{one.name}: effective rank {rank:.1f}"
        axes.plot(
            place, drawn, color=one.color, linewidth=2.6, solid_capstyle="round", label=label,
            zorder=3,
        )  # fmt: skip
        if len(sets) == 1:
            axes.fill_between(place, drawn, DEEPEST * top, color=one.color, alpha=0.10, linewidth=0)
        if rank > 0:
            axes.axvline(rank, color=one.color, linewidth=1.2, linestyle=(0, (1, 2)), zorder=2)
            axes.annotate(
                f" {rank:.0f}", (rank, 0.985), xycoords=("data", "axes fraction"),
                color=one.color, va="top", weight="bold",
            )  # fmt: skip
    n, m = sets[0].scan.moments.count, len(sets[0].scan.moments.mean)
    ideal = uniform_spectrum(n, m).sqrt()
    ideal = ideal[ideal > 0]
    if len(ideal):
        axes.plot(
            range(1, len(ideal) + 1),
            ideal,
            color=FAINT,
            linewidth=1.8,
            linestyle=(0, (4, 3)),
            label="as many uniform points",
        )
        lowest, highest = min(lowest, float(ideal[-1])), max(highest, float(ideal[0]))
    axes.set_ylim(lowest / 1.6, highest * 2)
    axes.set_xlim(0.5 if m < 20 else 0, m + 0.5)
    axes.set_xlabel("direction, largest first")
    axes.xaxis.set_major_locator(MaxNLocator(integer=True))
    few = highest < 100 * lowest
    axes.yaxis.set_major_locator(LogLocator(base=10, subs=(1, 2, 5) if few else (1,)))
    axes.yaxis.set_minor_locator(NullLocator())
    axes.yaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))
    axes.legend(loc="lower left", frameon=False, handlelength=1.6)


def _cosines(axes: Axes, sets: Sequence[Set]) -> None:
    axes.set_title("Cosine of two rows, each curve to its peak")
    m = len(sets[0].scan.moments.mean)
    found = [(one, pairwise_cosines(one.scan.sample.rows[:PAIR_ROWS])) for one in sets]
    found = [(one, cosines) for one, cosines in found if len(cosines)]
    reach = 4 / math.sqrt(m)
    low = min([-reach, *(float(cosines.min()) for _, cosines in found)])
    high = max([reach, *(float(cosines.max()) for _, cosines in found)])
    low, high = max(low, -1.0), min(high, 1.0)
    for one, cosines in found:
        counts = torch.histc(cosines, BINS, low, high)
        axes.stairs(
            counts / counts.max(), torch.linspace(low, high, BINS + 1), fill=True,
            color=one.color, alpha=0.4, label=f"mean {float(cosines.mean()):+.3f}",
        )  # fmt: skip
    y, density = sphere_density(m)
    if float(density.max()) > 0:
        shown = density / density.max()
        axes.plot(y, shown, color=FAINT, linewidth=1.8, linestyle=(0, (4, 3)), label="uniform")
    axes.set_xlim(low - 0.02, high + 0.02)
    axes.set_ylim(0, 1.08)
    axes.set_yticks([])
    axes.spines["left"].set_visible(False)
    axes.set_xlabel("cosine")
    axes.legend(loc="upper right", frameon=False, handlelength=1.6)


def pairwise_cosines(rows: Tensor) -> Tensor:
    """Cosines of all pairs of rows, float64 (k (k - 1) / 2,)."""
    x = F.normalize(rows.double(), dim=1)
    i, j = torch.tril_indices(len(x), len(x), -1)
    return (x @ x.T)[i, j].clamp(-1, 1)


def sphere_density(m: int) -> tuple[Tensor, Tensor]:
    """Density of the cosine of two uniform points on the sphere of R^m, at 1,001 places.

    f(y) = Gamma(m/2) / (sqrt(pi) Gamma((m-1)/2)) (1 - y^2)^((m-3)/2): lemma 4 of the W2 paper.
    """
    y = torch.linspace(-0.999, 0.999, 1001, dtype=torch.float64)
    if m < 2:
        return y, torch.zeros_like(y)
    constant = math.lgamma(m / 2) - math.lgamma((m - 1) / 2) - 0.5 * math.log(math.pi)
    return y, (constant + (m - 3) / 2 * torch.log1p(-y * y)).exp()
