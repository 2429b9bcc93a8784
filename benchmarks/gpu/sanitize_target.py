"""csrc/cuda on every tile, for a sanitizer to watch.

    python -m benchmarks.gpu.sanitize_target cuda

No kernel of PyTorch or Triton runs: memory is filled on the host and copied.
"""

import sys
from collections.abc import Sequence

import torch

from benchmarks.gpu import root
from benchmarks.gpu.sanitizer import DONE
from wssl_fast.backends import cuda
from wssl_fast.backends.triton.newton_schulz_cuda import index_of

SIZES, COLUMNS, PARTS = (96, 256), 512, 2


def main(device: torch.device, sizes: Sequence[int] = SIZES) -> int:
    """0 and DONE if every result is right, else 1 and which is not."""
    of = cuda.device(index_of(device))
    found = []
    for k in sizes:
        given = root.problem(k, torch.device("cpu"), m=COLUMNS, splits=PARTS)
        for tile, (rows, columns, *_) in enumerate(cuda.tiles()):
            outputs = root.by_cuda(given, tile, of, where=device).run()
            wrong = root.wrong(root.errors(given, [one.cpu() for one in outputs], 1.0))
            found += [f"k = {k}, tile {rows}x{columns}: {wrong}"] if wrong else []
    print("\n".join(found) or DONE, flush=True)
    return 1 if found else 0


if __name__ == "__main__":
    raise SystemExit(main(torch.device(sys.argv[1])))
