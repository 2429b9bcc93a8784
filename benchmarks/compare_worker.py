"""A worker of `make bench-compare`: runs the named case of the wssl_fast that PYTHONPATH gives it.

Started by path, from the checkout that compares, for both checkouts: so both time the same calls,
and nothing else of the other checkout's benchmarks is read. Every line in is a case's name, every
line out a JSON object: first where wssl_fast lies, then {"seconds": ...} or {"error": ...}. Ends
with its input. Ctrl-C is the parent's to handle.
"""

import json
import signal
import sys
import time
from collections.abc import Callable

import torch
from torch import Tensor

import wssl_fast as wf

CASES = {
    "W2 512 x 8192": ("W2", 512, 8192),
    "W2 256 x 2048": ("W2", 256, 2048),
    "W2 4096 x 1024": ("W2", 4096, 1024),
    "L_U 2048 x 512": ("L_U", 2048, 512),
    "solver 512": ("solver", 512, 512),
}
"""Name -> what, rows, columns; W2 and L_U forward + backward, the solver A^(-1/2) forward."""


def rows(n: int, m: int) -> Tensor:
    """Gaussian rows whose directions' scales fall as i^-0.25."""
    scales = torch.arange(1, m + 1, dtype=torch.float32).pow(-0.25)
    return torch.randn(n, m, generator=torch.Generator().manual_seed(0)) * scales


def call_of(name: str) -> Callable[[], object]:
    """The call to time, its input made."""
    what, n, m = CASES[name]
    if what == "solver":
        z = rows(2 * n, m)
        a = z.T @ z / len(z)
        return lambda: wf.matrix_inv_sqrt(a)
    loss = wf.wasserstein_uniformity if what == "W2" else wf.uniformity
    z = rows(n, m).requires_grad_()
    return lambda: torch.autograd.grad(loss(z), z)


def main() -> None:
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    answers = sys.stdout
    sys.stdout = sys.stderr  # nothing else may speak on the pipe
    calls: dict[str, Callable[[], object]] = {}
    print(json.dumps({"package": wf.__file__}), file=answers, flush=True)
    for line in sys.stdin:
        name = line.strip()
        try:
            if name not in calls:
                calls.clear()  # one case's inputs at a time
                calls[name] = call_of(name)
                calls[name]()
            started = time.perf_counter()
            calls[name]()
            answer: dict[str, object] = {"seconds": time.perf_counter() - started}
        except Exception as error:  # goes back to the parent, which names it
            answer = {"error": f"{type(error).__name__}: {error}"}
        print(json.dumps(answer), file=answers, flush=True)


if __name__ == "__main__":
    main()
