"""Figures 3 and 4: what W2 and L_U make of a share of collapsed dimensions, and of m."""

import math
from collections.abc import Iterator, Sequence

from matplotlib.figure import Figure

from benchmarks.paper import closed_forms as exact
from benchmarks.paper import measures, pictures
from benchmarks.paper.published import Comparison, Expected, Row, pick
from benchmarks.paper.study import Context, Study

SHARES = (*range(0, 100, 5), 99)
"""eta in percent."""

W2, LU = "W2", "-L_U"


def measured(context: Context, n: int, m: int, eta: int, *, d: int, total: int) -> Row:
    """Both metrics of n rows on d of `total` dimensions, with what is to be expected of them."""
    rows = measures.sphere(n, d, total, generator=context.generator(n, m, eta))
    return {
        "m": float(m),
        "eta": float(eta),
        "n": float(n),
        "dimensions left": float(d),
        "dimensions": float(total),
        W2: measures.w2(rows),
        "W2 of the sphere": exact.sphere_w2(d, total),
        "W2 expected of n rows": exact.sampled_w2(d, total, n),
        LU: -measures.uniformity(rows),
        "-L_U of the sphere": -exact.sphere_uniformity(d),
    }


def expected(quantity: str, n: int, d: int, total: int) -> Expected:
    """Of one number of a row above."""
    if quantity == LU:
        # the mean over pairs has no finite-sample shift
        return Expected(-exact.sphere_uniformity(d), 4 * exact.uniformity_error(d, n))
    value = exact.sampled_w2(d, total, n)
    return Expected(value, w2_error(value, exact.w2_squared_error(d, total, n)))


def w2_error(value: float, squared_error: float) -> float:
    """How far W2 may lie from `value` where W2^2 may be off by `squared_error`, either way: the
    root is steeper below."""
    below = value - math.sqrt(max(value**2 - squared_error, 0.0))
    return max(math.sqrt(value**2 + squared_error) - value, below)


def measure_shares(context: Context) -> Iterator[Row]:
    n = context.size(50_000, 400)
    for m, eta in context.track([(m, eta) for m in (200, 500, 1000) for eta in SHARES]):
        d, total = measures.split(m, eta / 100)
        yield measured(context, n, m, eta, d=d, total=total)


def measure_dimensions(context: Context) -> Iterator[Row]:
    n = context.size(50_000, 400)
    for m, eta in context.track([(2**p, eta) for eta in (25, 50, 75) for p in range(2, 13)]):
        d, total = measures.split(m, eta / 100)
        yield measured(context, n, m, eta, d=d, total=total)


# (quantity, m, eta in percent, as printed)
SHARES_PUBLISHED = (
    (LU, 200, 0, "3.96"), (LU, 200, 50, "3.9201"), (LU, 200, 80, "3.7959"), (LU, 200, 99, "1.5751"),
    (W2, 200, 0, ".032"), (W2, 200, 50, ".7656"), (W2, 200, 80, "1.0558"), (W2, 200, 99, "1.3416"),
    (W2, 1000, 0, ".0709"),
)  # fmt: skip
DIMENSIONS_PUBLISHED = (
    (LU, 4, 25, "2.0798"), (LU, 4, 50, "1.5751"), (LU, 4, 75, ".6928"),
    (LU, 4096, 25, "3.9974"), (LU, 4096, 50, "3.9961"), (LU, 4096, 75, "3.9922"),
    (W2, 4, 25, ".5177"), (W2, 4, 50, ".7654"), (W2, 4, 75, "1.0"),
    (W2, 4096, 25, ".5304"), (W2, 4096, 50, ".7701"), (W2, 4096, 75, "1.0013"),
)  # fmt: skip
PUBLISHED_N = 50_000


def _compare(
    figure: str, published: Sequence[tuple[str, int, int, str]], rows: Sequence[Row]
) -> list[Comparison]:
    found = []
    for quantity, m, eta, text in published:
        row = pick(rows, m=float(m), eta=float(eta))
        d, total, n = (int(row[key]) for key in ("dimensions left", "dimensions", "n"))
        found.append(
            Comparison(
                figure,
                quantity,
                f"m = {m}, eta = {eta} %",
                text,
                float(row[quantity]),
                expected(quantity, PUBLISHED_N, d, total),
                expected(quantity, n, d, total),
            )
        )
    return found


def compare_shares(rows: Sequence[Row]) -> list[Comparison]:
    return _compare("3", SHARES_PUBLISHED, rows)


def compare_dimensions(rows: Sequence[Row]) -> list[Comparison]:
    return _compare("4", DIMENSIONS_PUBLISHED, rows)


def _draw(rows: Sequence[Row], title: str, along: str, over: str, label: str) -> Figure:
    """Both metrics along one column, a curve for each value of `over`."""
    figure, (left, right) = pictures.panels(2, title)
    for i, value in enumerate(sorted({float(row[over]) for row in rows})):
        chosen = [row for row in rows if row[over] == value]
        x = [row[along] for row in chosen]
        for axes, name in ((left, W2), (right, LU)):
            pictures.points(axes, x, [row[name] for row in chosen], i, label.format(value))
            pictures.line(axes, x, [row[f"{name} of the sphere"] for row in chosen], i)
    left.set_title("W2: lower is more uniform")
    right.set_title("-L_U: higher is more uniform")
    left.legend(frameon=False)
    return figure


def draw_shares(rows: Sequence[Row]) -> Figure:
    title = "Collapse: W2 sees every dimension that is lost, L_U the last ones"
    figure = _draw(rows, title, "eta", "m", "m = {:.0f}")
    for axes in figure.axes:
        axes.set_xlabel("collapsed dimensions, %")
    return figure


def draw_dimensions(rows: Sequence[Row]) -> Figure:
    title = "The same collapse in more dimensions: L_U loses sight of it"
    figure = _draw(rows, title, "m", "eta", "{:.0f} % collapsed")
    for axes in figure.axes:
        axes.set_xscale("log", base=2)
        axes.set_xlabel("dimension m")
    return figure


FIGURE_3 = Study("3", "sensitivity to a share of collapsed dimensions", measure_shares,
                 draw_shares, compare_shares)  # fmt: skip
FIGURE_4 = Study("4", "the same share of collapsed dimensions as m grows", measure_dimensions,
                 draw_dimensions, compare_dimensions)  # fmt: skip
