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
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path
from unittest import mock

import torch
from torch import Tensor

from benchmarks import machine
from tests.tolerances import FLOOR as GRADIENT_FLOOR
from tests.tolerances import value_tolerance
from tests.zoo import BY_NAME, RAW_SCALE, SHAPES, ZOO
from wssl_fast import reference
from wssl_fast.backends.eager import products, w2_covariance, w2_gram
from wssl_fast.backends.eager.newton_schulz import SCHEDULES
from wssl_fast.backends.eager.roots import Root

ROWS = Path(__file__).parents[1] / "results" / "studies" / "split_products.jsonl"
DOCS = Path(__file__).parents[2] / "docs" / "split_products.md"
Row = dict[str, object]

EPS = torch.finfo(torch.float32).eps
LOW = 2048.0  # what the second float16 piece is scaled up by, so that it stays normal
LARGEST = torch.finfo(torch.float16).max
GUARD = 4.0  # |R|_F over sqrt(k) from which R is scaled back
BLOCK, CHUNK = 64, 16  # columns promoted to float32 together; columns of one tensor-core step


# Pieces and their products


def half_pieces(a: Tensor, count: int = 2) -> list[Tensor]:
    """a = hi + lo/2048, both float16 values (held in float32)."""
    hi = a.half().float()
    return [hi] if count == 1 else [hi, ((a - hi) * LOW).half().float()]


def bfloat_pieces(a: Tensor, count: int) -> list[Tensor]:
    """a = b0 + b1 + b2, bfloat16 values (held in float32), each what the former leave."""
    pieces = []
    for _ in range(count):
        pieces.append(a.bfloat16().float())
        a = a - pieces[-1]
    return pieces


def nearest(a: Tensor, b: Tensor) -> Tensor:
    """a @ b, sums rounded to nearest in float32."""
    return a @ b


def toward_zero(a: Tensor) -> Tensor:
    """float64 -> float32, the digits beyond dropped."""
    return (a.view(torch.int64) & ~((1 << 29) - 1)).view(torch.float64).float()


def truncated(a: Tensor, b: Tensor) -> Tensor:
    """a @ b, each sum of 16 products exact and added to a float32 accumulator with truncation."""
    total = a.new_zeros(a.shape[0], b.shape[1])
    a, b = a.double(), b.double()
    for start in range(0, a.shape[1], CHUNK):
        part = slice(start, start + CHUNK)
        total = toward_zero(torch.addmm(total.double(), a[:, part], b[part]))
    return total


def promoted(a: Tensor, b: Tensor) -> Tensor:
    """a @ b, truncated inside blocks of 64 columns, the blocks added to nearest in float32."""
    total = a.new_zeros(a.shape[0], b.shape[1])
    for start in range(0, a.shape[1], BLOCK):
        part = slice(start, start + BLOCK)
        total += truncated(a[:, part], b[part])
    return total


Accumulate = Callable[[Tensor, Tensor], Tensor]
ACCUMULATE: dict[str, Accumulate] = {
    "nearest": nearest,
    "promoted": promoted,
    "truncated": truncated,
}


def half_product(a: list[Tensor], b: list[Tensor], pieces: int, add: Accumulate) -> Tensor:
    """Product of float16 planes: hi hi, and for three pieces (hi lo + lo hi)/2048."""
    out = add(a[0], b[0])
    return out if pieces == 1 else out + (add(a[0], b[1]) + add(a[1], b[0])) / LOW


GRAM_TERMS = {
    "bf16x1": ((0, 0),),
    "bf16x3": ((0, 0), (0, 1), (1, 0)),
    "bf16x4": ((0, 0), (0, 1), (1, 0), (1, 1)),
    "bf16x6": ((0, 0), (0, 1), (1, 0), (1, 1), (0, 2), (2, 0)),
}


def gram(y: Tensor, kind: str, add: Accumulate) -> Tensor:
    """y y^T of float32 rows, by `kind`: float32 or a count of bfloat16 products."""
    if kind == "float32":
        return y @ y.mT
    terms = GRAM_TERMS[kind]
    pieces = bfloat_pieces(y, 1 + max(max(t) for t in terms))
    out = sum(add(pieces[i], pieces[j].mT) for i, j in reversed(terms))
    assert isinstance(out, Tensor)
    return out


# The iteration


@dataclass(frozen=True)
class Scheme:
    """One way to make a root.

    Attributes:
        name: of the row.
        lead: steps whose products are float16x3; later ones are float16x1.
        q3: whether Q's product stays float16x3 in the later steps.
        final: pieces of the products after the iteration.
        finish: bare, corrected (the shift taken out to first order) or polish.
        shift: of R0's diagonal, units of eps |A|_F.
        clones: the same for a covariance, where larger.
        exact: float32 products and storage, the yardstick.
        add: how sums are taken.
        full: products computed in full, not one triangle of them, mirrored: S = R R, T = R P,
            R' = T P, Q' = Q P, Y, C and Z (correction, polish); t: R' = T^T P.
        average: products computed in full, then averaged with their transpose.
        saturate: what leaves float16's range is stored as its largest number.
        gram: products of the Gram matrix.
        rows: bfloat16 pieces that the backward's rows keep, and the Gram's; 0 for all.
        slack: units of noise that need no shift.
        noise: of the Gram, units of eps |C|_F.
    """

    name: str = ""
    lead: int = 7
    q3: bool = False
    final: int = 3
    finish: str = "corrected"
    shift: float = 0.0
    clones: float = 10.0
    exact: bool = False
    add: str = "nearest"
    gram: str = "float32"
    rows: int = 0
    slack: float = 2.0
    full: str = "TtQYC"
    saturate: bool = True
    average: str = ""
    noise: float = 1.25


@dataclass
class Watch:
    """Largest entries met, and whether the guard acted."""

    entry: dict[str, float] = field(default_factory=lambda: defaultdict(float))
    norm: float = 0.0
    guarded: int = 0

    def see(self, name: str, a: Tensor) -> None:
        self.entry[name] = max(self.entry[name], a.abs().max().nan_to_num(math.inf).item())


class Products:
    """Stored matrices and their products under a scheme."""

    def __init__(self, scheme: Scheme) -> None:
        self.scheme, self.add = scheme, ACCUMULATE[scheme.add]

    def store(self, a: Tensor) -> list[Tensor]:
        if self.scheme.exact:
            return [a]
        return half_pieces(a.clamp(-LARGEST, LARGEST) if self.scheme.saturate else a)

    def load(self, a: list[Tensor]) -> Tensor:
        return a[0] if len(a) == 1 else a[0] + a[1] / LOW

    def __call__(self, name: str, a: list[Tensor], b: list[Tensor], pieces: int = 3) -> Tensor:
        out = a[0] @ b[0] if self.scheme.exact else half_product(a, b, pieces, self.add)
        if name in self.scheme.full:
            return out
        if name in self.scheme.average:
            return (out + out.mT) / 2
        return out.tril() + out.tril(-1).mT  # one triangle is computed, and mirrored


def identity_plus(c: float, a: Tensor) -> Tensor:
    a = a.clone()
    a.diagonal().add_(c)
    return a


def chain(r0: Tensor, scheme: Scheme, watch: Watch | None = None) -> Tensor:
    """Q (k, k) of R0 (k, k), |R0|_F about 1: the committed float32 schedule."""
    watch = watch or Watch()
    mul = Products(scheme)
    r, q = mul.store(r0), None
    schedule = SCHEDULES[torch.float32]
    for j, (c0, c1, c2) in enumerate(schedule):
        pieces = 3 if j < scheme.lead else 1
        p32 = identity_plus(c0, c1 * mul.load(r) + c2 * mul("S", r, r, pieces))
        p = mul.store(p32)
        watch.see("P", p32)
        q32 = p32 if q is None else mul("Q", q, p, 3 if scheme.q3 else pieces)
        if j + 1 < len(schedule):
            t32 = mul("T", r, p, pieces)
            watch.see("T", t32)
            t = mul.store(t32)
            if "t" in scheme.full:
                t = [piece.mT for piece in t]
            r32 = mul("R", t, p, pieces)
            ratio = (r32.norm() / math.sqrt(len(r0))).item()
            watch.norm = max(watch.norm, ratio if math.isfinite(ratio) else math.inf)
            back = min(1.0, GUARD / ratio) if ratio > 0 else 1.0
            watch.guarded += back < 1
            watch.see("R", r32)
            r = mul.store(r32 * back)
            q32 = q32 * math.sqrt(back)
        watch.see("Q", q32)
        q = mul.store(q32)
    assert q is not None
    out = mul.load(q)
    return (out + out.mT) / 2


def finished(q: Tensor, r0: Tensor, shift: float, scheme: Scheme) -> tuple[Tensor, Tensor]:
    """Q and Y = Q R0 (both (k, k)), R0 without the shift."""
    mul = Products(scheme)
    qs, rs = mul.store(q), mul.store(r0)
    if scheme.finish == "corrected":
        # I + (shift/2) Q^2, at most 1.5: Q^2 itself leaves float16's range
        lift = mul.store(identity_plus(1.0, shift / 2 * mul("C", qs, qs, scheme.final)))
        q = mul("C", lift, qs, scheme.final) if shift > 0 else q
        qs = mul.store(q)
    y = mul("Y", qs, rs, scheme.final)
    if scheme.finish != "polish":
        return q, y
    ys = mul.store(y)
    m = mul.store(identity_plus(1.5, -0.5 * mul("Z", ys, qs, scheme.final)))
    return mul("Z", qs, m, scheme.final), mul("Z", m, ys, scheme.final)


def inverse_root(
    a: Tensor,
    noise: Tensor,
    *,
    target: float,
    clones: bool = True,
    scheme: Scheme,
    watch: Watch,
    **_: object,
) -> Root:
    """What wssl_fast.backends.eager.roots.inverse_root does, under a scheme; no ridge."""
    k = len(a)
    norm = a.norm().double()
    unit = EPS * norm
    units = max(scheme.shift, scheme.clones if clones else 0.0)
    shift = torch.maximum(units * unit, noise - scheme.slack * unit).clamp_min(0)
    r0 = (a / norm.clamp_min(1e-30)).float()
    relative = (shift / norm.clamp_min(1e-30)).item()
    q = chain(identity_plus(relative, r0) / (1 + relative), scheme, watch)
    q, y = finished(q / math.sqrt(1 + relative), r0, relative, scheme)
    root = norm.sqrt().item()
    q, y = q / max(root, 1e-30), y * root
    diagonal = y.diagonal().double()
    distance = torch.linalg.vector_norm(identity_plus(-target, y), dtype=torch.float64) ** 2
    probe = torch.randn(k, 8, generator=torch.Generator().manual_seed(k), dtype=torch.float64)
    inverse = torch.linalg.vector_norm(q @ (q @ probe.float()), dtype=torch.float64)
    error = (0.5 * noise * inverse / (8 * k) ** 0.5).clamp_max(1.0)
    return Root(q, diagonal, distance, error)


@contextmanager
def under(scheme: Scheme, watch: Watch) -> Iterator[None]:
    """The eager backend with its root, and its Gram matrix, made by `scheme`."""

    def root(a: Tensor, noise: Tensor, **keywords: object) -> Root:
        return inverse_root(a, noise, **keywords, scheme=scheme, watch=watch)  # type: ignore[arg-type]

    plain = products.symmetric_product

    def symmetric(
        z: Tensor,
        dtype: torch.dtype,
        *,
        covariance: bool = False,
        scale: Tensor | None = None,
        mean: Tensor | None = None,
    ) -> Tensor:
        if dtype != torch.float32 or scheme.gram == "float32":
            return plain(z, dtype, covariance=covariance, scale=scale, mean=mean)
        y = z.double() if scale is None else z.double() * scale[:, None]
        y = (y if mean is None else y - mean).float()
        return gram(y.mT.contiguous() if covariance else y, scheme.gram, ACCUMULATE[scheme.add])

    def noise_level(c: Tensor, dtype: torch.dtype) -> Tensor:
        level = scheme.noise if dtype == torch.float32 else 10.0
        return level * torch.finfo(dtype).eps * torch.linalg.vector_norm(c, dtype=torch.float64)

    with ExitStack() as stack:
        for module in (w2_gram, w2_covariance):
            stack.enter_context(mock.patch.object(module, "inverse_root", root))
            stack.enter_context(mock.patch.object(module, "noise_level", noise_level))
        stack.enter_context(mock.patch.object(products, "symmetric_product", symmetric))
        yield


def loss(z: Tensor, normalize: bool, scheme: Scheme, watch: Watch) -> tuple[float, Tensor]:
    """W2 and the gradient of W2^2."""
    if scheme.rows:
        z = sum(bfloat_pieces(z, scheme.rows), torch.zeros_like(z))
    path = w2_gram if z.shape[0] <= z.shape[1] else w2_covariance
    with under(scheme, watch):
        state = path.forward(z, normalize, 0.0, "newton_schulz", "highest", True)
        one = torch.ones((), dtype=torch.float64)
        grad = path.backward(z, state, one, normalize)
    return state.value.clamp_min(0).sqrt().item(), grad


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
            where, row = max(kept, key=lambda e: _order(e[1][key], sign))
            out[key] = row[key]
            if key in ("excess", "gradient", "cosine_3"):
                out[f"{key}_at"] = where
        out["value_broken"] = sum(
            _order(r["excess"], 1) > value_tolerance("highest") for _, r in each
        )
        out["gradient_broken"] = sum(_order(r["gradient"], 1) > 1.2e-2 for _, r in each)
        yield out


def _order(value: object, sign: int) -> float:
    number = float(value)  # type: ignore[arg-type]
    return math.inf if math.isnan(number) else sign * number


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


def tables(rows: list[Row]) -> str:
    """Markdown of the rows that compare schemes."""
    head = (
        "| scheme | formulation | value beyond unseen | gradient, 1e-2 | gradient, 1e-3 "
        "| cosine, 1e-2 | cosine, 1e-3 | finite | largest Q |\n"
        "| --- | --- | ---: | ---: | ---: | ---: | ---: | --- | ---: |"
    )
    out = []
    for name in dict.fromkeys(str(r["table"]) for r in rows):
        mine = [r for r in rows if r["table"] == name and "scheme" in r]
        if not mine:
            continue
        out += [f"\n**{name}**\n", head]
        for r in mine:
            errors = " | ".join(f"{r[key]:.1e}" for key in ("excess", "gradient", "gradient_3"))
            cosines = " | ".join(f"{r[key]:.4f}" for key in ("cosine", "cosine_3"))
            finite = "yes" if r["finite"] else "no"
            out.append(
                f"| {r['scheme']} | {r['formulation']} | {errors} | {cosines} "
                f"| {finite} | {r['max_Q']:.0f} |"
            )
    mine = [r for r in rows if r["table"] == "noise"]
    kinds = list(dict.fromkeys(f"{r['gram']} {r['add']}".strip() for r in mine))
    places = list(dict.fromkeys(str(r["batch"]) for r in mine))
    cell = {(f"{r['gram']} {r['add']}".strip(), str(r["batch"])): r["units"] for r in mine}
    out += ["\n**noise of C, units of eps |C|_F**\n", "| Gram | " + " | ".join(places) + " |"]
    out += ["| --- |" + " ---: |" * len(places)]
    out += [
        f"| {kind} | " + " | ".join(f"{cell[kind, p]:.2f}" for p in places) + " |" for kind in kinds
    ]
    out += ["\n**negative eigenvalues, -c eps |A|_F, worst over k = 64, 256 and both bases**\n"]
    out += ["| c | shift | weight, saturated | finite, saturated | finite, not | largest P, T, Q |"]
    out += ["| ---: | ---: | ---: | --- | --- | --- |"]
    mine = [r for r in rows if r["table"] == "indefinite"]
    for below, shift in dict.fromkeys((r["below"], r["shift"]) for r in mine):
        some = [r for r in mine if (r["below"], r["shift"]) == (below, shift)]
        sure, bare = ([r for r in some if r["saturate"] == flag] for flag in (True, False))
        weight = max(_order(r["weight"], 1) for r in sure)
        most = ", ".join(f"{max(_order(r[f'max_{x}'], 1) for r in sure):.0e}" for x in "PTQ")
        yes = ["yes" if all(r["finite"] for r in part) else "no" for part in (sure, bare)]
        out.append(f"| {below} | {shift} | {weight:.1e} | {yes[0]} | {yes[1]} | {most} |")
    return "\n".join(out) + "\n"


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
