"""The ratios aimed at on a GPU, from the rows of one run: hit, missed, or why there is no ratio."""

import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass

from benchmarks.gpu import providers as p
from benchmarks.gpu.plan import (
    CSRC,
    LARGE_SHAPES,
    LITERAL_SHAPES,
    MEMORY_SHAPE,
    ROOT_TARGETS,
    TARGET_SHAPES,
    TRITON,
)
from benchmarks.gpu.rates import COPY, DENSE, H200_COPY, H200_HALF
from benchmarks.gpu.rows import row
from benchmarks.gpu.sweep import BOTH, GRAPH, PLAIN
from benchmarks.gpu.testing import ASIDE, CUT_OFF
from benchmarks.gpu.testing import CUDA as CUDA_TESTS
from wssl_fast.backends import cuda

Row = Mapping[str, object]
Shape = tuple[int, int]

DTYPE = "bfloat16"
FACTOR_COMPOSED, FACTOR_BARLOW, FACTOR_LITERAL = 2.0, 5.0, 1000.0
SHARE_OF_DENSE = 0.6
MEMORY_LIMIT = 8.0
AUTO_LIMIT = 1.05
LITERAL_SHAPE = (512, 8192)
ROOT = "root"
US = " us"
TRITON_ALONE, CSRC_ALONE = frozenset({TRITON}), frozenset({CSRC})  # what a ratio measures
KINDS = {TRITON: "Triton kernel", p.COMPOSED: "PyTorch composition"}
# half-precision products that make one product: fp16x3 of the root, and bfloat16 rows with weights
# of three bfloat16 pieces in the backward (costs.py)
ROOT_PIECES, BACKWARD_PIECES = 3, 3


class UnmeasuredError(Exception):
    """A row that a target needs is missing; says which and why."""


@dataclass(frozen=True)
class Verdict:
    case: str
    what: str
    measured: str
    aim: str
    verdict: str


def verdicts(rows: Sequence[Row]) -> list[Verdict]:
    """Every target, of rows of one run."""
    found = []
    every = [(TRITON_ALONE, one) for one in _targets()] + list(_root_targets())
    for measured, (case, what, unit, least, limit, ratio) in every:
        red = tests_failed(rows, measured)
        aim = f"{'>=' if least else '<='} {limit:g}{unit}"
        try:
            if unit == US:
                limit, aim = _scaled(rows, limit)
            value = ratio(rows)
        except UnmeasuredError as why:
            found.append(Verdict(case, what, "", aim, f"not measured: {why}"))
            continue
        hit = value >= limit if least else value <= limit
        verdict = f"withheld: {red}" if red else "hit" if hit else "missed"
        found.append(Verdict(case, what, f"{value:.3g}{unit}", aim, verdict))
    return found


def _scaled(rows: Sequence[Row], limit: float) -> tuple[float, str]:
    """An aim for an H200 on the GPU of these rows, and how it reads. Elsewhere it is longer, never
    shorter, by the worse of two ratios of measured rates, an H200's over this one's: dense float16
    products, and copies."""
    names = [str(one["hardware"].get("gpu", "")) for one in rows if "hardware" in one]  # type: ignore[attr-defined]
    name = next(filter(None, names), None)
    if name is None:
        raise UnmeasuredError("an aim for an H200, and no row says which GPU")
    if "H200" in name:
        return limit, f"<= {limit:g}{US}"
    half, copy = (_rate(rows, *which) for which in ((DENSE, "float16"), (COPY, "float32")))
    factor = max(1.0, H200_HALF / (half * 1e12), H200_COPY / (copy * 1e12))
    return limit * factor, f"<= {limit * factor:.3g}{US} ({factor:.2f} x {limit:g} on an H200)"


def _rate(rows: Sequence[Row], provider: str, dtype: str) -> float:
    """The last one measured, in the unit of its row."""
    found = [
        float(row["rate"])  # type: ignore[arg-type]
        for row in rows
        if row.get("provider") == provider and row.get("dtype") == dtype and row.get("rate")
    ]
    if not found:
        raise UnmeasuredError(f"no row of the {dtype} {provider}")
    return found[-1]


def table(found: Sequence[Verdict]) -> str:
    """As text, a line each, and a count."""
    lines = [("case", "ratio", "measured", "target", "")]
    lines += [(v.case, v.what, v.measured, v.aim, v.verdict) for v in found]
    widths = [max(len(line[i]) for line in lines) for i in range(4)]
    text = [
        "  ".join([*(cell.ljust(w) for cell, w in zip(line, widths, strict=False)), line[4]])
        for line in lines
    ]
    hits = sum(v.verdict == "hit" for v in found)
    missed = sum(v.verdict == "missed" for v in found)
    text.append(f"{hits} hit, {missed} missed, {len(found) - hits - missed} without a verdict")
    return "\n".join(line.rstrip() for line in text)


def tests_failed(rows: Sequence[Row], measured: frozenset[str]) -> str | None:
    """What tests or a sanitizer said of what is `measured`, if they found anything: then a ratio
    does not count. Tests of kernels that no target measures do not matter; those of csrc/cuda do
    where it is measured, or where the package takes it."""
    return next((why for one in rows if (why := _failed(one, measured))), None)


def _failed(one: Row, measured: frozenset[str]) -> str | None:
    watched, name = one.get("group"), one.get("provider")
    if watched not in ("tests", "sanitizer") or not one.get("wrong") or one.get("mode") == ASIDE:
        return None
    of_csrc = watched == "sanitizer" or name in CUDA_TESTS
    taken = of_csrc and cuda.PREFERRED and TRITON in measured
    return f"{name}: {one['wrong']}" if taken or _part(of_csrc) in measured else None


def _part(of_csrc: bool) -> str:
    return CSRC if of_csrc else TRITON


def doubts(rows: Sequence[Row], found: Sequence[Verdict]) -> list[str]:
    """What failed and how many ratios it withholds, and what was not tested to its end: a line
    each."""
    lines = []
    for one in rows:
        name = one.get("provider")
        if one.get("group") not in ("tests", "sanitizer"):
            continue
        if one.get("wrong"):
            count = sum(v.verdict.startswith(f"withheld: {name}: ") for v in found)
            said = f"withholds {count} ratios" if one.get("mode") != ASIDE else "withholds no ratio"
            lines.append(f"{name} {said}: {one['wrong']}")
        elif CUT_OFF in str(one.get("note")):
            lines.append(f"{name} not tested to its end: {one['note']}")
    return lines


def suggestion(rows: Sequence[Row]) -> str:
    """A line for PREFERRED of backends/cuda.py: the sizes for which csrc/cuda was right, with its
    tests passed, and faster than Triton's kernel, both in a graph."""
    head = f"{CSRC} for PREFERRED"
    why = tests_failed(rows, CSRC_ALONE) or _untested(rows)
    if why:
        return f"{head}: no size ({why})"
    mine = [row for row in rows if row.get("group") == "root" and row.get("call") == GRAPH]
    sizes = sorted({row["shape"][0] for row in mine})  # type: ignore[index]
    ratios: dict[int, float] = {}
    for k in sizes:
        try:
            ratios[k] = _root_ratio(k, TRITON)(rows)
        except UnmeasuredError:
            continue
    chosen = [k for k in ratios if ratios[k] > 1.0]
    if not chosen:
        return f"{head}: no size (faster at none of {len(ratios)} that were measured)"
    said = ", ".join(f"{k} ({ratios[k]:.3g}x)" for k in chosen)
    between = [k for k in sizes if chosen[0] <= k <= chosen[-1] and k not in chosen]
    if between:
        return f"{head}: k = {said}; no single range, not at {between}"
    hardware = next(row["hardware"] for row in mine) if "hardware" in mine[0] else {}
    name = dict(hardware).get("architecture", "?")  # type: ignore[call-overload]
    return f'{head}: k = {said}: {{"{name}": ({chosen[0]}, {chosen[-1]})}}'


def _untested(rows: Sequence[Row]) -> str | None:
    """Why nobody knows whether csrc/cuda is right."""
    (name,) = CUDA_TESTS
    tests = [row for row in rows if row.get("provider") == name]
    if not tests:
        return f"no row of {name}"
    said = str(tests[-1].get("skipped") or tests[-1].get("note") or "")
    return f"{name}: {said}" if tests[-1].get("skipped") or CUT_OFF in said else None


def literal_at(rows: Sequence[Row], shape: Shape = LITERAL_SHAPE) -> tuple[float, float]:
    """Milliseconds of the paper's loss at `shape`, and the exponent of m that took it there from
    the two shapes at which it was timed."""
    (n, small), (_, large) = LITERAL_SHAPES
    low = best(rows, (n, small), (p.LITERAL,), call=PLAIN)
    high = best(rows, (n, large), (p.LITERAL,), call=PLAIN)
    exponent = math.log(high / low) / math.log(large / small)
    return high * (shape[1] / large) ** exponent, exponent


def extrapolated(rows: Sequence[Row]) -> dict[str, object] | None:
    """A row of the paper's loss at LITERAL_SHAPE, marked as extrapolated; None if not timed."""
    try:
        found, exponent = literal_at(rows)
    except UnmeasuredError:
        return None
    return row(
        group="sweep",
        tier="paper",
        shape=list(LITERAL_SHAPE),
        dtype=DTYPE,
        mode=BOTH,
        provider=p.LITERAL,
        call=PLAIN,
        rounds=0,
        p50_ms=round(found, 3),
        extrapolated=True,
        note=f"extrapolated from m = {' and '.join(str(m) for _, m in LITERAL_SHAPES)}, "
        f"time ~ m^{exponent:.2f}",
    )


def best(
    rows: Sequence[Row],
    shape: Shape,
    names: Sequence[str],
    *,
    call: str | None,
    dtype: str = DTYPE,
    mode: str = BOTH,
) -> float:
    """Milliseconds of the fastest of `names`, forward and backward, that was timed."""
    group = [row for row in rows if (row.get("group") == "root") == (mode == ROOT)]
    mine = _rows_of(group, shape, names, dtype)
    timed = [
        float(row["p50_ms"])  # type: ignore[arg-type]
        for row in mine
        if row.get("mode") == mode
        and row.get("p50_ms") is not None
        and not row.get("extrapolated")
        and call in (None, row.get("call"))
    ]
    if timed:
        return min(timed)
    where = f"{' or '.join(names)} at {shape[0]} x {shape[1]}" + (f" ({call})" if call else "")
    reasons = [row.get("error") or row.get("wrong") or row.get("skipped") for row in mine]
    why = next((str(reason) for reason in reasons if reason), None)
    raise UnmeasuredError(f"{where}: {why}" if why else f"no row of {where}")


def _rows_of(rows: Sequence[Row], shape: Shape, names: Sequence[str], dtype: str) -> list[Row]:
    return [
        row
        for row in rows
        if row.get("shape") == list(shape)
        and row.get("dtype") == dtype
        and (row.get("provider") in names or (row.get("provider") is None and row.get("skipped")))
    ]


Ratio = Callable[[Sequence[Row]], float]
Target = tuple[str, str, str, bool, float, Ratio]


def _targets() -> Iterator[Target]:
    """Of the losses by Triton's kernels: case, what, unit, whether at least, limit, ratio. Graph
    means both sides under one."""
    compositions = (p.COMPOSED, p.COMPILED)
    barlow = (p.BARLOW, p.BARLOW_AUTOCAST)
    for shape in TARGET_SHAPES:
        case = f"{shape[0]} x {shape[1]} {DTYPE}"
        what = "faster than the best PyTorch composition, graph"
        yield case, what, "x", True, FACTOR_COMPOSED, _faster(shape, compositions, GRAPH)
        what = "cheaper than the cheapest Barlow Twins on the same rows, graph"
        yield case, what, "x", True, FACTOR_BARLOW, _faster(shape, barlow, GRAPH)
        what = "auto over highest on a healthy batch, graph"
        yield case, what, "x", False, AUTO_LIMIT, _auto_over_highest(shape)
    n, m = LITERAL_SHAPE
    what = f"faster than the paper's loss extrapolated from {LITERAL_SHAPES[-1][1]}, plain"
    yield f"{n} x {m} {DTYPE}", what, "x", True, FACTOR_LITERAL, _over_literal
    for shape in LARGE_SHAPES:
        case = f"{shape[0]} x {shape[1]} {DTYPE}"
        what = "of the measured dense rate, products counted in full, graph"
        yield case, what, "", True, SHARE_OF_DENSE, _share_of_dense(shape)
    for dtype in (DTYPE, "float32"):
        case = f"{MEMORY_SHAPE[0]} x {MEMORY_SHAPE[1]} {dtype}"
        what = "peak memory beyond input and gradient, in n^2 floats"
        yield case, what, "", False, MEMORY_LIMIT, _memory(dtype)


def _root_targets() -> Iterator[tuple[frozenset[str], Target]]:
    """Of csrc/cuda at the k x k problem alone; and what is measured."""
    for k, limit in ROOT_TARGETS.items():
        case = f"{k} x {k} root"
        yield CSRC_ALONE, (case, f"{CSRC}, graph", US, False, limit, _root_us(k))
        for name in (TRITON, p.COMPOSED):
            what = f"{CSRC} faster than the {KINDS[name]}, graph"
            measured = CSRC_ALONE | {TRITON} if name == TRITON else CSRC_ALONE
            yield measured, (case, what, "x", True, 1.0, _root_ratio(k, name))


def _root_ms(rows: Sequence[Row], k: int, name: str) -> float:
    return best(rows, (k, k), (name,), call=GRAPH, dtype="float32", mode=ROOT)


def _root_us(k: int) -> Ratio:
    return lambda rows: 1e3 * _root_ms(rows, k, CSRC)


def _root_ratio(k: int, name: str) -> Ratio:
    return lambda rows: _root_ms(rows, k, name) / _root_ms(rows, k, CSRC)


def _faster(shape: Shape, names: Sequence[str], call: str) -> Ratio:
    return lambda rows: (
        best(rows, shape, names, call=call) / best(rows, shape, (p.OURS,), call=call)
    )


def _auto_over_highest(shape: Shape) -> Ratio:
    return lambda rows: (
        best(rows, shape, (p.OURS,), call=GRAPH) / best(rows, shape, (p.HIGHEST,), call=GRAPH)
    )


def _over_literal(rows: Sequence[Row]) -> float:
    return literal_at(rows)[0] / best(rows, LITERAL_SHAPE, (p.OURS,), call=PLAIN)


def counted_flops(n: int, m: int) -> float:
    """Flops of bfloat16 rows, n <= m, forward and backward: all pieces of the products, symmetric
    ones counted in full."""
    return ROOT_PIECES * p.root_flops(n) + (1 + BACKWARD_PIECES) * 2.0 * n * n * m


def _share_of_dense(shape: Shape) -> Ratio:
    def share(rows: Sequence[Row]) -> float:
        rate = _rate(rows, DENSE, DTYPE)
        seconds = best(rows, shape, (p.OURS,), call=GRAPH) / 1e3
        return counted_flops(*shape) / seconds / (rate * 1e12)

    return share


def _memory(dtype: str) -> Ratio:
    def floats(rows: Sequence[Row]) -> float:
        n, m = MEMORY_SHAPE
        peaks = [
            int(row["peak_bytes"])  # type: ignore[call-overload]
            for row in _rows_of(rows, MEMORY_SHAPE, (p.OURS,), dtype)
            if row.get("peak_bytes") is not None
        ]
        if not peaks:
            best(rows, MEMORY_SHAPE, (p.OURS,), call=PLAIN, dtype=dtype)  # says why
            raise UnmeasuredError("no peak memory in the row")
        itemsize = 4 if dtype == "float32" else 2
        return (peaks[-1] - n * m * itemsize) / (4 * n * n)

    return floats
