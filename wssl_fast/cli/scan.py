"""One pass over files of embeddings: moments, a sample of the rows, and the rows left out."""

from collections.abc import Sequence
from dataclasses import dataclass, field

from rich.console import Console
from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    Progress,
    TextColumn,
    TimeRemainingColumn,
)
from torch import Tensor

from wssl_fast.backends.eager import products
from wssl_fast.cli.readers import InputError, Source
from wssl_fast.metrics import Moments, RowSample

BLOCK_ROWS = 8192  # as many as one product of Moments takes
NAMED_ROWS = 100  # of each file


@dataclass
class Rejected:
    """Rows of one file with a NaN or an infinity."""

    file: str
    count: int = 0
    rows: list[int] = field(default_factory=list)
    """The first of them, counted from 0."""

    def __str__(self) -> str:
        named = ", ".join(map(str, self.rows[:5]))
        more = ", ..." if self.count > 5 else ""
        return f"{self.file}: {self.count:,} (row{'s' if self.count > 1 else ''} {named}{more})"


@dataclass
class Scan:
    """What a pass over `sources` leaves."""

    sources: Sequence[Source]
    moments: Moments
    sample: RowSample
    rejected: list[Rejected]


def scan(
    sources: Sequence[Source],
    *,
    normalize: bool,
    precision: str,
    skip: bool,
    sample: int,
    seed: int,
    console: Console,
) -> Scan:
    """Reads every row once, with a bar on `console` where that is a terminal.

    Rows that are not finite are left out with `skip`. Without it the first one ends the
    accumulation, the rest is read for more of them, and an `InputError` names them all.
    """
    moments = Moments(normalize=normalize, precision=precision)
    rows = RowSample(sample, seed=seed)
    rejected: list[Rejected] = []
    with _bar(console) as bar:
        task = bar.add_task("", total=sum(source.rows for source in sources))
        for source in sources:
            bar.update(task, description=source.name)
            bad, first = Rejected(source.name), 0
            for block in source.blocks(BLOCK_ROWS):
                kept = _finite_rows(block, bad, first)
                if len(kept) and (skip or not (bad.count or rejected)):
                    moments.update(kept)
                    rows.update(kept)
                first += len(block)
                bar.advance(task, len(block))
            if first != source.rows:
                raise InputError(source.name, f"promises {source.rows:,} rows and has {first:,}")
            if bad.count:
                rejected.append(bad)
    if rejected and not skip:
        total = sum(bad.count for bad in rejected)
        raise InputError(
            "; ".join(map(str, rejected)),
            f"{total:,} row{'s' if total > 1 else ''} with NaN or infinity (--nan skip leaves such "
            "rows out)",
        )
    if moments.count == 0:
        raise InputError(", ".join(source.name for source in sources), "no finite row")
    return Scan(sources, moments, rows, rejected)


def _finite_rows(block: Tensor, bad: Rejected, first: int) -> Tensor:
    """The rows of a block without NaN and infinity; the others are noted. One pass over it."""
    wrong = products.inverse_norms(block).isnan()
    if not bool(wrong.any()):
        return block
    places = wrong.nonzero().flatten()
    bad.count += len(places)
    bad.rows += [first + int(i) for i in places[: NAMED_ROWS - len(bad.rows)]]
    return block[~wrong]


def _bar(console: Console) -> Progress:
    return Progress(
        TextColumn("{task.description}", markup=False),
        BarColumn(),
        MofNCompleteColumn(),
        TextColumn("rows"),
        TimeRemainingColumn(),
        # rich 13.0 ends a disabled bar with an empty line, which a closed pipe refuses
        console=console if console.is_terminal else Console(quiet=True),
        transient=True,
        disable=not console.is_terminal,
    )
