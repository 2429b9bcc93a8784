"""How uncertain are the eigenvalues of a Gram or covariance matrix? The measurement behind NOISE.

python -m benchmarks.studies.gram_noise        prints both tables, writes rows

For spectra from flat to near-constant: the spectral norm of the rounding error of a float32
C = X X^T / n, and the largest error of the lower half of the eigenvalues that float32 eigh then
finds for the centred matrix, both in units of eps |C|_F against float64. For rows that are clones
of a few points, whose products round alike: the null eigenvalues of the covariance, float32 and
float64, in the same units.
"""

import json
from pathlib import Path

import torch
from rich.console import Console
from rich.table import Table

from benchmarks.machine import hardware, versions
from wssl_fast.backends.eager.numerics import CLONES, NOISE
from wssl_fast.backends.eager.products import row_statistics, symmetric_product

ROWS = Path(__file__).parents[1] / "results" / "studies" / "gram_noise.jsonl"
SHAPES = ((128, 2048), (512, 512), (512, 8192), (256, 32768))
CLONED = ((221, 3), (265, 5), (289, 8), (2000, 4), (5000, 16), (20000, 8))
SPECTRA = ("flat", "rank 12 + 1e-4", "large mean", "near-constant", "power law")


def batch(name: str, n: int, m: int) -> torch.Tensor:
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


def clones(n: int, m: int, dtype: torch.dtype) -> float:
    """Largest null eigenvalue of the covariance of n clones of m/2 points, units of eps |S|_F."""
    points = torch.randn(m, m, generator=torch.Generator().manual_seed(n + m))
    points = torch.where(torch.tensor(m % 2 == 0), points, torch.eye(m))
    z = points[torch.arange(n) % (m // 2 if m % 2 == 0 else m)]
    scale, mean = row_statistics(z, normalize=True)
    s = symmetric_product(z, dtype, covariance=True, scale=scale, mean=mean).double() / n
    x = z.double() * scale[:, None]
    sigma = torch.linalg.svdvals(x - x.mean(0))
    null = int((sigma < 1e-10 * sigma[0]).sum())
    found = torch.linalg.eigvalsh(s)[:null].abs().max()
    return float(found / (torch.finfo(dtype).eps * torch.linalg.matrix_norm(s)))


def main() -> None:
    rows: list[dict[str, object]] = []
    taken = NOISE[torch.float32]
    table = Table(title=f"float32, in units of eps |C|_F; the package takes {taken}")
    for column in ("n", "m", "spectrum", "error of C", "lower eigenvalues"):
        table.add_column(column)
    for n, m in SHAPES:
        for name in SPECTRA:
            error, low = measure(batch(name, n, m))
            table.add_row(str(n), str(m), name, f"{error:.2f}", f"{low:.2f}")
            rows.append({"n": n, "m": m, "spectrum": name, "gram": error, "lower": low})
    Console().print(table)
    table = Table(title=f"clones, in units of eps |S|_F; the package takes {CLONES}")
    for column in ("n", "m", "float32", "float64"):
        table.add_column(column)
    for n, m in CLONED:
        single, double = (clones(n, m, dtype) for dtype in (torch.float32, torch.float64))
        table.add_row(str(n), str(m), f"{single:.1f}", f"{double:.1f}")
        rows.append({"n": n, "m": m, "spectrum": "clones", "float32": single, "float64": double})
    Console().print(table)
    stamp = {"hardware": hardware(), "versions": versions()}
    ROWS.write_text("".join(json.dumps(row | stamp) + "\n" for row in rows), encoding="utf-8")


if __name__ == "__main__":
    main()
