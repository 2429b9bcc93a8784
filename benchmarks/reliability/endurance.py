"""Many calls in one process: what it holds after each thousand of them.

The process that is measured makes calls and nothing else: `watch` starts it, and it writes a sample
a line. Tables and pictures are another process's objects.
"""

import gc
import json
import os
import subprocess
import sys
from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from benchmarks.reliability import flat
from benchmarks.reliability.calls import Caller

PROC = Path("/proc/self")
WARM_UP, WARM_TURNS = (
    0.1,
    4,
)  # a tenth of the calls before the first sample, 4 of each kind at least


@dataclass(frozen=True)
class Sample:
    """What a process holds after `calls` calls."""

    calls: int
    resident: int  # bytes
    threads: int
    files: int
    objects: dict[str, int]  # by type, of those that the collector knows


def sample(calls: int) -> Sample:
    """Of this process, now."""
    gc.collect()
    return Sample(
        calls,
        int((PROC / "statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE"),
        len(os.listdir(PROC / "task")),
        len(os.listdir(PROC / "fd")),
        dict(Counter(type(each).__qualname__ for each in gc.get_objects())),
    )


def cycles(call: Callable[[], object]) -> dict[str, int]:
    """What one call leaves that only the collector frees, by type. A call before it warms up.

    Of this process: one that has compiled functions or lost threads holds cycles whose finalizers
    leave others, for several collections; a fresh process tells what is the call's.
    """
    call()
    gc.collect()
    gc.disable()
    try:
        call()
        gc.set_debug(gc.DEBUG_SAVEALL)
        gc.collect()
        return dict(Counter(type(each).__qualname__ for each in gc.garbage))
    finally:
        gc.set_debug(0)
        gc.garbage.clear()
        gc.enable()


def run(call: Callable[[], object], calls: int, every: int, warm_up: int) -> Iterator[Sample]:
    """A sample before the first of `calls` calls and one each `every`, after a warm-up."""
    for _ in range(warm_up):
        call()
    json.dumps(asdict(sample(0)))  # what the first one itself allocates
    yield sample(0)
    for done in range(every, calls + 1, every):
        for _ in range(every):
            call()
        yield sample(done)


def warm_up(calls: int, caller: Caller) -> int:
    return max(int(WARM_UP * calls), WARM_TURNS * len(caller.kinds))


def watch(calls: int, every: int, seed: int) -> Iterator[Sample]:
    """The samples of a process of its own, as they come."""
    command = [sys.executable, "-m", __name__, str(calls), str(every), str(seed)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        try:
            for line in process.stdout:
                yield Sample(**json.loads(line))
        except BaseException:
            process.terminate()
            raise
    if process.returncode:
        raise subprocess.CalledProcessError(process.returncode, command)


@dataclass
class Samples:
    """The samples of a run, by column."""

    calls: list[int] = field(default_factory=list)
    resident: list[int] = field(default_factory=list)
    threads: list[int] = field(default_factory=list)
    files: list[int] = field(default_factory=list)
    objects: dict[str, list[int]] = field(default_factory=dict)

    @classmethod
    def of(cls, found: Iterable[Sample]) -> "Samples":
        samples = cls()
        for each in found:
            samples.add(each)
        return samples

    def add(self, found: Sample) -> None:
        for name in found.objects.keys() | self.objects.keys():
            column = self.objects.setdefault(name, [0] * len(self.calls))
            column.append(found.objects.get(name, 0))
        for name in ("calls", "resident", "threads", "files"):
            getattr(self, name).append(getattr(found, name))

    @property
    def objects_in_all(self) -> list[int]:
        return [sum(each) for each in zip(*self.objects.values(), strict=True)]

    def verdicts(self, kinds: int) -> list[flat.Verdict]:
        """Every rule of `flat`, on a run that took `kinds` kinds of call in turn."""
        turns = (self.calls[-1] - self.calls[0]) / kinds
        return [
            *flat.memory(self.calls, self.resident),
            flat.constant("threads", self.threads),
            flat.constant("open files", self.files),
            flat.objects(self.objects, turns),
        ]

    def columns(self) -> dict[str, Any]:
        """For a file; of the types only those whose count ever changed."""
        moved = {name: each for name, each in self.objects.items() if len(set(each)) > 1}
        return {
            "calls": self.calls,
            "resident": self.resident,
            "threads": self.threads,
            "files": self.files,
            "objects": self.objects_in_all,
            "objects by type, where they moved": moved,
        }


def main() -> None:
    calls, every, seed = map(int, sys.argv[1:])
    caller = Caller(seed)
    for each in run(caller, calls, every, warm_up(calls, caller)):
        print(json.dumps(asdict(each)), flush=True)


if __name__ == "__main__":
    main()
