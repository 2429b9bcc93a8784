"""`make bench-compare BASE=<git ref>`: this checkout beside another, in interleaved rounds.

BASE is checked out into a temporary worktree and its compiled part built there. One process a
checkout lives for the whole run and is told by a pipe what to call: A B B A A B B A ..., so that a
drift of the machine meets both alike. Two neighbouring calls make a pair; the ratio new/base is the
pairs' median, its spread their 20th and 80th percentiles. Faster or slower is only said where that
spread leaves 1 out: with equal sides 16 of 20 pairs on one of them happens once in a hundred times.
"""

import argparse
import json
import os
import statistics
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

import torch
from rich.console import Console

from benchmarks.compare_worker import CASES
from benchmarks.demo.tables import Table

ROOT = Path(__file__).parents[1]
PAIRS = 20


class WorkerError(RuntimeError):
    """A worker could not be started, or could not run a case."""


class Runs(Protocol):
    """Runs a case once and says how long it took."""

    def seconds(self, case: str) -> float: ...


class Worker:
    """A process that runs cases with the package of one checkout."""

    def __init__(self, checkout: Path) -> None:
        self.checkout = checkout
        command = [sys.executable, "-P", str(Path(__file__).with_name("compare_worker.py"))]
        self.process = subprocess.Popen(
            command,
            cwd=checkout,
            env={**os.environ, "PYTHONPATH": str(checkout)},
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )
        package = Path(str(self._answer()["package"]))
        if not package.resolve().is_relative_to(checkout.resolve()):
            self.close()
            raise WorkerError(f"{checkout}: would have measured {package}")

    def seconds(self, case: str) -> float:
        """Of one call; the first call of a case is preceded by a warm one."""
        assert self.process.stdin is not None
        self.process.stdin.write(f"{case}\n")
        self.process.stdin.flush()
        answer = self._answer()
        if "error" in answer:
            raise WorkerError(f"{self.checkout}, {case}: {answer['error']}")
        return float(str(answer["seconds"]))

    def close(self) -> None:
        """End the process: it ends with its input."""
        assert self.process.stdin is not None
        self.process.stdin.close()
        try:
            self.process.wait(timeout=10)
        except subprocess.TimeoutExpired:
            self.process.kill()
            self.process.wait()

    def _answer(self) -> dict[str, object]:
        assert self.process.stdout is not None
        line = self.process.stdout.readline()
        if not line:
            raise WorkerError(f"{self.checkout}: the worker ended ({self.process.wait()})")
        return json.loads(line)


@dataclass(frozen=True)
class Comparison:
    """Paired seconds of one case, base and new."""

    case: str
    base: Sequence[float]
    new: Sequence[float]

    @property
    def quantiles(self) -> tuple[float, float, float]:
        """20th, 50th and 80th percentile of new/base over the pairs."""
        ratios = [new / base for base, new in zip(self.base, self.new, strict=True)]
        found = torch.tensor(ratios, dtype=torch.float64).quantile(
            torch.tensor([0.2, 0.5, 0.8], dtype=torch.float64)
        )
        low, middle, high = found.tolist()
        return low, middle, high

    @property
    def verdict(self) -> str:
        """faster or slower where the spread leaves 1 out, else nothing."""
        low, _, high = self.quantiles
        return "faster" if high < 1 else "slower" if low > 1 else ""


def interleave(base: Runs, new: Runs, case: str, pairs: int) -> Comparison:
    """base new, new base, base new, ...; both warm first, uncounted."""
    base.seconds(case)
    new.seconds(case)
    found: dict[int, list[float]] = {id(base): [], id(new): []}
    for pair in range(pairs):
        for side in (base, new) if pair % 2 == 0 else (new, base):
            found[id(side)].append(side.seconds(case))
    return Comparison(case, found[id(base)], found[id(new)])


def table(found: Sequence[Comparison], base: str) -> Table:
    """A row a case."""
    cells = []
    for comparison in found:
        low, middle, high = comparison.quantiles
        medians = [
            f"{statistics.median(side) * 1e3:.1f}" for side in (comparison.base, comparison.new)
        ]
        spread = f"{low:.3f} to {high:.3f}"
        cells.append([comparison.case, *medians, f"{middle:.3f}", spread, comparison.verdict])
    return Table(
        f"This checkout beside {base}",
        ["case", "base, ms", "new, ms", "new/base", "20 to 80 %", ""],
        cells,
        f"Medians of {len(found[0].base) if found else 0} pairs.",
    )


@contextmanager
def checked_out(ref: str, say: Callable[[str], object]) -> Iterator[Path]:
    """A temporary worktree of `ref`, its compiled part built; gone afterwards, come what may."""
    with tempfile.TemporaryDirectory(prefix="wssl-bench-") as folder:
        tree = Path(folder) / "base"
        try:
            _git("worktree", "add", "--detach", "--quiet", str(tree), ref)
            say(f"building {ref} in {tree}")
            _build(tree)
            yield tree
        finally:
            if tree.exists():
                _git("worktree", "remove", "--force", str(tree))
            _git("worktree", "prune")


def _build(tree: Path) -> None:
    """The compiled part in place; a build that fails is an error: it would be compared as slow."""
    command = [sys.executable, "setup.py", "--quiet", "build_ext", "--inplace"]
    built = subprocess.run(
        command,
        cwd=tree,
        env={**os.environ, "WSSL_FAST_CUDA": "0", "WSSL_FAST_NATIVE": "1"},
        capture_output=True,
        text=True,
    )
    if built.returncode:
        raise WorkerError(f"building {tree} failed:\n{built.stdout}{built.stderr}")


def _git(*arguments: str) -> str:
    done = subprocess.run(["git", "-C", str(ROOT), *arguments], capture_output=True, text=True)
    if done.returncode:
        raise WorkerError(f"git {' '.join(arguments)}: {done.stderr.strip()}")
    return done.stdout.strip()


def main(arguments: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.compare", description=__doc__)
    parser.add_argument("base", help="git ref to compare with")
    parser.add_argument("--case", action="append", choices=tuple(CASES), help="default: all")
    parser.add_argument("--pairs", type=int, default=PAIRS)
    given = parser.parse_args(arguments)
    console = Console(width=110)
    workers: list[Worker] = []
    try:
        with checked_out(given.base, console.print) as tree:
            try:
                workers.append(Worker(tree))
                workers.append(Worker(ROOT))
                base, new = workers
                found = []
                for case in given.case or CASES:
                    found.append(interleave(base, new, case, given.pairs))
                    console.print(f"{case}: {found[-1].quantiles[1]:.3f}")
            finally:
                for worker in workers:
                    worker.close()
    except WorkerError as error:
        parser.exit(2, f"{error}\n")
    except KeyboardInterrupt:
        parser.exit(130, "stopped; the worktree is gone\n")
    commit = _git("rev-parse", "--short=12", given.base)
    console.print(table(found, f"{given.base} ({commit})").rich())


if __name__ == "__main__":
    main()
