"""Peak memory of one forward+backward above its input and gradient, from fresh processes.

The high-water mark of resident memory is taken in two processes: one makes the input and a
gradient of its size, the other calls the loss too. Both import and warm the same code at a tiny
shape first, then run the two plain products of the Gram formulation into memory that exists
already. So libraries, thread pools and the BLAS's packing buffers (10 MiB for one GEMM at
512 x 32768 with MKL, kept by the process and shared with every layer of a network) cancel, and what
is left is what the loss allocates. The mark is VmHWM where Linux gives it: ru_maxrss of a child
starts at its parent's size.
"""

import re
import resource
import statistics
import subprocess
import sys
from pathlib import Path

import torch

from benchmarks.batches import healthy
from benchmarks.peers import Loss, barlow_twins, svdvals_w2, two_views, value_and_gradient

BASELINE = "input and gradient"
REPEATS = 3  # odd: the median is one of them


def losses() -> dict[str, Loss]:
    """What can be measured, by provider."""
    import wssl_fast as wf

    return {
        "wssl_fast": wf.wasserstein_uniformity,
        "svdvals": svdvals_w2,
        "Barlow Twins": two_views(barlow_twins),
    }


def peak_above_input(provider: str, n: int, m: int, *, repeats: int = REPEATS) -> int:
    """Bytes of peak resident memory of `provider` at n x m above its input and gradient.

    The median of `repeats` pairs of processes: pages of a second thread's arena come and go.
    """
    return statistics.median(
        _in_fresh_process(provider, provider, n, m) - _in_fresh_process(BASELINE, provider, n, m)
        for _ in range(repeats)
    )


def _in_fresh_process(what: str, warm: str, n: int, m: int) -> int:
    command = [sys.executable, "-m", "benchmarks.memory", what, warm, str(n), str(m)]
    root = Path(__file__).parents[1]
    run = subprocess.run(command, check=True, cwd=root, stdout=subprocess.PIPE, text=True)
    return int(run.stdout)


def _high_water_bytes() -> int:
    status = Path("/proc/self/status")
    if status.exists() and (found := re.search(r"VmHWM:\s*(\d+) kB", status.read_text())):
        return int(found[1]) * 1024
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024


def _child(what: str, warm: str, n: int, m: int) -> int:
    loss = losses()[warm]
    tiny_rows = min(n, 64)
    value_and_gradient(loss, healthy(tiny_rows, tiny_rows * max(m // n, 1)))
    z = healthy(n, m)
    gradient = torch.ones_like(z)
    _warm_blas(z, gradient)
    if what != BASELINE:
        del gradient
        value_and_gradient(loss, z)
    return _high_water_bytes()


def _warm_blas(z: torch.Tensor, out: torch.Tensor) -> None:
    """Both products of the Gram formulation, allocating nothing but the BLAS's own buffers."""
    n = len(z)
    torch.mm(z, z.T, out=out.view(-1)[: n * n].view(n, n))
    square = z.view(-1)[: n * n].view(n, n)
    torch.mm(square, z, out=out)


if __name__ == "__main__":
    print(_child(sys.argv[1], sys.argv[2], int(sys.argv[3]), int(sys.argv[4])))
