"""How uncertain are the eigenvalues of a float32 Gram matrix? The measurement behind NOISE.

python -m benchmarks.studies.gram_noise

For spectra from flat to near-constant: the spectral norm of the rounding error of C = X X^T / n,
and the largest error of the lower half of the eigenvalues that float32 eigh then finds for the
centred matrix, both in units of eps |C|_F against float64.
"""

import torch
from rich.console import Console
from rich.table import Table

from wssl_fast.backends.eager.numerics import NOISE
from wssl_fast.backends.eager.products import symmetric_product

SHAPES = ((128, 2048), (512, 512), (512, 8192), (256, 32768))
SPECTRA = ("flat", "rank 12 + 1e-4", "large mean", "near-constant", "power law")


def rows(name: str, n: int, m: int) -> torch.Tensor:
    """Raw float32 rows (n, m), seeded by shape."""
    g = torch.Generator().manual_seed(n + m)
    z = torch.randn(n, m, generator=g)
    if name == "rank 12 + 1e-4":
        z = torch.randn(n, 12, generator=g) @ torch.randn(12, m, generator=g) + 1e-4 * z
    elif name == "large mean":
        z = z + 1.5 * torch.randn(m, generator=g)
    elif name == "near-constant":
        z = 0.05 * z + torch.randn(m, generator=g)
    elif name == "power law":
        z = z / torch.arange(1, m + 1)
    return z


def measure(z: torch.Tensor) -> tuple[float, float]:
    """Error of the Gram, and of the lower half of the eigenvalues, in units of eps |C|_F."""
    n = len(z)
    x64 = z.double() / z.double().norm(dim=1, keepdim=True)
    exact = x64 @ x64.T / n
    c = symmetric_product(z, torch.float32)
    d = c.diagonal().rsqrt()
    c = d[:, None] * c * d / n
    unit = torch.finfo(torch.float32).eps * c.double().norm()
    error = torch.linalg.eigvalsh(c.double() - exact).abs().max() / unit
    h = torch.eye(n, dtype=torch.float64) - 1 / n
    centred = (c - c.mean(0)) - (c.mean(1) - c.mean())[:, None]
    found = torch.linalg.eigvalsh(centred).double()
    low = (found - torch.linalg.eigvalsh(h @ exact @ h))[: n // 2].abs().max() / unit
    return float(error), float(low)


def main() -> None:
    table = Table(title=f"in units of eps |C|_F; the package takes {NOISE}")
    for column in ("n", "m", "spectrum", "error of C", "lower eigenvalues"):
        table.add_column(column)
    for n, m in SHAPES:
        for name in SPECTRA:
            error, low = measure(rows(name, n, m))
            table.add_row(str(n), str(m), name, f"{error:.2f}", f"{low:.2f}")
    Console().print(table)


if __name__ == "__main__":
    main()
