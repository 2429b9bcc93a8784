"""The figures of a scan, by the names of `--json` and `--fail-if`, and as lines for a person."""

import math
from typing import Any

import torch
from rich.markup import escape
from torch import Tensor

from wssl_fast.cli.scan import Scan
from wssl_fast.metrics import w2_floor, w2_of_uniform

NAMES = (
    "w2",
    "w2_floor",
    "w2_of_uniform",
    "uniformity",
    "effective_rank",
    "rankme",
    "mean_norm",
    "norm_of_mean",
    "rows",
    "columns",
    "rejected_rows",
)
Values = dict[str, float | None]
BLOCKS, ASCII = " ▁▂▃▄▅▆▇█", " .:-=+*#@"


def values(scan: Scan) -> Values:
    """Every figure of NAMES; `uniformity` is None for a single row, which has no pair."""
    moments = scan.moments
    n, m = moments.count, len(moments.mean)
    return {
        "w2": float(moments.wasserstein_uniformity()),
        "w2_floor": w2_floor(n, m),
        "w2_of_uniform": w2_of_uniform(n, m),
        "uniformity": float(scan.sample.uniformity()) if len(scan.sample.rows) > 1 else None,
        "effective_rank": float(moments.effective_rank()),
        "rankme": float(moments.rankme()),
        "mean_norm": float(moments.mean_norm()),
        "norm_of_mean": float(torch.linalg.vector_norm(moments.mean)),
        "rows": n,
        "columns": m,
        "rejected_rows": sum(bad.count for bad in scan.rejected),
    }


def record(scan: Scan, found: Values) -> dict[str, Any]:
    """One scan as JSON."""
    return {
        "files": [source.name for source in scan.sources],
        "dtype": str(scan.sources[0].dtype).removeprefix("torch."),
        "normalize": scan.moments.normalize,
        "precision": scan.moments.precision,
        "metrics": found,
        "uniformity_sample": {"rows": len(scan.sample.rows), "seed": scan.sample.seed, "t": 2.0},
        "rejected": [
            {"file": bad.file, "count": bad.count, "rows": bad.rows} for bad in scan.rejected
        ],
        "covariance_spectrum": scan.moments.covariance_spectrum().tolist(),
    }


def lines(scan: Scan, found: Values, encoding: str = "utf-8") -> list[tuple[str, str]]:
    """Rows (name, text) of a table that is written in `encoding`."""
    files, sample = len(scan.sources), len(scan.sample.rows)
    kept = (
        "all rows" if sample == scan.moments.count else f"{sample:,} rows, seed {scan.sample.seed}"
    )
    dtype = str(scan.sources[0].dtype).removeprefix("torch.")
    uniformity = found["uniformity"]
    return [
        (
            "rows",
            f"{found['rows']:,} x {found['columns']:,}, {dtype}, {files} file{'s' * (files > 1)}; "
            f"{'scaled to unit length' if scan.moments.normalize else 'as given'}",
        ),
        (
            "W2",
            f"[bold]{found['w2']:.4f}[/]   as many uniform points: {found['w2_of_uniform']:.4f}"
            + (f"; floor: {found['w2_floor']:.4f}" if found["w2_floor"] else ""),
        ),
        ("L_U", "needs 2 rows" if uniformity is None else f"{uniformity:.4f}   of {kept}"),
        ("effective rank", f"{found['effective_rank']:.1f} of {found['columns']:,}"),
        ("RankMe", f"{found['rankme']:.1f}"),
        ("norms", f"mean of |z| {found['mean_norm']:.4g}, |mean| {found['norm_of_mean']:.4g}"),
        (
            "spectrum",
            f"{sparkline(scan.moments.covariance_spectrum(), heights_in(encoding))}  sigma from 1 "
            "to 1e-3, log",
        ),
        ("left out", escape("; ".join(map(str, scan.rejected)) or "none: every row is finite")),
    ]


def heights_in(encoding: str) -> str:
    """The nine heights of a sparkline that an output of this encoding can show."""
    try:
        BLOCKS.encode(encoding)
    except UnicodeEncodeError:
        return ASCII
    return BLOCKS


def sparkline(
    eigenvalues: Tensor, heights: str = BLOCKS, cells: int = 32, decades: float = 3.0
) -> str:
    """sigma / sigma_max as blocks of a terminal: from left to right by direction, full height at 1,
    nothing at 10^-decades and below."""
    top = float(eigenvalues[0])
    if not top > 0:
        return " " * min(cells, len(eigenvalues))
    cells = min(cells, len(eigenvalues))
    out = ""
    for i in range(cells):
        value = float(eigenvalues[i * (len(eigenvalues) - 1) // max(cells - 1, 1)]) / top
        height = 1 + math.log10(value) / 2 / decades if value > 0 else 0.0
        out += heights[max(0, math.ceil(8 * height))]
    return out
