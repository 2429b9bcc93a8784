"""Two checkouts side by side: order, quantiles, verdicts with made-up workers, cleaning up."""

import subprocess
from collections.abc import Iterator
from itertools import cycle
from pathlib import Path

import pytest

from benchmarks import compare
from benchmarks.compare import Comparison, Worker, WorkerError, checked_out, interleave, table


class FakeWorker:
    """Takes the times it is given, and notes that it was called."""

    def __init__(self, name: str, log: list[str], times: list[float]) -> None:
        self.name, self.log, self.times = name, log, cycle(times)

    def seconds(self, case: str) -> float:
        self.log.append(self.name)
        return next(self.times)


def test_order_is_a_b_b_a_after_a_warm_call_each() -> None:
    log: list[str] = []
    a, b = FakeWorker("A", log, [1.0]), FakeWorker("B", log, [2.0])
    found = interleave(a, b, "case", pairs=4)
    assert "".join(log) == "AB" + "ABBAABBA"
    assert found.base == [1.0] * 4
    assert found.new == [2.0] * 4
    assert found.quantiles == (2.0, 2.0, 2.0)


@pytest.mark.parametrize(
    ("new", "verdict"),
    [
        ([2.0, 2.1, 1.9, 2.0, 2.2], "slower"),
        ([0.5, 0.6, 0.5, 0.4, 0.5], "faster"),
        ([0.5, 1.5, 1.1, 1.2, 0.7], ""),
        ([1.0] * 5, ""),
    ],
)
def test_a_verdict_needs_a_spread_without_1(new: list[float], verdict: str) -> None:
    assert Comparison("case", [1.0] * 5, new).verdict == verdict


def test_ratios_are_of_pairs() -> None:
    """The machine halves its speed for one pair: both sides see it, and the ratio does not."""
    drifting = Comparison("case", [1.0, 1.0, 2.0, 1.0], [1.1, 1.1, 2.2, 1.1])
    assert drifting.quantiles == pytest.approx((1.1, 1.1, 1.1))


def test_table() -> None:
    text = table([Comparison("W2", [1.0] * 5, [2.0] * 5)], "v0.1").markdown()
    assert "| W2 | 1000.0 | 2000.0 | 2.000 | 2.000 to 2.000 | slower |" in text


@pytest.fixture
def repository(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    root = tmp_path / "repository"
    root.mkdir()
    who = ["-c", "user.name=test", "-c", "user.email=test@example.org"]
    for command in (["init", "-q"], [*who, "commit", "-q", "--allow-empty", "-m", "one"]):
        subprocess.run(["git", *command], cwd=root, check=True)
    monkeypatch.setattr(compare, "ROOT", root)
    yield root
    listed = ["git", "worktree", "list"]
    left = subprocess.run(listed, cwd=root, check=True, capture_output=True, text=True).stdout
    assert len(left.splitlines()) == 1


@pytest.mark.parametrize("stop", [KeyboardInterrupt, WorkerError])
def test_the_worktree_goes_whatever_happens(
    repository: Path, monkeypatch: pytest.MonkeyPatch, stop: type[BaseException]
) -> None:
    def build(tree: Path) -> None:
        assert (tree / ".git").exists()
        trees.append(tree)
        raise stop

    trees: list[Path] = []
    monkeypatch.setattr(compare, "_build", build)
    with pytest.raises(stop), checked_out("HEAD", lambda text: None):
        pass
    assert not trees[0].exists()


def test_an_unknown_ref_is_named(repository: Path) -> None:
    with pytest.raises(WorkerError, match="no-such-ref"), checked_out("no-such-ref", print):
        pass


def test_a_worker_measures_its_own_checkout(tmp_path: Path) -> None:
    worker = Worker(Path(compare.__file__).parents[1])
    try:
        with pytest.raises(WorkerError, match="KeyError"):
            worker.seconds("no such case")
    finally:
        worker.close()
    assert worker.process.returncode == 0
    package = tmp_path / "wssl_fast"
    package.mkdir()
    (package / "__init__.py").write_text("raise ImportError('half a package')")
    with pytest.raises(WorkerError, match="the worker ended"):
        Worker(tmp_path)
