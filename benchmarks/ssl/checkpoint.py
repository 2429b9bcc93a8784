"""Checkpoints: written whole or not at all, read whole or not at all.

A file is one line of JSON (format, position, length and SHA-256 of what follows), then `torch.save`
of tensors and plain values, read back with `weights_only=True`. It is written under another name,
flushed to the disk and renamed; the one before it stays beside it as `<name>.previous`.
"""

import hashlib
import io
import json
import os
from dataclasses import dataclass
from pathlib import Path
from pickle import UnpicklingError
from typing import Any

import torch
from torch import Tensor, nn

FORMAT = 1
NAME = "checkpoint.pt"
HEADER = {"epoch": int, "step": int, "length": int, "sha256": str}


class CheckpointError(RuntimeError):
    """A checkpoint that is missing, damaged or of another run."""

    def __init__(self, path: Path, problem: str) -> None:
        super().__init__(f"{path}: {problem}")


@dataclass(frozen=True)
class Position:
    """Where a run stands: `step` steps of the epoch after `epoch` whole ones are done."""

    epoch: int = 0
    step: int = 0

    def __str__(self) -> str:
        return f"after {self.epoch} epochs" + (f" and {self.step} steps" if self.step else "")


def previous(path: Path) -> Path:
    """Where the checkpoint before `path` is kept."""
    return path.with_name(path.name + ".previous")


def write(path: Path, position: Position, content: dict[str, Any]) -> None:
    """Put the checkpoint in place of the one before, which stays beside it."""
    buffer = io.BytesIO()
    torch.save(content, buffer)
    body = buffer.getvalue()
    header = {
        "format": FORMAT,
        "epoch": position.epoch,
        "step": position.step,
        "length": len(body),
        "sha256": hashlib.sha256(body).hexdigest(),
    }
    fresh = path.with_name(path.name + ".writing")
    with fresh.open("wb") as file:
        file.write(json.dumps(header).encode() + b"\n")
        file.write(body)
        file.flush()
        os.fsync(file.fileno())
    if path.exists():
        _keep(path)
    os.replace(fresh, path)
    folder = os.open(path.parent, os.O_RDONLY)
    try:
        os.fsync(folder)
    finally:
        os.close(folder)


def _keep(path: Path) -> None:
    """The file under its second name; the first one stays, where the file system has links."""
    kept = previous(path)
    kept.unlink(missing_ok=True)
    try:
        os.link(path, kept)
    except OSError:
        os.replace(path, kept)


def read(path: Path, device: torch.device) -> tuple[Position, dict[str, Any]]:
    """Position and content, after length and checksum were found right."""
    try:
        with path.open("rb") as file:
            first, body = file.readline(4096), file.read()
    except FileNotFoundError as error:
        raise CheckpointError(path, "no such file" + _instead(path)) from error
    except OSError as error:
        raise CheckpointError(path, f"cannot be read ({error.strerror or error})") from error
    header = _header(path, first)
    if len(body) != header["length"]:
        problem = f"cut: {len(body):,} bytes, its first line promises {header['length']:,}"
        raise CheckpointError(path, problem + _instead(path))
    if hashlib.sha256(body).hexdigest() != header["sha256"]:
        raise CheckpointError(
            path, "damaged: SHA-256 differs from its first line's" + _instead(path)
        )
    try:
        content = torch.load(io.BytesIO(body), map_location=device, weights_only=True)
    except UnpicklingError as error:
        problem = "refused: it holds something else than tensors and plain values"
        raise CheckpointError(path, problem + _instead(path)) from error
    except Exception as error:  # whatever else a body with a right checksum can make it raise
        problem = f"cannot be loaded ({type(error).__name__}: {error})"
        raise CheckpointError(path, problem + _instead(path)) from error
    return Position(header["epoch"], header["step"]), content


def _header(path: Path, line: bytes) -> dict[str, Any]:
    try:
        header = json.loads(line)
        known = header["format"]
        for key, kind in HEADER.items():
            if type(header[key]) is not kind:
                raise TypeError(f"{key} is {header[key]!r}")
    except (ValueError, KeyError, TypeError) as error:
        problem = "not a checkpoint of this program, or its first line is damaged"
        raise CheckpointError(path, problem + _instead(path)) from error
    if known != FORMAT:
        raise CheckpointError(path, f"format {known}, this program reads {FORMAT}")
    return header


def _instead(path: Path) -> str:
    """The way out, if there is one."""
    other = previous(path)
    if not other.exists():
        return ""
    return f"; the one before it is {other}: --resume {other} continues from there"


def load_into(module: nn.Module, state: dict[str, Tensor], path: Path) -> None:
    """Every tensor or none: names and shapes are compared before the first is copied."""
    own = module.state_dict()
    missing, unknown = own.keys() - state.keys(), state.keys() - own.keys()
    other = [name for name in own.keys() & state.keys() if own[name].shape != state[name].shape]
    if missing or unknown or other:
        faults = {"missing": missing, "unknown": unknown, "of another shape": other}
        said = "; ".join(
            f"{len(names)} {kind} (as {min(names)})" for kind, names in faults.items() if names
        )
        raise CheckpointError(path, f"tensors of another network: {said}")
    module.load_state_dict(state)
