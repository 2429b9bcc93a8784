"""The losses of an epoch's steps: their means, and a stop where one is not finite."""

import math
from typing import Any, NamedTuple

import torch
import torch.distributed as dist
from torch import Tensor

from benchmarks.ssl.config import Config
from benchmarks.ssl.parallel import spread
from benchmarks.ssl.step import Parts


class Means(NamedTuple):
    """Of an epoch, as floats."""

    total: float
    method: float
    uniformity: float


class LossError(RuntimeError):
    """A loss that is not finite."""

    def __init__(self, step: int, parts: Means) -> None:
        super().__init__(f"the loss is not finite at step {step}")
        self.step, self.parts = step, parts
        self.where: dict[str, Any] = {}

    def explain(self, config: Config, epoch: int, weight: float, checkpoint: str) -> None:
        """Say where in the run, from which parts, and what there is to go back to."""
        kind = {"none": "no uniformity loss", "lu": "L_U", "w2": "W2"}[config.uniformity.kind]
        self.args = (
            f"{config.name()}: the loss is not finite at step {self.step} of epoch {epoch + 1}: "
            f"{config.build_method().name} {self.parts.method:g}, {kind} {self.parts.uniformity:g} "
            f"with weight {weight:g}, in all {self.parts.total:g}; {checkpoint}",
        )
        self.where = {"epoch": epoch + 1, "weight": weight}

    def row(self) -> dict[str, Any]:
        """For the run's folder; figures as text, which JSON has for NaN."""
        parts = {name: str(value) for name, value in self.parts._asdict().items()}
        return {"step": self.step, "parts": parts, "message": str(self)} | self.where


class Watch:
    """Collects steps' losses on the device and reads them every `check_every` steps.

    With several processes the losses read are the means over them, so that all stop together.
    """

    def __init__(self, check_every: int) -> None:
        self.check_every = check_every
        self._unread: list[Tensor] = []  # (3,) each
        self._sums = [0.0, 0.0, 0.0]
        self._steps = 0
        self._seconds = 0.0

    def add(self, parts: Parts) -> None:
        """A step's; LossError if one that is read now is not finite."""
        self._unread.append(torch.stack(parts).double())
        if len(self._unread) >= self.check_every:
            self.check()

    def check(self) -> None:
        """Read what was not read yet."""
        if not self._unread:
            return
        found = torch.stack(self._unread)  # (steps, 3)
        self._unread = []
        if spread():
            dist.all_reduce(found)
            found /= dist.get_world_size()
        for values in found.tolist():
            self._steps += 1
            if not all(map(math.isfinite, values)):
                raise LossError(self._steps, Means(*values))
            self._sums = [total + value for total, value in zip(self._sums, values, strict=True)]

    def took(self, seconds: float) -> None:
        """Time of steps of this epoch, read ones."""
        self._seconds += seconds

    def finish(self) -> tuple[Means, float]:
        """Means and seconds of the epoch's steps; the next epoch starts from nothing."""
        self.check()
        means = Means(*(total / self._steps for total in self._sums))
        seconds = self._seconds
        self._sums, self._steps, self._seconds = [0.0, 0.0, 0.0], 0, 0.0
        return means, seconds

    def state(self) -> dict[str, Any]:
        """For a checkpoint, with nothing unread."""
        self.check()
        return {"sums": list(self._sums), "steps": self._steps, "seconds": self._seconds}

    def restore(self, state: dict[str, Any]) -> None:
        """From a checkpoint."""
        self._sums, self._steps = list(state["sums"]), state["steps"]
        self._seconds, self._unread = state["seconds"], []
