"""Rows of a run: JSON lines, one at a time, each with where and with what it was measured."""

import json
import os
import time
from collections.abc import Iterator, Mapping
from datetime import UTC, datetime
from functools import cache
from pathlib import Path

import torch

from benchmarks import machine
from benchmarks.harness import Timing

COMMIT_VARIABLE = "WSSL_BENCH_COMMIT"  # where the tree that is measured has no history

Row = dict[str, object]

FIELDS = (
    *("group", "tier", "shape", "dtype", "mode", "provider", "call"),
    *("rounds", "min_ms", "p20_ms", "p50_ms", "p80_ms", "floor_ms", "time_over_floor"),
    *("modelled_ms", "time_over_modelled"),
    *("peak_bytes", "launches", "value_error", "gradient_error", "weights_error"),
    *("wrong", "error", "skipped", "extrapolated", "note"),
)
"""Of a row of the sweep, null where they do not apply. `wrong`: why a result is not to be trusted,
`error`: what was raised, `skipped`: why nothing was tried."""


def row(**fields: object) -> Row:
    """A row of the sweep with every field."""
    unknown = fields.keys() - set(FIELDS)
    if unknown:
        raise TypeError(f"no such fields of a row: {', '.join(sorted(unknown))}")
    return dict.fromkeys(FIELDS) | fields


def root_row(k: int | None) -> Row:
    """A row of the k x k problem alone, or of none, otherwise empty. float32: the grade."""
    return row(group="root", shape=[k, k] if k else None, dtype="float32", mode="root")


class Rows:
    """A file that rows are appended to, each on disk at once."""

    def __init__(self, path: Path, device: torch.device) -> None:
        self.path = path
        self._where = where(device)
        path.parent.mkdir(parents=True, exist_ok=True)

    def add(self, row: Mapping[str, object]) -> None:
        """One row, with its place and time."""
        when = {"when": datetime.now(UTC).isoformat(timespec="seconds")}
        line = json.dumps({**row, **self._where, **when}) + "\n"
        with self.path.open("a+b") as file:
            if file.tell() and not _ends_line(self.path):
                file.write(b"\n")  # a worker was stopped while it wrote
            file.write(line.encode())


def read(path: Path) -> list[Row]:
    """All whole rows of a file; none if there is no file."""
    return list(_whole(path)) if path.exists() else []


def _whole(path: Path) -> Iterator[Row]:
    for line in path.read_text(encoding="utf-8").splitlines():
        try:
            row = json.loads(line)
        except json.JSONDecodeError:
            continue  # cut off by the end of a worker
        if isinstance(row, dict):
            yield row


def _ends_line(path: Path) -> bool:
    with path.open("rb") as file:
        file.seek(-1, os.SEEK_END)
        return file.read(1) == b"\n"


def times(timing: Timing) -> Row:
    """Percentiles and the least, in milliseconds; None if not timed. And how many rounds."""
    found: Row = {"rounds": len(timing.samples), "wrong": timing.wrong}
    for percent in (20, 50, 80):
        found[f"p{percent}_ms"] = milliseconds(timing.percentile(percent))
    found["min_ms"] = milliseconds(min(timing.samples, default=float("nan")))
    return found


def milliseconds(seconds: float) -> float | None:
    """NaN is not JSON: None."""
    return None if seconds != seconds else round(seconds * 1e3, 5)


def finite(number: float) -> float | None:
    """A number that JSON has, to three digits, or None."""
    return float(f"{number:.3e}") if abs(number) < float("inf") else None


@cache
def where(device: torch.device) -> Row:
    """Hardware, versions and commit."""
    hardware: Row = dict(machine.hardware())
    versions: Row = dict(machine.versions())
    if device.type == "cuda":
        properties = torch.cuda.get_device_properties(device)
        hardware |= {
            "gpu": properties.name,
            "architecture": f"sm_{properties.major}{properties.minor}",
            "multiprocessors": properties.multi_processor_count,
            "gpu_memory_gib": round(properties.total_memory / 2**30),
            "gpu_cache_mib": properties.L2_cache_size / 2**20,
        }
        versions["cuda"] = torch.version.cuda
    try:
        import triton
    except ImportError:
        pass
    else:
        versions["triton"] = triton.__version__
    commit = os.environ.get(COMMIT_VARIABLE) or machine.commit()
    return {"hardware": hardware, "versions": versions, "commit": commit}


class Log:
    """Lines on the terminal and in a file, each with the time that is left."""

    def __init__(self, path: Path, deadline: float) -> None:
        self.path, self.deadline = path, deadline
        path.parent.mkdir(parents=True, exist_ok=True)

    def left(self) -> float:
        """Seconds until the deadline."""
        return self.deadline - time.time()

    def say(self, text: str) -> None:
        """One progress line."""
        self.write(f"[{max(self.left(), 0):4.0f} s left] {text}")

    def write(self, text: str) -> None:
        """As it is."""
        print(text, flush=True)
        with self.path.open("a", encoding="utf-8") as file:
            file.write(text + "\n")
