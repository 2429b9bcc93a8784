"""A group: providers timed side by side at one shape, with the floor of the same rounds."""

import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from benchmarks.floors import Floor
from benchmarks.harness import ROUNDS, Case, Timing, measure, rows

OURS = "wssl_fast"

Cases = Callable[[tuple[int, ...], torch.device], list[Case]]
Inputs = Callable[[tuple[int, ...]], list[Tensor]]


def is_ours(provider: str) -> bool:
    """The package, by whichever of its solvers."""
    return provider.replace(",", " ").split()[0] == OURS


@dataclass(frozen=True)
class Group:
    """Providers of one family at one shape: what `run` times, and what a row calls it."""

    family: str
    shape: tuple[int, ...]
    mode: str
    providers: tuple[str, ...]
    cases: Cases
    inputs: Inputs
    floor: Floor
    dtype: str = "float32"
    rounds: int = ROUNDS
    seconds: float = 2.0
    """Share of each provider that names none of its own."""

    @property
    def name(self) -> str:
        """As "W2 forward 512 x 8192"."""
        mode = "" if self.mode == "forward+backward" else f" {self.mode}"
        dtype = "" if self.dtype == "float32" else f" {self.dtype}"
        return f"{self.family}{mode}{dtype} {' x '.join(map(str, self.shape))}"

    def run(self, device: torch.device) -> "Measured":
        """Measure the group, and its floor in the same rounds."""
        started = time.perf_counter()
        inputs = [z.to(device) for z in self.inputs(self.shape)]
        cases = self.cases(self.shape, device) + self.floor.cases(
            inputs[0].to(getattr(torch, self.dtype))
        )
        if self.dtype != "float32":
            cases = [_widened(case, self.dtype) if case.part else case for case in cases]
        timings = measure(cases, inputs, rounds=self.rounds, seconds_per_case=self.seconds)
        wall = time.perf_counter() - started
        return Measured(self, timings, self.floor.seconds(timings), device.type, wall)


def _widened(case: Case, dtype: str) -> Case:
    """A part on rows that are in `dtype` already: one set, made outside the timer."""
    converted: list[Tensor] = []

    def run(z: Tensor) -> object:
        if not converted:
            converted.append(z.to(getattr(torch, dtype)))
        return case.run(converted[0])

    return Case(case.provider, run, part=True)


@dataclass(frozen=True)
class Measured:
    """A group's timings, the floor of the same run and what all of it took, in seconds."""

    group: Group
    timings: Mapping[str, Timing]
    floor: float
    device: str
    wall: float

    def rows(self) -> list[dict[str, object]]:
        """One row a provider and part."""
        group = self.group
        return rows(
            group.family,
            group.shape,
            self.timings,
            mode=group.mode,
            dtype=group.dtype,
            device=self.device,
            floor=self.floor,
        )


def merged(*many: Sequence[str]) -> tuple[str, ...]:
    """Names in order, each once."""
    return tuple(dict.fromkeys(name for names in many for name in names))
