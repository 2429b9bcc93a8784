"""What a W2 call should cost on an H200, kernel by kernel, before it is measured.

    python -m benchmarks.gpu.model          writes docs/gpu_model.md

The launches of a call are recorded on meta tensors, as on the machine itself; costs.py says what
each of them multiplies, moves and waits for. The floor of a launch is
the longer of its bytes at the speed of memory and its products at the speed of the tensor cores,
and its latency; `planned` also counts whole waves of tiles and the operands that tiles load again
from the L2 cache. Healthy batches: launches that stand by for float64 cost their latency alone.
"""

import argparse
import json
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from rich.progress import track

from benchmarks.gpu.costs import BARRIER, H200, KERNELS, L2_RATE, LAUNCH, MEMORY, RATES, Work
from benchmarks.gpu.specimens import meta
from wssl_fast.backends.triton import dispatch, w2
from wssl_fast.backends.triton.launch import recorded

ROOT = Path(__file__).resolve().parents[2]
DOCS = ROOT / "docs" / "gpu_model.md"
RESULTS = ROOT / "benchmarks" / "results"


@dataclass(frozen=True)
class Call:
    """A forward and its backward, as they would be launched."""

    forward: list[list[Work]]
    backward: list[list[Work]]

    def seconds(self, which: str = "floor") -> float:
        """Of both, by the `floor` or as `planned`."""
        return seconds(self.forward, which) + seconds(self.backward, which)


def seconds(launches: Iterable[list[Work]], which: str) -> float:
    """Launches and phases one after the other."""
    return sum(getattr(work, which) for launch in launches for work in launch)


def flops(launches: Iterable[list[Work]]) -> Counter[str]:
    """By kind of product."""
    total: Counter[str] = Counter()
    for launch in launches:
        for work in launch:
            total[work.kind] += int(work.flops)
    return total


def call(
    n: int,
    m: int,
    dtype: torch.dtype,
    precision: str = "auto",
    *,
    by_covariance: bool | None = None,
) -> Call:
    """One problem on an H200, unit rows, W2 with its gradient."""
    by_covariance = n > m if by_covariance is None else by_covariance
    wide = dtype == torch.float64 or precision == "double"
    z = meta(1, n, m, dtype=dtype)
    with dispatch.assume(H200):
        with recorded(run=False) as forward:
            out = w2.forward(z, True, False, 0.0, precision, True, by_covariance)
        value, weights, scale, mean, deep = out
        with recorded(run=False) as backward:
            w2.backward(
                meta(1, dtype=value.dtype), value, z, weights, scale, mean, deep, True, False,
                by_covariance,
            )  # fmt: skip
    return Call(
        *([KERNELS[x.kernel.fn.__name__](x, wide) for x in part] for part in (forward, backward))
    )


# precision="double": float64 tensor cores, or two passes of float32 grade


ROOT_FLOPS = 6
"""Flops of a quintic step in k^3: two products by one triangle, two in full."""


def two_passes(n: int, m: int) -> tuple[float, float]:
    """Seconds at full rate of (float64 tensor cores, two float32-grade passes), k = min(n, m).

    float64: one Gram, 15 steps, the backward GEMM. Two passes: 4 steps give Q1, X1 = Q1 Xc, its
    Gram, 7 steps give Q2; Q2 Q1: roots of three float16 pieces, the rest of six bfloat16 pieces; X1
    written and read again.
    """
    k, long = min(n, m), max(n, m)
    gram_flops, gemm = k * k * long, 2 * k * k * long
    wide = (gram_flops + 15 * ROOT_FLOPS * k**3 + gemm) / RATES["float64"]
    roots = ((4 + 7) * ROOT_FLOPS + 2) * k**3
    single = (6 * (2 * gram_flops + 2 * gemm) + 3 * roots) / RATES["half"]
    return wide, single + 8 * n * m / MEMORY


# Document


NS = (256, 512, 1024, 2048, 4096, 16384)
MS = (256, 1024, 2048, 8192, 32768)
CASES = (("bfloat16", "auto"), ("float32", "auto"), ("float32", "double"))


PROVIDERS = {"wssl_fast": "auto", "wssl_fast double": "double"}


def measured(folder: Path = RESULTS) -> dict[tuple[int, int, str, str], float]:
    """Microseconds, forward and backward, replayed from a graph: the latest row of each case."""
    found: dict[tuple[int, int, str, str], tuple[str, float]] = {}
    for path in folder.glob("*/*.jsonl"):
        for row in map(json.loads, path.read_text().splitlines()):
            if not row.get("hardware", {}).get("gpu") or row.get("provider") not in PROVIDERS:
                continue
            if (row["mode"], row["call"]) != ("forward+backward", "graph") or not row["p50_ms"]:
                continue
            key = (*row["shape"], row["dtype"], PROVIDERS[row["provider"]])
            if key not in found or row["when"] > found[key][0]:
                found[key] = row["when"], 1e3 * row["p50_ms"]
    return {key: time for key, (_, time) in found.items()}


def lines(
    cases: Sequence[tuple[str, str]],
    shapes: Iterable[tuple[int, int]],
    times: Mapping[tuple[int, int, str, str], float],
) -> Iterator[tuple[str, ...]]:
    """Cells of the table, a shape and case each; `times` in microseconds where measured."""
    for n, m in shapes:
        for dtype, precision in cases:
            found = call(n, m, getattr(torch, dtype), precision)
            both = found.forward + found.backward
            work = flops(both)
            barriers = sum(len(launch) - 1 for launch in both)
            moved = sum(phase.bytes for launch in both for phase in launch)
            floor = 1e6 * found.seconds()
            time = times.get((n, m, dtype, precision))
            yield (
                f"{n} x {m}",
                f"{dtype} {precision}",
                "covariance" if n > m else "Gram",
                str(len(both)),
                str(barriers),
                _figure(work["half"] / 1e9),
                _figure((work["float64"] + work["float64_fma"]) / 1e9),
                _figure(moved / 1e6),
                _figure(1e6 * seconds(found.forward, "floor")),
                _figure(1e6 * seconds(found.backward, "floor")),
                _figure(floor),
                _figure(1e6 * found.seconds("planned")),
                "" if time is None else _figure(time),
                "" if time is None else f"{time / floor:.2f}",
            )


def _figure(x: float) -> str:
    return "" if x == 0 else f"{x:,.0f}" if x >= 10 else f"{x:.1f}"


HEADER = (
    "n x m",
    "rows",
    "formulation",
    "launches",
    "barriers",
    "Gflop half",
    "Gflop float64",
    "MB",
    "forward us",
    "backward us",
    "floor us",
    "planned us",
    "measured us",
    "/ floor",
)


def markdown(header: Sequence[str], body: Iterable[Sequence[str]], words: int) -> list[str]:
    """A table whose first `words` columns are text."""
    rule = "|" + "|".join("---" if i < words else "---:" for i in range(len(header))) + "|"
    return (
        ["| " + " | ".join(line) + " |" for line in (header,)]
        + [rule]
        + ["| " + " | ".join(line) + " |" for line in body]
    )


def document() -> str:
    """docs/gpu_model.md."""
    shapes = track([(n, m) for n in NS for m in MS], "recording", transient=True)
    where = ", ".join(f"{name} {rate / 1e12:g}" for name, rate in RATES.items())
    text = [
        "# Model of a W2 call on an H200",
        "",
        "Generated by `python -m benchmarks.gpu.model`: launches as recorded, one problem, unit "
        "rows, forward and backward, a healthy batch.",
        "",
        f"* Rates, Tflop/s: {where}. Half precision was measured, tf32 is half of it, float64 is "
        "the vendor's figure.",
        f"* Memory {MEMORY / 1e12:g} TB/s, measured (copy). L2 cache {L2_RATE / 1e12:g} TB/s: an "
        "assumption.",
        f"* A launch in a graph {LAUNCH * 1e6:g} us, a grid barrier {BARRIER * 1e6:g} us: "
        "assumptions, to be replaced by measurement.",
        "",
        "Gflop count every piece of a split product. The floor of a launch or phase is the longer "
        "of its products and its bytes, plus its latency; `planned` has whole waves of tiles and "
        "what tiles load again from the L2 cache.",
        "",
        *markdown(HEADER, lines(CASES, shapes, measured()), 3),
        "",
        '## precision="double": float64 tensor cores or two passes',
        "",
        "Full rates, no latencies, microseconds. float64: Gram, 15 steps, backward. Two passes: 4 "
        "and 7 steps of three pieces, two Grams, one more n x m GEMM and the backward of six.",
        "",
    ]
    compared = []
    for n in NS:
        for m in MS:
            wide, single = (1e6 * x for x in two_passes(n, m))
            compared.append((f"{n} x {m}", _figure(wide), _figure(single), f"{wide / single:.2f}"))
    text += markdown(("n x m", "float64", "two passes", "ratio"), compared, 1)
    return "\n".join(text) + "\n"


def main(arguments: Sequence[str] | None = None) -> None:
    """Writes the document."""
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.gpu.model",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--out", type=Path, default=DOCS, help="another file")
    parser.parse_args(arguments).out.write_text(document())


if __name__ == "__main__":
    main()
