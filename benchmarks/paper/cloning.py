"""Figures 5, 6 and 11: cloned features (FCC), appended zeros (FBC), cloned instances (ICC)."""

from collections.abc import Callable, Iterator, Sequence

import torch
from matplotlib.figure import Figure

from benchmarks.paper import closed_forms as exact
from benchmarks.paper import measures, pictures
from benchmarks.paper.collapse import LU, W2, w2_error
from benchmarks.paper.measures import Rows
from benchmarks.paper.published import Comparison, Expected, Row, pick
from benchmarks.paper.study import Context, Study

M = 32
SHARES = (75, 50, 25)
COPIES = range(11)

# The paper and its code say 50,000 rows. The printed numbers are those of about 1,000: W2 of the
# sphere exceeds its closed form by 7e-4 at eta = 75 %, where 50,000 rows give 1e-5, and the tails
# of L_U stray by one standard error of 1,000 rows, which is fifty of 50,000 (docs/paper.md).
STATED_N, PRINTED_N = 50_000, 1_000


def _batches(context: Context) -> list[tuple[int, int, int]]:
    """(n, eta, copies) of figures 5 and 6: the stated number of rows, and the printed one's."""
    counts = (PRINTED_N, context.size(STATED_N, 2_000))
    return [(n, eta, copies) for n in counts for eta in SHARES for copies in COPIES]


def _rows(context: Context, n: int, eta: int) -> Rows:
    """The same rows for figures 5 and 6, as in the paper."""
    d, m = measures.split(M, eta / 100)
    return measures.sphere(n, d, m, generator=context.generator(n, eta))


def measure_features(context: Context) -> Iterator[Row]:
    for n, eta, copies in context.track(_batches(context)):
        rows = _rows(context, n, eta)
        cloned = Rows(rows.x.repeat(1, copies + 1), M * (copies + 1))  # not normalised again
        yield {
            "n": float(n),
            "eta": float(eta),
            "clones": float(copies),
            W2: measures.w2(cloned),
            "W2 of the sphere": exact.cloned_features_w2(rows.d, M, copies),
            LU: -measures.uniformity(cloned),
            "-L_U of the sphere": -exact.cloned_features_uniformity(rows.d, copies),
        }


def measure_zeros(context: Context) -> Iterator[Row]:
    for n, eta, copies in context.track(_batches(context)):
        rows = _rows(context, n, eta)
        padded = Rows(rows.x, M * (copies + 1))
        if n == PRINTED_N:  # zeros and all: what dropping them would give is tested, not assumed
            padded = Rows(padded.padded(), padded.m)
        yield {
            "n": float(n),
            "eta": float(eta),
            "zeros over m": float(copies),
            W2: measures.w2(padded),
            "W2 of the sphere": exact.padded_w2(rows.d, M, M * copies),
            LU: -measures.uniformity(padded),
            "-L_U of the sphere": -exact.sphere_uniformity(rows.d),
        }


ICC_N, ICC_SHARE = 1_000, 50


def measure_instances(context: Context) -> Iterator[Row]:
    d, m = measures.split(M, ICC_SHARE / 100)
    rows = measures.sphere(ICC_N, d, m, generator=context.generator(ICC_N, ICC_SHARE))
    once = measures.uniformity(rows)
    for copies in context.track(list(COPIES)):
        cloned = Rows(torch.cat([rows.x] * (copies + 1)), m)
        yield {
            "n": float(ICC_N),
            "clones": float(copies),
            W2: measures.w2(cloned),
            "W2 expected of n rows": exact.sampled_w2(d, m, ICC_N),
            "L_U": measures.uniformity(cloned),
            "L_U from that of one copy": exact.cloned_instances_uniformity(once, ICC_N, copies),
        }


# (quantity, eta in percent, copies, as printed)
FEATURES_PUBLISHED = (
    (W2, 75, 0, "1.0007"), (W2, 75, 10, "3.3168"), (W2, 50, 0, ".7675"), (W2, 50, 10, "3.2541"),
    (W2, 25, 0, ".5240"), (W2, 25, 10, "3.2054"),
    (LU, 75, 0, "3.082"), (LU, 75, 10, "10.480"), (LU, 50, 0, "3.513"), (LU, 50, 10, "16.810"),
    (LU, 25, 0, "3.668"), (LU, 25, 10, "21.144"),
)  # fmt: skip
ZEROS_PUBLISHED = (
    (W2, 75, 0, "1.0009"), (W2, 75, 10, "1.3035"), (W2, 50, 0, ".7675"), (W2, 50, 10, "1.2548"),
    (W2, 25, 0, ".5233"), (W2, 25, 10, "1.2164"),
    (LU, 75, 0, "3.0787"), (LU, 75, 10, "3.0787"), (LU, 50, 0, "3.5134"), (LU, 50, 10, "3.5134"),
    (LU, 25, 0, "3.6695"), (LU, 25, 10, "3.6695"),
)  # fmt: skip
INSTANCES_PUBLISHED = (
    (W2, 0, ".76753"), (W2, 10, ".76753"),
    ("L_U", 0, "-3.51304"), ("L_U", 1, "-3.49688"), ("L_U", 10, "-3.48387"),
)  # fmt: skip


def expected_features(quantity: str, n: int, d: int, copies: int) -> Expected:
    """Of n rows with `copies` copies of their features."""
    if quantity == LU:
        t = 2.0 * (copies + 1)
        return Expected(-exact.sphere_uniformity(d, t), 4 * exact.uniformity_error(d, n, t))
    value = exact.cloned_features_w2(d, M, copies, n=n)
    return Expected(value, w2_error(value, exact.w2_squared_error(d, M, n)))


def expected_zeros(quantity: str, n: int, d: int, copies: int) -> Expected:
    """Of n rows with `copies` times 32 appended zeros."""
    if quantity == LU:
        return expected_features(LU, n, d, 0)
    value = exact.padded_w2(d, M, M * copies, n=n)
    return Expected(value, w2_error(value, exact.w2_squared_error(d, M * (copies + 1), n)))


def _compare(
    figure: str,
    published: Sequence[tuple[str, int, int, str]],
    expected: Callable[[str, int, int, int], Expected],
    column: str,
    words: str,
    rows: Sequence[Row],
) -> list[Comparison]:
    found = []
    for quantity, eta, copies, text in published:
        d, _ = measures.split(M, eta / 100)
        row = pick(rows, n=float(PRINTED_N), eta=float(eta), **{column: float(copies)})
        theory = expected(quantity, PRINTED_N, d, copies)
        at = f"eta = {eta} %, {words.format(copies)}"
        found.append(Comparison(figure, quantity, at, text, float(row[quantity]), theory, theory))
    return found


def compare_features(rows: Sequence[Row]) -> list[Comparison]:
    return _compare("5", FEATURES_PUBLISHED, expected_features, "clones", "{} clones", rows)


def compare_zeros(rows: Sequence[Row]) -> list[Comparison]:
    return _compare("6", ZEROS_PUBLISHED, expected_zeros, "zeros over m", "k = {} m", rows)


def compare_instances(rows: Sequence[Row]) -> list[Comparison]:
    found = []
    d, _ = measures.split(M, ICC_SHARE / 100)
    once = expected_zeros(W2, ICC_N, d, 0)
    single = exact.sphere_uniformity(d)
    for quantity, copies, text in INSTANCES_PUBLISHED:
        theory = once
        if quantity == "L_U":
            value = exact.cloned_instances_uniformity(single, ICC_N, copies)
            theory = Expected(value, 4 * exact.uniformity_error(d, ICC_N))
        row = pick(rows, clones=float(copies))
        at = f"{copies} clones"
        found.append(Comparison("11", quantity, at, text, float(row[quantity]), theory, theory))
    return found


def _draw(rows: Sequence[Row], title: str, axis: str) -> Figure:
    figure, (left, right) = pictures.panels(2, title)
    stated = max(row["n"] for row in rows)
    for i, eta in enumerate(SHARES):
        for n in (stated, float(PRINTED_N)):
            chosen = [row for row in rows if row["n"] == n and row["eta"] == float(eta)]
            x = [row[axis] for row in chosen]
            for axes, name in ((left, W2), (right, LU)):
                y = [row[name] for row in chosen]
                if n == stated:
                    pictures.points(axes, x, y, i, f"{eta} % collapsed")
                    pictures.line(axes, x, [row[f"{name} of the sphere"] for row in chosen], i)
                else:
                    axes.plot(x, y, ":", color=pictures.PALETTE[i], linewidth=1.1)
    left.set_title("W2: lower is more uniform")
    right.set_title("-L_U: higher is more uniform")
    for axes in (left, right):
        axes.set_xlabel(axis)
    left.legend(frameon=False)
    return figure


def draw_features(rows: Sequence[Row]) -> Figure:
    title = "Cloned features add nothing: W2 gets worse, L_U gets better (dotted: 1,000 rows)"
    return _draw(rows, title, "clones")


def draw_zeros(rows: Sequence[Row]) -> Figure:
    title = "Features that are always zero: W2 gets worse, L_U does not notice"
    return _draw(rows, title, "zeros over m")


def draw_instances(rows: Sequence[Row]) -> Figure:
    figure, (left, right) = pictures.panels(
        2, "Cloned instances: W2 does not change, L_U gets worse"
    )
    x = [row["clones"] for row in rows]
    pictures.points(left, x, [row[W2] for row in rows], 0)
    pictures.line(left, x, [row["W2 expected of n rows"] for row in rows], 0)
    left.set_ylim(0.7, 0.85)
    left.set_title("W2")
    pictures.points(right, x, [row["L_U"] for row in rows], 1)
    pictures.line(right, x, [row["L_U from that of one copy"] for row in rows], 1)
    right.set_title("L_U")
    for axes in (left, right):
        axes.set_xlabel("clones")
    return figure


FIGURE_5 = Study("5", "cloned features (FCC)", measure_features, draw_features, compare_features)
FIGURE_6 = Study("6", "appended zeros (FBC)", measure_zeros, draw_zeros, compare_zeros)
FIGURE_11 = Study("11", "cloned instances (ICC)", measure_instances, draw_instances,
                  compare_instances)  # fmt: skip
