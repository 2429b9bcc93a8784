"""Candidates for the inverse square root: each a function from A (k, k) to Q, and its cost."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from benchmarks.studies.quintics import (
    CUSHION,
    Step,
    bottom,
    committed_schedule,
    composition,
    floor,
    product_count,
    taylor_step,
)
from wssl_fast.backends.eager import newton_schulz

Solve = Callable[[Tensor], Tensor]

# arXiv 2505.16932, its published table (for singular values in [1e-3, 1]), divided by its own 1.01
_PUBLISHED = (
    (8.28721201814563, -23.595886519098837, 17.300387312530933),
    (4.107059111542203, -2.9478499167379106, 0.5448431082926601),
    (3.9486908534822946, -2.908902115962949, 0.5518191394370137),
    (3.3184196573706015, -2.488488024314874, 0.51004894012372),
    (2.300652019954817, -1.6689039845747493, 0.4188073119525673),
    (1.891301407787398, -1.2679958271945868, 0.37680408948524835),
    (1.8750014808534479, -1.2500016453999487, 0.3750001645474248),
    (1.875, -1.25, 0.375),
)
_PUBLISHED_SAFETY = 1.01


@dataclass(frozen=True)
class Candidate:
    """One way to get Q ~ A^(-1/2).

    Attributes:
        name: in tables and rows.
        products: k x k products; None for an eigensolver.
        solve: A (k, k) -> Q.
        first: A -> Q1 of a first pass over the rows; the solve then takes the Gram of Q1 Xc.
        gram: dtype the Gram matrix is accumulated and solved in, if not the rows'.
    """

    name: str
    products: int | None
    solve: Solve
    first: Solve | None = None
    gram: torch.dtype | None = None


def candidates(dtype: torch.dtype) -> list[Candidate]:
    """All candidates for rows of `dtype`, the yardstick first, the chosen one named so."""
    low, error = bottom(dtype), torch.finfo(dtype).eps
    chosen = committed_schedule(dtype)
    lowest = floor(chosen)  # the shift that bounds Q as the chosen schedule does
    minimax = composition(low, error, margin=1.0)
    deep = composition(lowest**0.5, error, margin=1.0)
    single = torch.float32
    cubic = 15 if dtype == single else 26
    found = [
        Candidate("eigh, clamped", None, lambda a: eigh_clamped(a, lowest)),
        Candidate(
            "coupled cubic",
            3 * cubic,
            lambda a: coupled(a, [taylor_step(3)] * cubic, lowest),
        ),
        Candidate("coupled minimax quintic", 4 * len(deep), lambda a: coupled(a, deep, lowest)),
        Candidate("Gram, minimax, shift", product_count(deep), lambda a: gram(a, deep, lowest)),
        Candidate("Gram, minimax", product_count(minimax), lambda a: gram(a, minimax)),
        Candidate(
            "residual evaluated again",
            4 * len(chosen) - 3,
            lambda a: evaluated_again(a, chosen),
        ),
        Candidate(
            "shift 100x, then 1x",
            4 * len(chosen) + 1,
            lambda a: shifts_in_turn(a, chosen, 100 * lowest, lowest),
        ),
    ]
    if dtype == single:
        table = _published_schedule()
        found.insert(
            3, Candidate("Gram, published table, shift", 29, lambda a: gram(a, table, 1e-7))
        )
    for degree in (3, 7, 9):
        steps = composition(low, error, degree, cushion=CUSHION)
        found.append(
            Candidate(
                f"Gram, degree {degree}, cushion {CUSHION}",
                product_count(steps),
                lambda a, steps=steps: gram(a, steps),  # type: ignore[misc]
            )
        )
    for cushion in (0.03, 0.3):
        steps = composition(low, error, cushion=cushion)
        found.append(
            Candidate(
                f"Gram, cushion {cushion}",
                product_count(steps),
                lambda a, steps=steps: gram(a, steps),  # type: ignore[misc]
            )
        )
    found.append(
        Candidate("chosen, with the shift", 4 * len(chosen) - 3, lambda a: solver(a, shift=lowest))
    )
    found.append(Candidate(CHOSEN, 4 * len(chosen) - 3, solver))
    first = 4 if dtype == single else 8
    found.append(
        Candidate(
            f"{CHOSEN}, two passes",
            4 * first - 3 + 4 * len(chosen) - 3,
            solver,
            first=lambda a: solver(a, steps=first),
        )
    )
    if dtype == single:
        wide = committed_schedule(torch.float64)
        found.append(
            Candidate(f"{CHOSEN}, float64 Gram", 4 * len(wide) - 3, solver, gram=torch.float64)
        )
    return found


CHOSEN = "chosen"


def solver(a: Tensor, shift: float | None = None, steps: int | None = None) -> Tensor:
    """The package's own, on one matrix."""
    return newton_schulz.inverse_sqrt(a[None], shift=shift, steps=steps)[0]


def eigh_clamped(a: Tensor, lowest: float) -> Tensor:
    """LAPACK's eigenvectors, eigenvalues clamped to `lowest` |A|_F."""
    eigenvalues, v = torch.linalg.eigh(a)
    return (v * eigenvalues.clamp_min(lowest * torch.linalg.matrix_norm(a)).rsqrt()) @ v.mT


def gram(a: Tensor, steps: Sequence[Step], shift: float = 0.0) -> Tensor:
    """R <- P R P, Q <- Q P, P = p(R): R carried from step to step."""
    r, norm = _scaled(a, shift)
    q = None
    for j, step in enumerate(steps):
        p = _evaluated(step, r)
        q = p if q is None else q @ p
        if j + 1 < len(steps):
            r = r @ p @ p
            r = (r + r.mT) / 2
    assert q is not None
    return (q + q.mT) / 2 * norm.rsqrt()


def coupled(a: Tensor, steps: Sequence[Step], shift: float) -> Tensor:
    """Y <- Y P, Z <- P Z, P = p(Z Y), from Y = A and Z = I: Z -> A^(-1/2)."""
    y, norm = _scaled(a, shift)
    z = torch.eye(a.shape[-1], dtype=a.dtype)
    for step in steps:
        p = _evaluated(step, z @ y)
        y, z = y @ p, p @ z
    return (z + z.mT) / 2 * norm.rsqrt()


def evaluated_again(a: Tensor, steps: Sequence[Step]) -> Tensor:
    """R = Q A Q from the original A at every step."""
    x, norm = _scaled(a, 0.0)
    q = _evaluated(steps[0], x)
    for step in steps[1:]:
        r = q @ (x @ q)
        q = q @ _evaluated(step, (r + r.mT) / 2)
        q = (q + q.mT) / 2
    return q * norm.rsqrt()


def shifts_in_turn(a: Tensor, steps: Sequence[Step], large: float, small: float) -> Tensor:
    """Half the steps with a large shift, then R = Q (A + small I) Q, then all steps from there."""
    half = len(steps) // 2
    x, norm = _scaled(a, large)
    q = gram(x, steps[:half])
    x, _ = _scaled(a, small)
    r = q @ x @ q
    second = gram((r + r.mT) / 2, steps[half - 1 :])
    q = q @ second
    return (q + q.mT) / 2 * norm.rsqrt()


def _published_schedule() -> list[Step]:
    # a degree 5 composition is scaled by x -> x / 1.01, the last step excepted
    s = _PUBLISHED_SAFETY
    scaled: list[Step] = [(a / s, b / s**3, c / s**5) for a, b, c in _PUBLISHED[:-1]]
    return [*scaled, _PUBLISHED[-1]]


def _scaled(a: Tensor, shift: float) -> tuple[Tensor, Tensor]:
    norm = torch.linalg.matrix_norm(a)
    r = a / norm
    r.diagonal().add_(shift)
    return r, norm


def _evaluated(step: Step, r: Tensor) -> Tensor:
    """p(r), in as few products as its degree allows."""
    eye = torch.eye(r.shape[-1], dtype=r.dtype)
    if len(step) == 2:
        return step[0] * eye + step[1] * r
    if len(step) == 3:
        return torch.addmm(r, r, r, beta=step[1], alpha=step[2]) + step[0] * eye
    if len(step) == 4:
        square = r @ r
        return step[0] * eye + step[1] * r + square @ (step[2] * eye + step[3] * r)
    # Knuth's adapted quartic, two products: ((z + r + c2) z + c3) c4, z = (r + c0) r + c1
    u0, u1, u2, u3, u4 = step
    c0 = (u3 / u4 - 1) / 2
    b = u2 / u4 - c0 * (c0 + 1)
    c1 = u1 / u4 - c0 * b
    c2 = b - 2 * c1
    c3 = u0 / u4 - c1 * (c1 + c2)
    z = r @ r + c0 * r + c1 * eye
    return u4 * ((z + r + c2 * eye) @ z + c3 * eye)
