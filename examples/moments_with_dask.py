"""Metrics of embeddings in many files, by map and reduce with Dask.

    python examples/moments_with_dask.py shards/*.npy
    python examples/moments_with_dask.py shards/*.npy --scheduler processes

Map: the moments of one shard, and a sample of its rows. Reduce: pairwise merges, in any order,
since both are associative. On a cluster, make a `dask.distributed.Client` first; nothing else
changes.
"""

import argparse
from collections.abc import Callable, Sequence
from typing import TypeVar

import dask
import numpy as np
import torch
from dask.delayed import Delayed

from wssl_fast.metrics import Moments, RowSample, w2_of_uniform

Part = tuple[Moments, RowSample]
T = TypeVar("T")


def moments_of(path: str, shard: int, batch: int = 8192) -> Part:
    """Map: one pass over a shard, `batch` rows at a time."""
    rows = np.load(path, mmap_mode="r")
    moments, sample = Moments(), RowSample(4096, stream=shard)  # a stream of keys a shard
    for i in range(0, len(rows), batch):
        z = torch.from_numpy(np.array(rows[i : i + batch]))
        moments.update(z)
        sample.update(z)
    return moments, sample


def merge(a: Part, b: Part) -> Part:
    """Reduce: of two parts, without changing either."""
    sample = RowSample(a[1].capacity).merge(a[1]).merge(b[1])
    return a[0] + b[0], sample


def tree(parts: list[T], merge_two: Callable[[T, T], T]) -> T:
    """Neighbours merged until one is left: no worker ever holds more than two."""
    while len(parts) > 1:
        pairs = [parts[i : i + 2] for i in range(0, len(parts), 2)]
        parts = [merge_two(*pair) if len(pair) == 2 else pair[0] for pair in pairs]
    return parts[0]


def main(arguments: Sequence[str] | None = None) -> Part:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("files", nargs="+", help="npy files, rows of one width")
    parser.add_argument("--scheduler", default="threads", help="synchronous, threads, processes")
    parser.add_argument("--save", help="safetensors file for the merged moments")
    options = parser.parse_args(arguments)
    shards: list[Delayed] = [
        dask.delayed(moments_of)(path, shard) for shard, path in enumerate(options.files)
    ]
    moments, sample = tree(shards, dask.delayed(merge)).compute(scheduler=options.scheduler)
    n, m = moments.count, len(moments.mean)
    print(
        f"{n:,} rows of {m} in {len(shards)} files: W2 {moments.wasserstein_uniformity():.4f} "
        f"(as many uniform points: {w2_of_uniform(n, m):.4f}), L_U {sample.uniformity():.4f} of "
        f"{len(sample.rows):,} rows, effective rank {moments.effective_rank():.1f}"
    )
    if options.save:
        moments.save(options.save)
    return moments, sample


if __name__ == "__main__":
    main()
