"""Many runs one after the other, each continued where it was left."""

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from benchmarks.data import ImageSet, load
from benchmarks.ssl.config import Config
from benchmarks.ssl.progress import Reporter
from benchmarks.ssl.runs import RunFolder
from benchmarks.ssl.train import run
from benchmarks.ssl.watch import LossError


@dataclass(frozen=True)
class Cell:
    """One run of a grid, in the folder `name` of the grid's."""

    name: str
    config: Config


def run_cells(
    cells: Iterable[Cell],
    out: Path,
    *,
    data: str | None,
    device: str,
    reporter: Reporter,
    after_each: Callable[[], None] = lambda: None,
) -> list[str]:
    """Train what is not finished; returns the runs that failed, by name.

    A run that failed before is not tried again until its folder is gone. A signal stops the grid
    as it stops a run.
    """
    images: dict[str, ImageSet] = {}
    failed = []
    for cell in cells:
        folder, settings = RunFolder(out / cell.name), cell.config.data
        if folder.final or folder.failure:
            folder.reopen(cell.config)
        if folder.failure:
            reporter.note(f"{folder.path}: failed before, skipped: {folder.failure['message']}")
            failed.append(cell.name)
            continue
        if folder.final:
            continue
        if settings.dataset not in images:
            images[settings.dataset] = load(settings.dataset, data, verify=settings.verify)
        try:
            run(
                cell.config,
                folder,
                device=device,
                resume=folder.checkpoint if folder.checkpoint.exists() else None,
                reporter=reporter,
                images=images[settings.dataset],
            )
        except LossError as error:
            reporter.note(f"failed: {error}")
            failed.append(cell.name)
        after_each()
    return failed


def finished(out: Path) -> dict[str, list[dict[str, Any]]]:
    """All rows of every finished run in a folder, by the run's name."""
    folders = [RunFolder(path.parent) for path in sorted(out.glob("*/metrics.jsonl"))]
    return {folder.path.name: folder.rows() for folder in folders if folder.final}


def failures(out: Path) -> dict[str, str]:
    """What the failed runs in a folder said, by the run's name."""
    folders = [RunFolder(path.parent) for path in sorted(out.glob("*/failure.json"))]
    return {folder.path.name: folder.failure["message"] for folder in folders if folder.failure}
