"""What a run says while it runs: a bar for the epoch's steps, a line for every row."""

from typing import Any

from rich.console import Console
from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    Progress,
    TaskID,
    TextColumn,
    TimeElapsedColumn,
    TimeRemainingColumn,
)


class Reporter:
    """On a console; off a terminal the lines alone."""

    def __init__(self, console: Console) -> None:
        self.console = console
        self._progress: Progress | None = None
        self._steps: TaskID | None = None
        self._probe: TaskID | None = None
        self._per_epoch = 1

    def note(self, text: str) -> None:
        """A line."""
        self.console.print(text, markup=False, highlight=False, soft_wrap=True)

    def begin(self, name: str, epochs: int, steps_per_epoch: int) -> None:
        """The bar of the whole run."""
        columns = (
            TextColumn("{task.description}"),
            BarColumn(),
            MofNCompleteColumn(),
            TimeElapsedColumn(),
            TimeRemainingColumn(),
        )
        self._per_epoch = steps_per_epoch
        self._progress = Progress(
            *columns, console=self.console, transient=True, disable=not self.console.is_terminal
        )
        self._progress.start()
        self._steps = self._progress.add_task(name, total=epochs * steps_per_epoch)

    def step(self, epoch: int, step: int) -> None:
        """So many steps of the epoch after `epoch` whole ones are done."""
        if self._progress and self._steps is not None:
            self._progress.update(self._steps, completed=epoch * self._per_epoch + step)

    def probe(self, epoch: int, epochs: int) -> None:
        """Epochs of the linear probe."""
        if self._progress:
            if self._probe is None:
                self._probe = self._progress.add_task("linear probe", total=epochs)
            self._progress.update(self._probe, completed=epoch)

    def row(self, row: dict[str, Any]) -> None:
        """A row of metrics as a line."""
        self.note(line_of(row))

    def end(self) -> None:
        """Take the bars away."""
        if self._progress:
            self._progress.stop()
        self._progress = self._steps = self._probe = None


class Quiet(Reporter):
    """Says nothing."""

    def __init__(self) -> None:
        super().__init__(Console(quiet=True))


def line_of(row: dict[str, Any]) -> str:
    """The figures of a row that a person follows."""
    if row["kind"] == "epoch":
        beside = ""
        if row["weight"] or row["uniformity_loss"]:
            beside = (
                f" = {row['method_loss']:.4g} + {row['weight']:g} x {row['uniformity_loss']:.4g}"
            )
        return f"epoch {row['epoch']}: loss {row['loss']:.4g}{beside}, {row['seconds']:.1f} s"
    probe = ""
    if row.get("acc1") is not None:
        probe = f"linear Acc@1 {row['acc1']:.2f} %, Acc@5 {row['acc5']:.2f} %, "
    return (
        f"epoch {row['epoch']}: {probe}kNN {row['knn']:.2f} %, W2 {row['w2']:.3f} (as many uniform "
        f"points: {row['w2_floor']:.3f}), L_U {row['uniformity']:.3f}, alignment "
        f"{row['alignment']:.3f}, effective rank {row['effective_rank']:.1f}"
    )
