"""Does `auto` know how far off a float32 pass is? Its estimate beside the error, on random batches.

python -m benchmarks.studies.estimate            measure, write rows and figure
python -m benchmarks.studies.estimate --draw     figure from the rows there are

Batches of both formulations with spectra drawn at random from six families (power law, exponential,
low rank and noise, a few small directions, clusters, an untrained ReLU network), around means from
0 to 30 times their spread, raw or on unit rows. Of each, one float32 pass as `auto` takes it (with
its look at the rows): what it estimates, and the errors of its W2 and of its gradient against
float64. Above the accepted estimate `auto` repeats the pass in float64, so the question is how far
an accepted pass can be off.
"""

import argparse
import json
import math
from collections.abc import Iterator
from pathlib import Path
from unittest import mock

import matplotlib

matplotlib.use("Agg")
import matplotlib.pyplot as plt
import torch
from rich.console import Console
from rich.progress import track
from torch import Tensor

import wssl_fast as wf
from benchmarks.machine import versions
from benchmarks.plots.style import DPI, FAINT, OURS_COLOR, PEER_COLORS, STYLE
from tests.tolerances import gradient_error, gradient_tolerance, value_tolerance
from wssl_fast import reference
from wssl_fast.backends.eager import roots, w2_covariance, w2_gram
from wssl_fast.backends.eager.numerics import ACCEPTED_LOOKED_UP
from wssl_fast.backends.eager.roots import Root

RESULTS = Path(__file__).parents[1] / "results" / "studies"
ROWS = RESULTS / "estimate.jsonl"
SHAPES = ((96, 192), (192, 96), (128, 128), (64, 1024), (1024, 64))
FAMILIES = ("power law", "exponential", "low rank", "few small", "clusters", "ReLU network")
MEANS = (0.0, 1.0, 5.0, 30.0)
RANGE = (3e-5, 5e-3)
"""Estimates of interest; other batches are passed over."""


class Draw:
    """Batches from one seed."""

    def __init__(self, seed: int) -> None:
        self.generator = torch.Generator().manual_seed(seed)

    def normal(self, *shape: int) -> Tensor:
        return torch.randn(*shape, dtype=torch.float64, generator=self.generator)

    def between(self, low: float, high: float) -> float:
        return low + (high - low) * float(torch.rand(1, generator=self.generator))

    def batch(self, family: str, n: int, m: int, mean: float) -> Tensor:
        """Float32 rows (n, m)."""
        if family == "clusters":
            centres = self.normal(int(self.between(2, 20)), m)
            of = torch.randint(len(centres), (n,), generator=self.generator)
            z = centres[of] + 10 ** -self.between(0.5, 3) * self.normal(n, m)
        elif family == "ReLU network":
            hidden = torch.relu(self.normal(n, 24) @ self.normal(24, 256))
            hidden = torch.relu(hidden @ self.normal(256, 256) / 16)
            z = hidden @ self.normal(256, m) / 16
        else:
            z = self._of_spectrum(n, m, self.spectrum(family, min(n - 1, m)))
        shift = mean * z.norm() / math.sqrt(z.numel())  # over the rms entry
        return (z + shift * self.normal(m)).float()

    def spectrum(self, family: str, k: int) -> Tensor:
        """Singular values (k,)."""
        s = torch.ones(k, dtype=torch.float64)
        if family == "power law":
            return torch.arange(1, k + 1, dtype=torch.float64) ** -self.between(0.2, 1.3)
        if family == "exponential":
            return torch.logspace(0, -self.between(0.5, 3), k, dtype=torch.float64)
        if family == "low rank":
            s[int(self.between(1, 0.8 * k)) :] = 10 ** -self.between(0.5, 3)
        else:
            s[-int(self.between(1, k / 4)) :] = 10 ** -self.between(1, 3.3)
        return s

    def _of_spectrum(self, n: int, m: int, s: Tensor) -> Tensor:
        u = torch.linalg.qr(self.normal(n, len(s))).Q
        v = torch.linalg.qr(self.normal(m, len(s))).Q
        return (u * s) @ v.mT * math.sqrt(n)


def one_pass(z: Tensor, normalize: bool) -> tuple[float, float, float]:
    """Estimate, gradient error, and error of W2 over max(1, W2), of one float32 pass."""
    seen: list[float] = []

    def spy(*args: object, **keywords: object) -> Root:
        root = roots.inverse_root(*args, **keywords)  # type: ignore[arg-type]
        seen.append(float(root.error))
        return root

    leaf = z.clone().requires_grad_()
    stand = {"accepted_error": lambda *_: math.inf, "inverse_root": spy}
    with (
        mock.patch.multiple(w2_gram, **stand),
        mock.patch.multiple(w2_covariance, ACCEPTED_ERROR=math.inf, **stand),
    ):
        square = wf.wasserstein_uniformity(leaf, normalize=normalize, squared=True, solver="eigh")
        (grad,) = torch.autograd.grad(square, leaf)
    truth = float(reference.wasserstein_uniformity(z, normalize=normalize))
    off = abs(math.sqrt(float(square.detach())) - truth) / max(1.0, truth)
    return seen[0], gradient_error(grad, z, normalize=normalize, above=3e-5), off


def measure(count: int, seed: int = 0) -> Iterator[dict[str, object]]:
    """Rows of `count` batches whose estimate is of interest."""
    draw, tried = Draw(seed), 0
    for _ in track(range(count), description="batches"):
        while True:
            n, m = SHAPES[tried % len(SHAPES)]
            family = FAMILIES[tried // len(SHAPES) % len(FAMILIES)]
            each = len(SHAPES) * len(FAMILIES)
            normalize, mean = bool(tried // each % 2 == 0), MEANS[tried // (2 * each) % len(MEANS)]
            tried += 1
            estimate, gradient, value = one_pass(draw.batch(family, n, m, mean), normalize)
            if RANGE[0] < estimate < RANGE[1]:
                break
        yield {
            "family": family,
            "n": n,
            "m": m,
            "normalize": normalize,
            "mean": mean,
            "estimate": float(f"{estimate:.4g}"),
            "gradient_error": float(f"{gradient:.4g}"),
            "value_error": float(f"{value:.4g}"),
            "versions": versions(),
        }


def draw(rows: list[dict[str, object]]) -> None:
    with plt.rc_context(STYLE):
        figure, axes = plt.subplots(1, 2, figsize=(12, 4.6))
        promises = (gradient_tolerance("auto"), value_tolerance("auto"))
        names = (("gradient_error", "gradient error"), ("value_error", "error of W2"))
        for axis, (name, title), promise in zip(axes, names, promises, strict=True):
            for family, color in zip(FAMILIES, (OURS_COLOR, *PEER_COLORS), strict=False):
                chosen = [row for row in rows if row["family"] == family]
                axis.loglog([row["estimate"] for row in chosen], [row[name] for row in chosen],
                            "o", color=color, markersize=3.5, alpha=0.7, label=family)  # fmt: skip
            axis.axhline(promise, color=FAINT, linestyle="--")
            axis.axvline(ACCEPTED_LOOKED_UP, color=FAINT, linestyle="--")
            axis.set_xlabel("what auto estimates (dashed: accepted up to here)")
            axis.set_title(f"{title} of one float32 pass (dashed: promised)")
        axes[0].legend(frameon=False, fontsize=9)
        figure.tight_layout()
        figure.savefig(RESULTS / "estimate.png", dpi=DPI, facecolor="white")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--draw", action="store_true", help="figure from the rows there are")
    parser.add_argument("--count", type=int, default=1500, help="batches")
    given = parser.parse_args()
    if not given.draw:
        rows = list(measure(given.count))
        ROWS.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    rows = [json.loads(line) for line in ROWS.read_text(encoding="utf-8").splitlines()]
    accepted = [row for row in rows if row["estimate"] <= ACCEPTED_LOOKED_UP]
    Console().print(
        f"{len(accepted)} of {len(rows)} batches are accepted at {ACCEPTED_LOOKED_UP:g}: gradient "
        f"error at most {max(row['gradient_error'] for row in accepted):.1e}, of W2 at most "
        f"{max(row['value_error'] for row in accepted):.1e}"
    )
    draw(rows)


if __name__ == "__main__":
    main()
