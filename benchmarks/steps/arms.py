"""What is put beside the method's loss: nothing, this package's W2, or another form of it."""

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

import wssl_fast as wf
from benchmarks.batches import healthy
from benchmarks.demo.truth import cosine
from benchmarks.harness import seconds_of
from benchmarks.peers import Loss, eigvalsh_w2, literal_w2, value_and_gradient
from benchmarks.ssl.methods import Method
from benchmarks.suites import OURS
from wssl_fast import reference

NONE, EIGVALSH, PAPER = "none", "eigvalsh", "paper's eigh"
VALUE_TOLERANCE = 1e-3  # as benchmarks.harness.against_truth: tells right from wrong
PROBE_DIM = 1024


@dataclass(frozen=True)
class Arm:
    """A W2 of rows z (2n, dim) for a method; None is the step without W2."""

    name: str
    of_method: Callable[[Method], Loss] | None = None
    decomposes: bool = False  # an m x m matrix: its time grows as m^3
    ridge: Callable[[Method], float] = lambda method: 0.0

    def loss(self, method: Method) -> Loss | None:
        """W2 as this arm computes it beside the method's loss, unweighted."""
        return self.of_method(method) if self.of_method else None


def paper_w2(method: Method) -> Loss:
    """The paper's own loss, with the ridge that its code has for this method."""
    return lambda z: literal_w2(z, eps=method.paper_ridge)


ARMS: tuple[Arm, ...] = (
    Arm(NONE),
    Arm(OURS, lambda method: wf.wasserstein_uniformity),
    Arm(EIGVALSH, lambda method: eigvalsh_w2, decomposes=True),
    Arm(PAPER, paper_w2, decomposes=True, ridge=lambda method: method.paper_ridge),
)


@dataclass(frozen=True)
class Check:
    """An arm's W2 at the step's own embeddings, against float64."""

    value_error: float
    gradient_cosine: float  # of dW2/dz to the truth's; NaN if either is
    wrong: str | None


class Truth:
    """Value and gradient of W2 at z (2n, dim) by the float64 reference, once a ridge."""

    def __init__(self, z: Tensor) -> None:
        self.z = z
        self._known: dict[float, tuple[float, Tensor]] = {}

    def check(self, arm: Arm, method: Method) -> Check:
        """Wrong is a value off by more than VALUE_TOLERANCE, or a gradient that is not finite.

        How well a finite gradient points is told by its cosine and decides nothing.
        """
        loss = arm.loss(method)
        assert loss is not None
        ridge = arm.ridge(method)
        if ridge not in self._known:
            self._known[ridge] = (
                reference.wasserstein_uniformity(self.z, eps=ridge).item(),
                reference.wasserstein_uniformity_grad(self.z, eps=ridge),
            )
        true_value, true_gradient = self._known[ridge]
        try:
            value, gradient = value_and_gradient(loss, self.z)
        except (RuntimeError, ArithmeticError) as error:  # an eigensolver that did not converge
            return Check(float("nan"), float("nan"), raised(error))
        error = abs(value.double().item() - true_value)
        finite = bool(gradient.isfinite().all())
        wrong = None
        if not error <= VALUE_TOLERANCE:  # NaN too
            wrong = f"value off by {error:.1e}"
        elif not finite:
            wrong = "gradient not finite"
        found = cosine(gradient.cpu(), true_gradient.cpu()) if finite else float("nan")
        return Check(error, found, wrong)


class Forecast:
    """Seconds that an arm's W2 is foreseen to take at `dim`: timed at PROBE_DIM, then as dim^3.

    Two calls on healthy rows, the quicker counts. dim^3 is what a decomposition of dim x dim
    costs; below PROBE_DIM the probe is at dim itself. 0 for arms that decompose no such matrix.
    """

    def __init__(self, device: str) -> None:
        self.device = device
        self._probed: dict[tuple[str, int, int], float] = {}

    def seconds(self, arm: Arm, method: Method, rows: int, dim: int) -> float:
        """For one forward and backward of W2 at (rows, dim)."""
        loss = arm.loss(method)
        if not arm.decomposes or loss is None:
            return 0.0
        probe_dim = min(dim, PROBE_DIM)
        key = (arm.name, rows, probe_dim)
        if key not in self._probed:
            z = healthy(rows, probe_dim).to(self.device)
            calls = (seconds_of(lambda z: value_and_gradient(loss, z), z) for _ in range(2))
            self._probed[key] = min(calls)
        return self._probed[key] * (dim / probe_dim) ** 3


def raised(error: Exception) -> str:
    """As the reason why an arm is wrong."""
    return f"raised {type(error).__name__}: {str(error).splitlines()[0][:120]}"


def effective_rank(z: Tensor) -> float:
    """Of the unit rows' covariance: how healthy the batch is on which the arms are timed."""
    return wf.effective_rank(torch.nn.functional.normalize(z, dim=1)).item()
