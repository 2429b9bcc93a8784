"""Newton-Schulz and its Gram matrix with products made of half-precision pieces, emulated on a CPU.

Pieces are rounded as the hardware would, their products are exact in float32, and sums are taken to
nearest or truncated as tensor cores are reported to. The loss around them is the eager backend's.
"""

import math
from collections import defaultdict
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from unittest import mock

import torch
from torch import Tensor

from wssl_fast.backends.eager import products, w2_covariance, w2_gram
from wssl_fast.backends.eager.newton_schulz import SCHEDULES
from wssl_fast.backends.eager.roots import Root

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
