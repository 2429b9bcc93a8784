"""Wrong arguments: ValueError or TypeError, from the package and not from inside it."""

import random
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

import wssl_fast as wf
from tests.fuzz.verdict import Verdict

ROWS = ("wasserstein_uniformity", "uniformity", "batch_covariance", "effective_rank", "rankme",
        "covariance_spectrum")  # fmt: skip
PAIRS = ("alignment", "frechet_distance")
MATRICES = ("matrix_sqrt", "matrix_inv_sqrt")
CHOICES = {
    "wasserstein_uniformity": ("solver", "precision"),
    "frechet_distance": ("solver", "precision"),
    "matrix_sqrt": ("solver", "precision"),
    "matrix_inv_sqrt": ("solver", "precision"),
}
NUMBERS = {
    "wasserstein_uniformity": "eps",
    "frechet_distance": "eps",
    "uniformity": "t",
    "alignment": "alpha",
}
INF, NAN = float("inf"), float("nan")
BAD_NUMBERS = (-1.0, NAN, INF, -INF, "1", None, True, 1j, [1.0], torch.ones(()))
BAD_WORDS = ("", "EIGH", "float32", None, 1, ["eigh"], b"eigh")


def refused(verdict: Verdict, call: Callable[[], object], what: str = "uniformity") -> None:
    """The call raises ValueError or TypeError whose message names what was wrong."""
    try:
        call()
    except (ValueError, TypeError) as error:
        verdict.that(bool(str(error)), f"{what}: an error without a message")
    except Exception as error:
        verdict.that(False, f"{what}: {type(error).__name__} instead of ValueError or TypeError")
    else:
        verdict.that(False, f"{what}: wrong arguments were taken")


def check(verdict: Verdict, seed: int) -> None:
    rng = random.Random(seed)
    name = rng.choice((*ROWS, *PAIRS, *MATRICES, "gaussian_w2"))
    good = _good(name, rng)
    kinds: list[Callable[[], tuple[list[Any], dict[str, Any]]]] = [
        lambda: (_bad_tensor(good, rng), {})
    ]
    if name in CHOICES:
        option = {rng.choice(CHOICES[name]): rng.choice(BAD_WORDS)}
        kinds.append(lambda: (good, option))
    if name in NUMBERS:
        number = {NUMBERS[name]: rng.choice(BAD_NUMBERS)}
        kinds.append(lambda: (good, number))
    if name in PAIRS:
        kinds.append(lambda: (_unlike(good, rng), {}))
    arguments, options = rng.choice(kinds)()
    shown = ", ".join([*map(_shown, arguments), *(f"{k}={v!r}" for k, v in options.items())])
    refused(verdict, lambda: getattr(wf, name)(*arguments, **options), f"{name}({shown})")


def _good(name: str, rng: random.Random) -> list[Any]:
    n, m = rng.randint(2, 9), rng.randint(2, 9)
    if name in MATRICES:
        return [torch.eye(m)]
    if name == "gaussian_w2":
        return [torch.zeros(m), torch.eye(m)]
    return [torch.randn(n, m) for _ in range(2 if name in PAIRS else 1)]


def _bad_tensor(good: list[Any], rng: random.Random) -> list[Any]:
    """One argument that is no tensor, of a wrong dtype, of too few dimensions, empty."""
    index = len(good) - 1 if good[0].dim() == 1 else rng.randrange(len(good))
    t: Tensor = good[index]
    bad: Any = rng.choice(
        (
            None,
            3.0,
            t.tolist(),
            t.numpy(),
            t.long(),
            t.bool(),
            t.cfloat(),
            t[0],
            t[0, 0],
            t[:0],
            t[:, :0],
            t[:0, :0],
        )
    )
    return [*good[:index], bad, *good[index + 1 :]]


def _unlike(good: list[Any], rng: random.Random) -> list[Any]:
    """Two arguments that do not fit each other."""
    x, y = good
    return [x, rng.choice((y[:, 1:], y.double(), y[None], y.expand(2, *y.shape), y.half()))]


def _shown(argument: Any) -> str:
    if isinstance(argument, Tensor):
        return f"{argument.dtype} {tuple(argument.shape)}"
    return repr(argument)[:40]
