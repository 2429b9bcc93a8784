"""Floors: what no implementation of its kind avoids, timed in the same rounds as the providers.

A floor is a weighted sum of parts, products and decompositions of PyTorch writing into memory that
exists. A symmetric product has half the flops of the full one that is timed. With k = min(n, m):

    W2 forward              n m k flops of the symmetric product + eigenvalues of k x k
    W2 forward+backward     the same with eigenvectors, and the product 2 n m k
    L_U forward+backward    3 n^2 m flops: the Gram matrix of the rows (half), and E X
    solver                  eigh of k x k
    products                half of the full product, in the same dtype
    Frechet distance        n <= m: Xc Yc^T and its singular values; else two m x m covariances
                            (half each) and singular values of m x m
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass

import torch
from torch import Tensor

from benchmarks.harness import Case, Timing

Part = Callable[[Tensor], Callable[[Tensor], object]]
"""From a batch of the shape that will come, the call to time."""


def _full_gram(z: Tensor) -> Callable[[Tensor], object]:
    n, m = z.shape
    out = z.new_empty(min(n, m), min(n, m))
    if n <= m:
        return lambda z: torch.mm(z, z.T, out=out)
    return lambda z: torch.mm(z.T, z, out=out)


def _full_rows(z: Tensor) -> Callable[[Tensor], object]:
    out = z.new_empty(len(z), len(z))
    return lambda z: torch.mm(z, z.T, out=out)


def _gemm(z: Tensor) -> Callable[[Tensor], object]:
    n, m = z.shape
    square, out = torch.randn(min(n, m), min(n, m)).to(z), torch.empty_like(z)
    if n <= m:
        return lambda z: torch.mm(square, z, out=out)
    return lambda z: torch.mm(z, square, out=out)


def _gemm_rows(z: Tensor) -> Callable[[Tensor], object]:
    square, out = torch.randn(len(z), len(z)).to(z), torch.empty_like(z)
    return lambda z: torch.mm(square, z, out=out)


def _eigh(z: Tensor) -> Callable[[Tensor], object]:
    gram = _smaller_gram(z)
    return lambda z: torch.linalg.eigh(gram)


def _eigvalsh(z: Tensor) -> Callable[[Tensor], object]:
    gram = _smaller_gram(z)
    return lambda z: torch.linalg.eigvalsh(gram)


def _eigh_of_input(z: Tensor) -> Callable[[Tensor], object]:
    return torch.linalg.eigh


def _cross_product(z: Tensor) -> Callable[[Tensor], object]:
    x, y = z.chunk(2)  # (n, m) each
    out = z.new_empty(len(x), len(y)) if len(x) <= z.shape[1] else z.new_empty(z.shape[1:] * 2)
    if len(x) <= z.shape[1]:
        return lambda z: torch.mm(z[: len(x)], z[len(x) :].T, out=out)
    return lambda z: torch.mm(z[: len(x)].T, z[: len(x)], out=out)


def _cross_svdvals(z: Tensor) -> Callable[[Tensor], object]:
    x, y = z.chunk(2)
    square = x @ y.T if len(x) <= z.shape[1] else x.T @ y
    return lambda z: torch.linalg.svdvals(square)


def _copy(z: Tensor) -> Callable[[Tensor], object]:
    out = torch.empty_like(z)
    return lambda z: out.copy_(z)


def _smaller_gram(z: Tensor) -> Tensor:
    return z @ z.T if len(z) <= z.shape[1] else z.T @ z


@dataclass(frozen=True)
class Floor:
    """`formula` in words; name -> (weight in the sum, the part). Weight 0: a rate for the row."""

    formula: str
    parts: Mapping[str, tuple[float, Part]]

    def cases(self, z: Tensor) -> list[Case]:
        """The parts at the shape, dtype and device of z."""
        return [Case(name, part(z), part=True) for name, (_, part) in self.parts.items()]

    def seconds(self, timings: Mapping[str, Timing]) -> float:
        """The weighted sum of the parts' medians."""
        return sum(w * timings[name].median for name, (w, _) in self.parts.items() if w)


W2_BACKWARD = Floor(
    "half of the full Gram product + eigh + GEMM",
    {
        "full Gram": (0.5, _full_gram),
        "eigh of k x k": (1, _eigh),
        "GEMM": (1, _gemm),
        "copy": (0, _copy),
    },
)
W2_FORWARD = Floor(
    "half of the full Gram product + eigvalsh",
    {"full Gram": (0.5, _full_gram), "eigvalsh of k x k": (1, _eigvalsh), "copy": (0, _copy)},
)
UNIFORMITY = Floor(
    "half of the full Gram product of the rows + the product E X",
    {"full Gram": (0.5, _full_rows), "GEMM": (1, _gemm_rows), "copy": (0, _copy)},
)
SOLVER = Floor("one eigh", {"eigh of k x k": (1, _eigh_of_input)})
PRODUCT = Floor("half of the full product", {"GEMM": (0.5, _full_gram)})
FRECHET = Floor(
    "full product Xc Yc^T (n <= m), or two half covariances, + svdvals of it",
    {"products": (1, _cross_product), "svdvals of k x k": (1, _cross_svdvals)},
)
