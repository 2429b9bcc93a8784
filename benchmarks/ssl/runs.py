"""The folder of a run: configuration, metrics as JSON lines, checkpoint, figures."""

import json
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from benchmarks.records import Row, read
from benchmarks.ssl import checkpoint
from benchmarks.ssl.config import Config, from_dict

CONFIG, METRICS, FAILURE = "config.json", "metrics.jsonl", "failure.json"


class RunError(RuntimeError):
    """A run folder that is not what is asked of it."""


class RunFolder:
    """One run on disk. Rows have a `kind`: epoch, evaluation or final."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.checkpoint = path / checkpoint.NAME

    @property
    def config(self) -> Config:
        """As the run was started with."""
        path = self.path / CONFIG
        if not path.exists():
            raise RunError(f"{self.path}: no {CONFIG} in it, so it is no run's folder")
        return from_dict(json.loads(path.read_text(encoding="utf-8")))

    def rows(self, kind: str | None = None) -> list[Row]:
        """What was measured so far, all or of one kind."""
        rows = read(self.path / METRICS)
        return rows if kind is None else [row for row in rows if row["kind"] == kind]

    @property
    def final(self) -> Row | None:
        """The row of a finished run; None before that."""
        rows = self.rows("final")
        return rows[-1] if rows else None

    @property
    def failure(self) -> Row | None:
        """Why the run stopped for good, if it did."""
        path = self.path / FAILURE
        return json.loads(path.read_text(encoding="utf-8")) if path.exists() else None

    def start(self, config: Config) -> None:
        """Make the folder; one that holds a checkpoint is an error, what left none starts anew."""
        if self.checkpoint.exists() or self.final:
            raise RunError(
                f"{self.path}: there is a run in it already: --resume continues it, another --out "
                "starts a new one"
            )
        self.path.mkdir(parents=True, exist_ok=True)
        for name in (METRICS, FAILURE):
            (self.path / name).unlink(missing_ok=True)
        write_whole(self.path / CONFIG, config.to_json())

    def reopen(self, config: Config) -> None:
        """Check that the run there has this configuration."""
        differences = list(_different(self.config.model_dump(), config.model_dump()))
        if differences:
            raise RunError(
                f"{self.path}: its run has another configuration: {'; '.join(differences)}"
            )

    def append(self, row: Mapping[str, Any]) -> None:
        """One line, in full or not at all visible to a reader of lines."""
        with (self.path / METRICS).open("a", encoding="utf-8") as file:
            file.write(json.dumps(row, allow_nan=False) + "\n")
            file.flush()

    def keep_until(self, epoch: int) -> None:
        """Drop rows of later epochs, which are about to be made again, and a failure."""
        rows = [row for row in self.rows() if row["epoch"] <= epoch and row["kind"] != "final"]
        write_whole(self.path / METRICS, "".join(json.dumps(row) + "\n" for row in rows))
        (self.path / FAILURE).unlink(missing_ok=True)

    def fail(self, row: Mapping[str, Any]) -> None:
        """Say why there will be no final row."""
        write_whole(self.path / FAILURE, json.dumps(row, indent=2) + "\n")


def write_whole(path: Path, text: str) -> None:
    """At once: a reader sees the old content or the new."""
    fresh = path.with_name(f"{path.name}.{os.getpid()}.writing")
    fresh.write_text(text, encoding="utf-8")
    os.replace(fresh, path)


def _different(ours: Any, theirs: Any, name: str = "") -> Any:
    if isinstance(ours, dict) and isinstance(theirs, dict):
        for key in sorted(ours.keys() | theirs.keys()):
            inner = f"{name}.{key}" if name else key
            yield from _different(ours.get(key), theirs.get(key), inner)
    elif ours != theirs:
        yield f"{name} is {ours!r} there and {theirs!r} here"
