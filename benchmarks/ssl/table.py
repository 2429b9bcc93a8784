"""The W2 paper's table from finished runs: means over seeds, their spread, the paper's numbers."""

import csv
import io
import statistics
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from benchmarks.demo.tables import Table
from benchmarks.records import Row
from benchmarks.ssl.config import KINDS, load
from benchmarks.ssl.grid import Cell
from benchmarks.ssl.methods import METHODS
from benchmarks.ssl.paper import TABLE

MEASURES = ("acc1", "acc5", "knn", "w2", "uniformity", "alignment", "effective_rank")
HEADS = ("Acc@1", "Acc@5", "kNN", "W2", "L_U", "A", "rank")
PAPER_HEADS = ("Acc@1", "W2", "L_U", "A")
DIGITS = {
    "acc1": 2,
    "acc5": 2,
    "knn": 2,
    "w2": 3,
    "uniformity": 2,
    "alignment": 2,
    "effective_rank": 1,
}
BESIDE = {"none": "", "lu": " + L_U", "w2": " + W2"}
Key = tuple[str, str]  # method, kind of uniformity loss


def cells(
    methods: Sequence[str],
    kinds: Sequence[str],
    seeds: Sequence[int],
    presets: Sequence[str],
    overrides: Mapping[str, Any],
) -> list[Cell]:
    """Whole grids one after the other: an early stop leaves the first seeds' complete."""
    found = []
    for seed in seeds:
        for method in methods:
            for kind in kinds:
                settings = {**overrides, "uniformity.kind": kind, "seed": seed}
                config = load(method, presets, settings)
                found.append(Cell(config.name(), config))
    return found


def by_arm(finals: Iterable[Row]) -> dict[Key, list[Row]]:
    """Final rows by method and uniformity loss, in the table's order."""
    found: dict[Key, list[Row]] = {}
    for row in finals:
        found.setdefault((row["method"], row["uniformity_kind"]), []).append(row)
    order = [(method, kind) for method in METHODS for kind in KINDS]
    return {key: sorted(found[key], key=lambda row: row["seed"]) for key in order if key in found}


def tables(finals: Sequence[Row]) -> list[Table]:
    """The table, and the differences that a uniformity loss makes within a seed."""
    arms = by_arm(finals)
    return [_main(arms)] + ([_differences(arms)] if any(kind != "none" for _, kind in arms) else [])


def _main(arms: Mapping[Key, Sequence[Row]]) -> Table:
    first = next(iter(arms.values()))[0]
    same = first["dataset"] in TABLE
    published = TABLE[first["dataset"] if same else "cifar10"]
    of_paper = "CIFAR-100" if first["dataset"] == "cifar100" else "CIFAR-10"
    rows = []
    for (method, kind), found in arms.items():
        cells = [_cell(measure, [row[measure] for row in found]) for measure in MEASURES]
        paper = published.get((method, kind))
        beside = (paper.acc1, paper.w2, paper.uniformity, paper.alignment) if paper else ()
        rows.append(
            [
                f"{METHODS[method].name}{BESIDE[kind]}",
                _weights(found),
                str(len(found)),
                *cells,
                *([f"{value:.2f}" for value in beside] or [""] * 4),
            ]
        )
    orientation = "" if same else " (other images, another network: for orientation)"
    return Table(
        title=f"{first['dataset']}, {first['backbone']}, {first['epochs']} epochs",
        header=["", "weight", "seeds", *HEADS, *(f"paper {name}" for name in PAPER_HEADS)],
        rows=rows,
        note=f"Mean ± standard deviation over seeds. {first['images']:,} training images, batch "
        f"{first['batch']}, {first['dim']} dimensions; {first['tested']:,} test images. Acc@1 and "
        "Acc@5: linear probe, last epoch, batch normalisation in evaluation mode. As many uniform "
        f"points as test images have W2 = {first['w2_floor']:.3f}. Weight: of the uniformity loss, "
        "linear over the epochs where it changes. Paper: its Table 2, "
        f"{of_paper}, ResNet-18, 500 epochs, one seed, best test epoch of the probe{orientation}.",
    )


def _differences(arms: Mapping[Key, Sequence[Row]]) -> Table:
    rows = []
    for (method, kind), found in arms.items():
        alone = {row["seed"]: row for row in arms.get((method, "none"), [])}
        pairs = [(row, alone[row["seed"]]) for row in found if row["seed"] in alone]
        if kind == "none" or not pairs:
            continue
        cells = []
        for measure in MEASURES:
            values = [_difference(a[measure], b[measure]) for a, b in pairs]
            cells.append(_cell(measure, values, signed=True))
        rows.append([f"{METHODS[method].name}{BESIDE[kind]}", str(len(pairs)), *cells])
    return Table(
        title="What the uniformity loss changes, within a seed",
        header=["", "seeds", *HEADS],
        rows=rows,
        note="With it less without it, same seed: initial weights, batches and augmentations are "
        "the same. Mean ± standard deviation over seeds; one seed has no spread, and a standard "
        "error of an accuracy of p % on n test images is sqrt(p (100 - p) / n) %.",
    )


def _difference(with_it: float | None, without: float | None) -> float | None:
    return None if with_it is None or without is None else with_it - without


def _weights(rows: Sequence[Row]) -> str:
    pairs = {(row["weight_start"], row["weight_end"]) for row in rows}
    said = [f"{a:g}" if a == b else f"{a:g} to {b:g}" for a, b in sorted(pairs)]
    return "" if rows[0]["uniformity_kind"] == "none" else ", ".join(said)


def _cell(measure: str, values: Sequence[float | None], *, signed: bool = False) -> str:
    known = [value for value in values if value is not None]
    if not known:
        return ""
    sign = "+" if signed else ""
    digits = DIGITS[measure]
    text = f"{statistics.fmean(known):{sign}.{digits}f}"
    return text + (f" ± {statistics.stdev(known):.{digits}f}" if len(known) > 1 else "")


def as_csv(finals: Sequence[Row]) -> str:
    """Mean, standard deviation and number of seeds of every measure, and the paper's numbers."""
    arms = by_arm(finals)
    first = next(iter(arms.values()))[0]
    published = TABLE.get(first["dataset"], {})
    out = io.StringIO()
    writer = csv.writer(out, lineterminator="\n")
    spread = [f"{measure}_{what}" for measure in MEASURES for what in ("mean", "std")]
    paper = ("paper_acc1", "paper_acc5", "paper_w2", "paper_uniformity", "paper_alignment")
    columns = ("dataset", "backbone", "epochs", "images", "recipe")
    heads = ["method", "uniformity", *columns, "weight_start", "weight_end", "seeds"]
    writer.writerow([*heads, *spread, "w2_floor", *paper])
    for (method, kind), found in arms.items():
        numbers: list[float | str] = []
        for measure in MEASURES:
            known = [row[measure] for row in found if row[measure] is not None]
            numbers.append(round(statistics.fmean(known), 6) if known else "")
            numbers.append(round(statistics.stdev(known), 6) if len(known) > 1 else "")
        row = found[0]
        seeds = " ".join(str(of["seed"]) for of in found)
        named = [row[column] for column in columns]
        weights = [row["weight_start"], row["weight_end"]]
        beside = published.get((method, kind), ("",) * 5)
        writer.writerow(
            [method, kind, *named, *weights, seeds, *numbers, round(row["w2_floor"], 6), *beside]
        )
    return out.getvalue()
