"""The numbers of the paper's figures, and how ours compare.

A number stands as it was printed, so that its last digit says how far it may be rounded. It comes
with the sample size that it was drawn from. Ours may have another one (`--quick`, or a paper's
figure whose numbers are not those of the sample size it states: docs/paper.md): the shift between
the two, known in closed form, is taken off before the difference is judged.
"""

import csv
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from decimal import Decimal
from pathlib import Path

Value = float | str
Row = dict[str, Value]


@dataclass(frozen=True)
class Expected:
    """What theory says of a sampled number: its value at a sample size, and how far a sample may
    stray from it (four standard deviations)."""

    value: float
    error: float = 0.0


@dataclass(frozen=True)
class Comparison:
    """A published number beside ours.

    Attributes:
        figure, quantity, at: where it stands, as ("3", "W2", "m = 200, eta = 80 %").
        published: as printed.
        ours: the same quantity here.
        theirs_expected, ours_expected: closed forms at either sample size.
    """

    figure: str
    quantity: str
    at: str
    published: str
    ours: float
    theirs_expected: Expected
    ours_expected: Expected

    @property
    def rounding(self) -> float:
        """Half a unit of the last printed digit."""
        return 0.5 * 10.0 ** Decimal(self.published).as_tuple().exponent  # type: ignore[operator]

    @property
    def difference(self) -> float:
        """Ours less the published number."""
        return self.ours - float(self.published)

    @property
    def unexplained(self) -> float:
        """The difference without what the two sample sizes account for."""
        return self.difference - (self.ours_expected.value - self.theirs_expected.value)

    @property
    def tolerance(self) -> float:
        """Rounding of the published number, its Monte-Carlo error, and ours."""
        return self.rounding + self.theirs_expected.error + self.ours_expected.error

    @property
    def reproduced(self) -> bool:
        return abs(self.unexplained) <= self.tolerance

    def row(self) -> Row:
        """For the CSV."""
        return {
            "figure": self.figure,
            "quantity": self.quantity,
            "at": self.at,
            "published": self.published,
            "ours": f"{self.ours:.6g}",
            "difference": f"{self.difference:.2e}",
            "unexplained": f"{self.unexplained:.2e}",
            "tolerance": f"{self.tolerance:.2e}",
            "reproduced": "yes" if self.reproduced else "no",
        }


def pick(rows: Iterable[Row], **at: Value) -> Row:
    """The one row with these values."""
    found = [row for row in rows if all(row[name] == value for name, value in at.items())]
    if len(found) != 1:
        raise LookupError(f"{len(found)} rows with {at}")
    return found[0]


def write_csv(path: Path, rows: Sequence[Mapping[str, Value]]) -> None:
    """Rows with the same columns; floats to ten digits."""
    with path.open("w", newline="", encoding="utf-8") as file:
        writer = csv.DictWriter(file, fieldnames=list(rows[0]), lineterminator="\n")
        writer.writeheader()
        for row in rows:
            writer.writerow(
                {name: f"{v:.10g}" if isinstance(v, float) else v for name, v in row.items()}
            )


def read_csv(path: Path) -> list[Row]:
    """Rows of a file written by `write_csv`, numbers as floats."""
    with path.open(newline="", encoding="utf-8") as file:
        return [{name: _number(cell) for name, cell in row.items()} for row in csv.DictReader(file)]


def _number(cell: str) -> Value:
    try:
        return float(cell)
    except ValueError:
        return cell
