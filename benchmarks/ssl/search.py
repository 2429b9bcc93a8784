"""The weight of a uniformity loss, by a small stated search on the training split.

L_U's weight is published nowhere, and W2's only for another network, other images and 500 epochs.
Both get the same effort: the schedule in the method's file (W2's is the paper's; L_U's is the same)
times each factor, one run each, with a hold-out taken from the training split in place of the test
images. The factor with the best kNN accuracy on the hold-out is taken, the smallest of equals.
"""

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from benchmarks.demo.tables import Table
from benchmarks.records import Row
from benchmarks.ssl.config import load, weights_file
from benchmarks.ssl.grid import Cell

FACTORS = (0.1, 1.0, 10.0)
KINDS = ("lu", "w2")
HOLDOUT = 2000


def cells(
    methods: Sequence[str],
    factors: Sequence[float],
    presets: Sequence[str],
    overrides: Mapping[str, Any],
    holdout: int,
) -> list[Cell]:
    """For each method the run without a uniformity loss, then every factor of both losses."""
    found = []
    for method in methods:
        base = load(method).uniformity  # the committed schedules, whatever a search chose before
        fixed = {"data.holdout": holdout, "data.test_count": None, "evaluation.probe.epochs": 0}
        fixed |= {f"uniformity.{kind}": getattr(base, kind).model_dump() for kind in KINDS}
        settings = {**overrides, **fixed}
        found.append(Cell(f"{method}-none", load(method, presets, settings)))
        for kind in KINDS:
            schedule = getattr(base, kind)
            for factor in factors:
                ends = (schedule.start, schedule.end)
                start, end = (float(f"{factor * weight:.6g}") for weight in ends)
                weights = {"start": start, "end": end}
                own = {"uniformity.kind": kind, f"uniformity.{kind}": weights}
                config = load(method, presets, {**settings, **own})
                found.append(Cell(f"{method}-{kind}-x{factor:g}", config))
    return found


def choose(finals: Sequence[Row]) -> dict[str, dict[str, dict[str, float]]]:
    """By method and kind the weights of the best run."""
    best: dict[tuple[str, str], Row] = {}
    for row in sorted(finals, key=lambda row: row["weight_start"]):
        key = (row["method"], row["uniformity_kind"])
        if key[1] in KINDS and (key not in best or row["knn"] > best[key]["knn"]):
            best[key] = row
    chosen: dict[str, dict[str, dict[str, float]]] = {}
    for (method, kind), row in best.items():
        weights = {"start": row["weight_start"], "end": row["weight_end"]}
        chosen.setdefault(method, {})[kind] = weights
    return chosen


def write_choice(preset: str, chosen: Mapping[str, Any]) -> Path:
    """Into the preset's file of weights, which every later run with the preset reads."""
    path = weights_file(preset)
    known = json.loads(path.read_text(encoding="utf-8")) if path.exists() else {}
    path.write_text(json.dumps(known | dict(chosen), indent=2) + "\n", encoding="utf-8")
    return path


def table(finals: Sequence[Row]) -> Table:
    """Every run of the search; the chosen ones in bold."""
    chosen = choose(finals)
    rows = []
    for row in finals:
        weights = {"start": row["weight_start"], "end": row["weight_end"]}
        kind = row["uniformity_kind"]
        taken = chosen.get(row["method"], {}).get(kind) == weights
        said = f"{weights['start']:g}" + (
            f" to {weights['end']:g}" if weights["end"] != weights["start"] else ""
        )
        knn = f"{row['knn']:.2f}"
        rows.append(
            [
                row["method"],
                kind,
                "" if kind == "none" else said,
                f"**{knn}**" if taken else knn,
                f"{row['w2']:.3f}",
                f"{row['uniformity']:.2f}",
                f"{row['effective_rank']:.1f}",
            ]
        )
    first = finals[0]
    return Table(
        title="Weights tried, kNN accuracy on images held out of the training split",
        header=["", "loss", "weight", "kNN", "W2", "L_U", "rank"],
        rows=rows,
        note=f"{first['dataset']}, {first['backbone']}, {first['epochs']} epochs of "
        f"{first['images']:,} images, {first['tested']:,} held out, seed {first['seed']}. "
        "One run each: differences of a standard error are chance.",
    )
