"""`python -m benchmarks.demo`: tables in the terminal, demo.png and demo.md in a folder.

`--quick` runs every part in seconds on the digits, at tiny settings: for tests, not for figures.
"""

import argparse
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn

from benchmarks.data import DataFileError, ImageSet, load_digits, load_images
from benchmarks.demo import picture, speed, training, truth
from benchmarks.demo.speed import SpeedSettings
from benchmarks.demo.tables import Table
from benchmarks.machine import hardware, versions
from benchmarks.ssl_small import Recipe, RunReport, arms, train

WIDTH = 110


@dataclass(frozen=True)
class DemoSettings:
    """Everything the demo can be asked for."""

    truth_shapes: Sequence[tuple[int, int]] = ((512, 2048), (2048, 512))
    speed: SpeedSettings = field(default_factory=SpeedSettings)
    recipe: Recipe = field(default_factory=Recipe)
    w2_weight: tuple[float, float] = (300.0, 300.0)  # at the first epoch, after the last


QUICK = DemoSettings(
    truth_shapes=((32, 64), (64, 32)),
    speed=SpeedSettings(n=32, dimensions=(16, 32, 64), cosine_dimension=64, seconds_per_case=0.05),
    recipe=Recipe(
        epochs=2, train_count=128, test_count=64, batch_size=32, width=4, projector_dim=32
    ),
)


def run(settings: DemoSettings, images: ImageSet, out: Path, console: Console) -> list[Table]:
    """All four parts; returns the tables that were printed and written to `out`/demo.md."""
    started = time.perf_counter()
    console.print(f"images: {images}\n")
    tables: list[Table] = []

    def show(table: Table) -> None:
        tables.append(table)
        console.print(table.rich())

    with _progress(console) as progress:
        shapes = settings.truth_shapes
        step = _task(progress, "against float64", len(shapes) * len(truth.BATCHES))
        found = truth.compare(shapes, step)
    show(found)

    with _progress(console) as progress:
        step = _task(progress, "times beside peers", len(settings.speed.dimensions))
        curves = speed.time_all(settings.speed, step)
        step = _task(progress, "gradients of peers", len(speed.PROVIDERS))
        cosines = speed.gradient_cosines(settings.speed, step)
    show(speed.table(settings.speed, curves, cosines))

    runs: dict[str, RunReport] = {}
    with _progress(console) as progress:
        for name, recipe in arms(settings.recipe, settings.w2_weight).items():
            task = progress.add_task(name, total=None)
            runs[name] = train(
                recipe,
                images,
                on_step=lambda done, total, task=task: progress.update(
                    task, completed=done, total=total
                ),
            )
    show(training.table(runs, images))

    picture.draw(out / "demo.png", settings.speed, curves, runs)
    (out / "demo.md").write_text(_markdown(tables), encoding="utf-8")
    console.print(
        f"[bold]{out / 'demo.png'}[/] and {out / 'demo.md'} written, "
        f"{time.perf_counter() - started:.0f} s in all"
    )
    return tables


def _markdown(tables: Sequence[Table]) -> str:
    where = hardware()
    made = ", ".join(f"{name} {version}" for name, version in versions().items())
    place = f"{where['cpu']} ({where['generation']}), {where['threads']} threads"
    return "\n".join([table.markdown() for table in tables] + [f"Measured on {place}; {made}.\n"])


def _progress(console: Console) -> Progress:
    return Progress(
        TextColumn("{task.description:<20}"),
        BarColumn(),
        MofNCompleteColumn(),
        TimeElapsedColumn(),
        console=console,
    )


def _console() -> Console:
    """At least as wide as the tables: a file or a narrow terminal gets long lines."""
    console = Console()
    return console if console.width >= WIDTH else Console(width=WIDTH)


def _task(progress: Progress, name: str, total: int) -> Callable[[], None]:
    """A bar, and the call that moves it one step on."""
    task = progress.add_task(name, total=total)
    return lambda: progress.advance(task)


def main(arguments: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.demo", description=__doc__)
    parser.add_argument("--out", type=Path, default=Path("build/demo"), help="folder written to")
    parser.add_argument("--data", help="folder of Fashion-MNIST's idx files (default: $DATA)")
    parser.add_argument("--quick", action="store_true", help="seconds, on the digits; for tests")
    given = parser.parse_args(arguments)
    settings = QUICK if given.quick else DemoSettings()
    try:
        images = load_digits() if given.quick and not given.data else load_images(given.data)
    except DataFileError as error:
        parser.exit(2, f"{error}\n")
    given.out.mkdir(parents=True, exist_ok=True)
    run(settings, images, given.out, _console())


if __name__ == "__main__":
    main()
