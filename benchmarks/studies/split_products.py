"""Newton-Schulz on tensor cores: which products may be made of half-precision pieces?

python -m benchmarks.studies.split_products                run, write rows, tables into the docs
python -m benchmarks.studies.split_products --quick        the zoo's own shapes, printed alone
python -m benchmarks.studies.split_products --write-docs   tables from the rows there are

Everything is emulated on a CPU: pieces are rounded as the hardware would, their products are
exact in float32, and sums are taken to nearest or, where it says so, truncated as tensor cores
are reported to. The loss around the iteration is the eager backend's, with its Gram matrix and its
root replaced; errors are against the float64 truth, and rules are those of tests/tolerances.py.
"""

import argparse
import json
import math
from collections import defaultdict
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import torch
from torch import Tensor

from benchmarks import machine
from benchmarks.studies.split_emulation import (
    ACCUMULATE,
    EPS,
    GRAM_TERMS,
    LOW,
    Scheme,
    Watch,
    chain,
    finished,
    gram,
    half_pieces,
    identity_plus,
    loss,
)
from benchmarks.studies.split_products_report import order, tables
from tests.tolerances import FLOOR as GRADIENT_FLOOR
from tests.tolerances import value_tolerance
from tests.zoo import BY_NAME, RAW_SCALE, SHAPES, ZOO
from wssl_fast import reference

ROWS = Path(__file__).parents[1] / "results" / "studies" / "split_products.jsonl"
DOCS = Path(__file__).parents[2] / "docs" / "split_products.md"
Row = dict[str, object]

# The truth, one decomposition a batch


class Truth:
    """What tests/tolerances.py compares with, decomposed once. z (n, m)."""

    def __init__(self, z: Tensor, normalize: bool) -> None:
        self.z, self.normalize = z, normalize
        n = len(z)
        x = z.double()
        norm = x.norm(dim=1, keepdim=True) if normalize else torch.ones(n, 1, dtype=torch.float64)
        self.length = norm
        x = x / torch.where(norm > 0, norm, 1.0) if normalize else x
        self.x = x
        self.u, self.s, self.vh = torch.linalg.svd(x - x.mean(0), full_matrices=False)
        self.relative = reference.relative_spectrum(z, normalize=normalize)
        self.value = reference.wasserstein_uniformity(z, normalize=normalize).item()
        grad = reference.wasserstein_uniformity_grad(z, normalize=normalize, squared=True)
        self.want = self._by_direction(grad)
        self.polar = math.sqrt(n)

    def _by_direction(self, grad: Tensor) -> Tensor:
        return grad.double() * self.length if self.normalize else grad.double()

    def unseen(self, below: float = 5e-3) -> float:
        trace = (self.relative * (self.relative < below)).sum() * self.s[0]
        n, m = self.z.shape
        return (trace / math.sqrt(n * m)).item() / max(self.value, 1e-2)

    def _pair(self, grad: Tensor, above: float, null: bool) -> tuple[Tensor, Tensor]:
        got, want = self._by_direction(grad), self.want
        upper = (self.relative >= above) & (self.relative > 0)
        rank = min(self.z.shape[0] - 1, self.z.shape[1])
        if int(upper.sum()) == (int((self.relative > 0).sum()) if null else rank):
            return got, want
        left, right = self.u[:, upper], self.vh[upper].T
        along = torch.nn.functional.normalize(self.x @ right, dim=-1, eps=1e-300)

        def seen(grad: Tensor) -> Tensor:
            grad = grad @ right
            if self.normalize:
                grad = grad - (grad * along).sum(dim=-1, keepdim=True) * along
            return left.T @ grad

        return seen(got), seen(want)

    def error(self, grad: Tensor, above: float) -> float:
        """tests.tolerances.gradient_error, null=False."""
        got, want = self._pair(grad, above, null=False)
        n, m = self.z.shape
        live = int(((self.relative >= above) & (self.relative > 0)).sum())
        floor = GRADIENT_FLOOR * 2 / (n * math.sqrt(m)) * math.sqrt(n * max(live, 1))
        return ((got - want).norm() / max(want.norm().item(), floor)).item()

    def cosine(self, grad: Tensor, above: float) -> float:
        got, want = self._pair(grad, above, null=False)
        return (torch.sum(got * want) / (got.norm() * want.norm())).item()


def evaluate(truth: Truth, scheme: Scheme) -> Row:
    """Errors of a scheme on a batch, with what the iteration met on the way."""
    watch = Watch()
    value, grad = loss(truth.z, truth.normalize, scheme, watch)
    error, scale = abs(value - truth.value), max(1.0, truth.value)
    return {
        "excess": max(0.0, error - truth.unseen()) / scale,
        "gradient": truth.error(grad, 1e-2),
        "gradient_3": truth.error(grad, 1e-3),
        "cosine": truth.cosine(grad, 1e-2),
        "cosine_3": truth.cosine(grad, 1e-3),
        "finite": bool(grad.isfinite().all()) and math.isfinite(value),
        "guarded": watch.guarded,
        "norm": watch.norm,
        **{f"max_{name}": entry for name, entry in watch.entry.items()},
    }


# What is run

EAGER = Scheme("float32, as committed", exact=True, full="TQY", average="RC")
LAYOUTS = (
    EAGER,
    Scheme("float32, one triangle", exact=True, full=""),
    Scheme("one triangle of every product", full=""),
    Scheme("Y in full", full="YC"),
    Scheme("T, Y in full, T^T P", full="TtYC"),
    Scheme("Q, Y in full", full="QYC"),
    Scheme("T, Q, Y in full", full="TQYC"),
    Scheme("T, Q, Y in full, T^T P", full="TtQYC"),
    Scheme("as float32: T, Q, Y in full, R' averaged", full="TQY", average="RC"),
    Scheme("T, Y in full, Q, R' averaged", full="TY", average="SRQC"),
)
FINISHES = (
    *(
        Scheme(f"{finish}, shift {shift}", finish=finish, shift=shift, clones=shift, full="TtQYCZ")
        for finish in ("bare", "corrected", "polish")
        for shift in (0, 2, 10)
    ),
    replace(EAGER, name="float32 polish, shift 0", finish="polish", clones=0, average="RCZ"),
)
STEPS = tuple(
    Scheme(
        f"{lead} of 7, Q {'x3' if q3 else 'x1'}, shift {shift}",
        lead=lead,
        q3=q3,
        shift=shift,
        clones=max(10, shift),
    )
    for lead in (3, 4, 5, 6, 7)
    for q3 in (False, True)
    for shift in (2, 10, 100, 1000)
    if not (lead == 7 and q3)
)
GRAMS = tuple(
    Scheme(f"{kind}, {kept} in the backward, shift {shift}", gram=kind, rows=rows, shift=shift)
    for kind, rows, kept in (
        ("bf16x1", 0, "all pieces"),
        ("bf16x1", 1, "same piece"),
        ("bf16x3", 0, "all pieces"),
        ("bf16x4", 0, "all pieces"),
        ("bf16x4", 2, "same pieces"),
        ("bf16x6", 0, "all pieces"),
    )
    for shift in (2, 10)
)
MEDIUM = tuple(
    Scheme(
        f"bf16x1 same piece, {lead} of 7, Q x3, shift {shift}",
        gram="bf16x1",
        rows=1,
        lead=lead,
        q3=True,
        shift=shift,
        clones=shift,
    )
    for lead in (3, 4, 5, 6, 7)
    for shift in (300, 1000)
)
CHOSEN = tuple(Scheme(f"chosen, shift {shift}", shift=shift) for shift in (2, 10))
SUMS = (
    EAGER,
    Scheme("one triangle of every product", full=""),
    *(replace(s, name=f"{s.name}, {add}", add=add) for s in CHOSEN for add in ACCUMULATE),
)
CLONE_SHAPES = ((221, 3), (385, 4), (265, 5), (289, 8), (400, 40))
FEW = ("gaussian", "soft_collapse", "inverse_square", "near_constant", "noise_1e-3", "noise_1e-6")
SIZES = {256: ((256, 512), (256, 256), (512, 256)), 512: ((512, 512),)}
Batches = list[tuple[str, int, int, bool]]


def zoo(shapes: tuple[str, ...] = tuple(SHAPES), raw: bool = True) -> Batches:
    return [
        (case.name, *SHAPES[shape], normalize)
        for case in ZOO
        for shape in shapes
        for normalize in ((True,) if case.name in RAW_SCALE or not raw else (True, False))
    ]


def worst(table: str, batches: Batches, schemes: tuple[Scheme, ...]) -> Iterator[Row]:
    """A row for each scheme and formulation: the worst of every error, with its batch."""
    found: dict[tuple[str, str], list[tuple[str, Row]]] = defaultdict(list)
    for name, n, m, normalize in batches:
        truth = Truth(BY_NAME[name](n, m), normalize)
        for scheme in schemes:
            key = (scheme.name, "Gram" if n <= m else "covariance")
            found[key].append((f"{name} {n} x {m}", evaluate(truth, scheme)))
    for (scheme_name, formulation), each in found.items():
        out: Row = {"table": table, "scheme": scheme_name, "formulation": formulation}
        out["batches"] = len(each)
        for key in each[0][1]:
            # at the optimum nothing is left of the gradient to have a direction
            kept = [e for e in each if "flat" not in e[0]] if "cosine" in key else each
            sign = -1 if "cosine" in key or key == "finite" else 1
            where, row = max(kept, key=lambda e: order(e[1][key], sign))
            out[key] = row[key]
            if key in ("excess", "gradient", "cosine_3"):
                out[f"{key}_at"] = where
        out["value_broken"] = sum(
            order(r["excess"], 1) > value_tolerance("highest") for _, r in each
        )
        out["gradient_broken"] = sum(order(r["gradient"], 1) > 1.2e-2 for _, r in each)
        yield out


def indefinite() -> Iterator[Row]:
    """Eigenvalues from 1 down to 1e-2 and five at -c eps |A|_F, on spread or single coordinates."""
    for k in (64, 256):
        for spread in (True, False):
            v = torch.eye(k, dtype=torch.float64)
            if spread:
                v = torch.linalg.qr(
                    torch.randn(
                        k, k, dtype=torch.float64, generator=torch.Generator().manual_seed(k)
                    )
                ).Q
            for below in (0, 2, 5, 10, 20, 100, 10_000):
                lam = torch.logspace(0, -2, k, dtype=torch.float64)
                lam[-5:] = -below * EPS * lam.norm()
                a = ((v * lam) @ v.mT / lam.norm()).float()
                for shift in (0, 2, 10):
                    for saturate in (True, False):
                        scheme = Scheme(shift=shift, saturate=saturate)
                        yield {
                            "table": "indefinite",
                            "k": k,
                            "spread": spread,
                            "below": below,
                            "shift": shift,
                            "saturate": saturate,
                            **_bounded(a, lam, v, scheme),
                        }


def _bounded(a: Tensor, lam: Tensor, v: Tensor, scheme: Scheme) -> Row:
    watch, shift = Watch(), scheme.shift * EPS
    q = chain(identity_plus(shift, a) / (1 + shift), scheme, watch)
    q, y = finished(q / math.sqrt(1 + shift), a, shift, scheme)
    relative = (lam / lam.norm()).clamp_min(0).sqrt()
    weights = (v.mT @ q.double() @ v).diagonal() * relative
    return {
        "weight": (weights[:-5] - 1).abs().max().item(),
        "finite": bool(q.isfinite().all() & y.isfinite().all()),
        "guarded": watch.guarded,
        "norm": watch.norm,
        **{f"max_{name}": entry for name, entry in watch.entry.items()},
    }


def gram_noise() -> Iterator[Row]:
    """Error of C = D z z^T D and of stored planes, spectral norm in units of eps |C|_F."""
    for name, n, m in (("flat", 128, 2048), ("near-constant", 512, 2048), ("rank 12", 256, 4096)):
        g = torch.Generator().manual_seed(n + m)
        z = torch.randn(n, m, generator=g)
        if name == "near-constant":
            z = 0.05 * z + torch.randn(m, generator=g)
        if name == "rank 12":
            z = torch.randn(n, 12, generator=g) @ torch.randn(12, m, generator=g) + 1e-4 * z

        def unit(c: Tensor) -> Tensor:
            d = c.double().diagonal().rsqrt()
            return d[:, None] * c.double() * d

        exact = unit(z.double() @ z.double().mT)
        scale = EPS * exact.norm()
        for kind in ("float32", *GRAM_TERMS):
            for add in ("nearest",) if kind == "float32" else tuple(ACCUMULATE):
                error = unit(gram(z, kind, ACCUMULATE[add])) - exact
                spectral = torch.linalg.matrix_norm((error + error.mT) / 2, 2) / scale
                yield {
                    "table": "noise",
                    "batch": f"{name} {n} x {m}",
                    "gram": kind,
                    "add": add,
                    "units": spectral.item(),
                }
        stored = half_pieces((exact / exact.norm()).float())
        error = stored[0].double() + stored[1].double() / LOW - exact / exact.norm()
        spectral = torch.linalg.matrix_norm(error, 2) / EPS
        yield {
            "table": "noise",
            "batch": f"{name} {n} x {m}",
            "gram": "stored planes",
            "add": "",
            "units": spectral.item(),
        }


def run(quick: bool) -> Iterator[Row]:
    yield {"table": "machine", "hardware": machine.hardware(), "versions": machine.versions()}
    three = zoo(("n<m", "n=m", "n>m"), raw=False)
    yield from worst("layout", zoo(), tuple(replace(s, add="promoted") for s in LAYOUTS))
    yield from worst("finish", zoo(), tuple(replace(s, add="promoted") for s in FINISHES))
    yield from worst("steps", three, STEPS)
    yield from worst("gram", three, GRAMS + MEDIUM)
    yield from worst(
        "clones", [("one_hot", n, m, True) for n, m in CLONE_SHAPES], (EAGER, *FINISHES)
    )
    yield from gram_noise()
    yield from indefinite()
    for k, shapes in () if quick else SIZES.items():
        batches = [(name, n, m, True) for name in FEW for n, m in shapes]
        yield from worst(f"k = {k}", batches, SUMS)


def _rounded(row: Row) -> Row:
    """Three digits: more would be noise in the file."""
    return {
        key: float(f"{value:.3g}") if isinstance(value, float) else value
        for key, value in row.items()
    }


BEGIN, END = "<!-- tables: begin -->\n", "<!-- tables: end -->"


def write_docs(rows: list[Row]) -> None:
    text = DOCS.read_text(encoding="utf-8")
    before, rest = text.split(BEGIN)
    DOCS.write_text(before + BEGIN + tables(rows) + END + rest.split(END)[1], encoding="utf-8")


def main() -> None:
    """Command line."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0] if __doc__ else None)
    action = parser.add_mutually_exclusive_group()
    action.add_argument("--quick", action="store_true", help="the zoo's shapes, printed alone")
    action.add_argument("--write-docs", action="store_true", help="tables into the docs page")
    options = parser.parse_args()
    if not options.write_docs:
        rows = [_rounded(row) for row in run(options.quick)]
        if options.quick:
            print(tables(rows))
            return
        ROWS.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    else:
        rows = [json.loads(line) for line in ROWS.read_text(encoding="utf-8").splitlines()]
    if DOCS.exists():
        write_docs(rows)


if __name__ == "__main__":
    main()
