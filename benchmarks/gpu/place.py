"""Where a run writes, until when it goes on, and what it is to measure."""

from dataclasses import dataclass
from pathlib import Path

import torch

from benchmarks.gpu import providers as p
from benchmarks.gpu.plan import ROOT_SIZES, Case, plan
from benchmarks.gpu.rows import Log, Rows

REHEARSAL = "rehearsal"  # tier of its cases


@dataclass(frozen=True)
class Place:
    """A folder for few files, side by side, and a deadline."""

    folder: Path
    deadline: float
    """time.time()."""
    device: str = "cuda"
    shapes: tuple[str, ...] = ()
    """Cases of a rehearsal, as `48x80 float32`; none: the plan."""
    apart: Path | None = None
    """Folder of what nobody reads afterwards; none: beside the rest."""

    @property
    def rows(self) -> Path:
        return self.folder / "gpu.jsonl"

    @property
    def scratch(self) -> Path:
        return self.apart or self.folder / "scratch"

    @property
    def journal(self) -> Path:
        return self.scratch / "journal.txt"

    @property
    def root_journal(self) -> Path:
        return self.scratch / "journal_root.txt"

    @property
    def errors(self) -> Path:
        """What workers and the build write to stderr."""
        return self.folder / "errors.txt"

    def report(self, name: str) -> Path:
        """What a program that is not ours says: of tests, of a sanitizer."""
        return self.folder / f"{name}.txt"

    def cases(self) -> list[Case]:
        """What is to be measured, in order."""
        return [_rehearsed(text) for text in self.shapes] if self.shapes else plan()

    def roots(self) -> list[int]:
        """The k of the k x k problems to be measured, in order."""
        if not self.shapes:
            return list(ROOT_SIZES)
        return list(dict.fromkeys(case.n for case in self.cases() if case.n <= case.m))

    def arguments(self) -> list[str]:
        """For a worker."""
        shapes = [part for shape in self.shapes for part in ("--shape", shape)]
        place = ["--out", str(self.folder), "--scratch", str(self.scratch)]
        place += ["--deadline", str(self.deadline)]
        return [*place, "--device", self.device, *shapes]

    def logger(self) -> Log:
        return Log(self.folder / "log.txt", self.deadline)

    def writer(self) -> Rows:
        return Rows(self.rows, torch.device(self.device))


def _rehearsed(text: str) -> Case:
    shape, dtype = text.split()
    n, m = (int(part) for part in shape.split("x"))
    return Case(REHEARSAL, n, m, dtype, tuple(p.BY_NAME))
