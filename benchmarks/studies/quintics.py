"""Odd polynomials that take singular values to 1: minimax steps and their greedy composition.

A step x p(x^2) that is minimax for the constant 1 on [l, u] has an image [1 - E, 1 + E], on which
the next step is minimax, and so on: for each degree the greedy composition is the optimal one
(Polar Express, arXiv 2505.16932, theorem 3.1). `cushion` departs from it: steps are optimal on
[max(l, cushion * u), u] alone, so that no direction is pushed far below the others on the way.
"""

import math

import numpy as np
import torch
from numpy.typing import NDArray

Step = tuple[float, ...]  # p's coefficients, of 1, r, r^2, ...; the odd polynomial is x p(x^2)
Array = NDArray[np.float64]

CUSHION = 0.1
MARGIN = 1.001  # a step answers for this much more than [l, u]: rounding may leave it
NEAR = 1e-2  # closer to 1 than this the minimax step is Taylor's to within its own square


def odd_value(step: Step, x: Array) -> Array:
    """x p(x^2)."""
    return x * np.polynomial.polynomial.polyval(x * x, np.array(step))


def minimax_step(low: float, high: float, degree: int) -> Step:
    """The odd polynomial of `degree` closest to 1 on [low, high], by Remez exchange."""
    terms = (degree + 1) // 2
    angles = np.pi * np.arange(terms, -1, -1) / terms
    nodes = (low + high) / 2 + (high - low) / 2 * np.cos(angles)
    powers = 2 * np.arange(terms) + 1
    for _ in range(100):
        signs = (-1.0) ** np.arange(terms + 1)
        system = np.concatenate([nodes[:, None] ** powers, signs[:, None]], axis=1)
        step = tuple(float(c) for c in np.linalg.solve(system, np.ones(terms + 1))[:terms])
        exchanged = _extrema(step, low, high)
        if len(exchanged) != len(nodes) or np.abs(exchanged - nodes).max() < 1e-13 * high:
            break
        nodes = exchanged
    return step


def taylor_step(degree: int) -> Step:
    """Taylor's r^(-1/2) at r = 1, cut: the classical Newton-Schulz step of `degree`."""
    total, factor = np.polynomial.Polynomial([0.0]), 1.0
    for i in range((degree + 1) // 2):
        total = total + factor * np.polynomial.Polynomial([1.0, -1.0]) ** i
        factor *= (2 * i + 1) / (2 * i + 2)
    return tuple(float(c) for c in total.coef)


def image(step: Step, low: float, high: float) -> tuple[float, float]:
    """Range of the step on [low, high]."""
    values = odd_value(step, _extrema(step, low, high))
    return float(values.min()), float(values.max())


def composition(
    low: float, error: float, degree: int = 5, *, cushion: float = 0.0, margin: float = MARGIN
) -> list[Step]:
    """Steps whose composition takes [low, 1] into [1 - error, 1 + error]."""
    steps, high = [], 1.0
    while max(1 - low, high - 1) > error:
        if max(1 - low, high - 1) < NEAR:
            step, top = taylor_step(degree), high
        else:
            top = high * margin
            step = minimax_step(max(low, cushion * top), top, degree)
        low, high = image(step, low, top)
        steps.append(step)
    return steps


def product_count(steps: list[Step]) -> int:
    """k x k products of the Gram form: p(R), Q p and p R p; no Q in the first, no R in the last."""
    evaluations = {1: 0, 2: 0, 3: 1, 4: 2, 5: 2}  # by the number of coefficients of p
    return sum(evaluations[len(step)] for step in steps) + 3 * len(steps) - 3


def bottom(dtype: torch.dtype) -> float:
    """Lowest sqrt(lambda/|A|_F) with full weight: 10 (float32) or 20 (float64) units of rounding.

    Both put the floor, the slope of the whole composition at zero to the power -2, at one unit.
    """
    units = 10 if dtype == torch.float32 else 20
    return math.sqrt(units * torch.finfo(dtype).eps)


def committed_schedule(dtype: torch.dtype) -> list[Step]:
    """What `wssl_fast.backends.eager.newton_schulz.SCHEDULES` holds."""
    error = torch.finfo(dtype).eps * (1 if dtype == torch.float32 else 128)
    return composition(bottom(dtype), error, cushion=CUSHION)


def floor(steps: list[Step]) -> float:
    """lambda/|A|_F at which a null direction's bound and lambda^(-1/2) meet."""
    return math.prod(step[0] for step in steps) ** -2


def _extrema(step: Step, low: float, high: float) -> Array:
    """End points and the places inside [low, high] where x p(x^2) turns, in order."""
    slope = [(2 * i + 1) * c for i, c in enumerate(step)]  # of x p(x^2), in r = x^2
    roots = np.polynomial.polynomial.polyroots(slope)
    real = np.sort(roots[np.abs(roots.imag) < 1e-12].real)
    turns = np.sqrt(real[real > 0])
    inside = turns[(turns > low) & (turns < high)]
    return np.concatenate([[low], inside, [high]])
