"""Recorded rows, a JSON object a line of benchmarks/results/<machine>/*.jsonl; selections."""

import json
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

Row = dict[str, Any]

RESULTS = Path(__file__).parent / "results"


def read(path: Path) -> list[Row]:
    """The rows of a file, in order; none if there is no file."""
    if not path.exists():
        return []
    return [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines() if line]


def read_machine(folder: Path) -> list[Row]:
    """The rows of every file of a machine's folder."""
    return [row for path in sorted(folder.glob("*.jsonl")) for row in read(path)]


def pick(rows: Iterable[Row], **fields: object) -> list[Row]:
    """The rows whose fields have these values."""
    return [row for row in rows if all(row.get(name) == value for name, value in fields.items())]


def latest(rows: Sequence[Row]) -> list[Row]:
    """Of each group the rows of the commit measured last; of those that name one case, the last."""
    last_commit = {row.get("group"): row.get("commit") for row in rows}
    found: dict[str, Row] = {}
    for row in rows:
        if row.get("commit") == last_commit[row.get("group")]:
            key = json.dumps([row.get(name) for name in _CASE])
            found.pop(key, None)  # a case keeps the place of its last row
            found[key] = row
    return list(found.values())


_CASE = (
    *("group", "shape", "dtype", "device", "mode", "provider"),
    *("method", "dim", "batch", "arm"),  # of a training step
)
