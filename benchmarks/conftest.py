"""`pytest benchmarks`: groups measured side by side, shown by pytest-benchmark, held to targets.

pytest-benchmark times one test after another, which turns a noisy second into a wrong ratio. The
harness measures a group in interleaved rounds; each test then replays its provider's rounds to
pytest-benchmark on a clock that shows the measured times.
"""

from collections.abc import Callable
from pathlib import Path

import pytest
from rich import box
from rich.console import Console
from rich.table import Table

from benchmarks import harness, memory
from benchmarks.suites import MEMORY_LIMIT, MEMORY_SHAPE, OURS, TARGETS, Group, Measured

RESULTS = Path(__file__).parent / "results"
MEASURED = pytest.StashKey[dict[str, Measured]]()
MEMORY = pytest.StashKey[dict[str, int]]()


class ReplayClock:
    """A timer for pytest-benchmark that moves by measured times alone."""

    def __init__(self) -> None:
        self.now = 0.0

    def __call__(self) -> float:
        return self.now


CLOCK = ReplayClock()


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption(
        "--record",
        action="store_true",
        help="append the rows to benchmarks/results/<machine>/bench.jsonl",
    )


def pytest_configure(config: pytest.Config) -> None:
    config.stash[MEASURED] = {}
    config.stash[MEMORY] = {}


@pytest.fixture
def replay(request: pytest.FixtureRequest, benchmark) -> Callable[[Group, str], None]:
    """Measure the group if it was not yet, then hand one provider's rounds to pytest-benchmark."""
    measured = request.config.stash[MEASURED]

    def show(group: Group, provider: str) -> None:
        if group.name not in measured:
            measured[group.name] = group.run()
        timing = measured[group.name].timings[provider]
        if timing.wrong:
            pytest.fail(f"{provider} is wrong and was not timed: {timing.wrong}")
        samples = iter(timing.samples)

        def advance() -> None:
            CLOCK.now += next(samples)

        benchmark.extra_info["shape"] = group.shape
        benchmark.pedantic(advance, rounds=len(timing.samples))

    return show


@pytest.fixture
def peak_bytes(request: pytest.FixtureRequest) -> Callable[[str], int]:
    """Peak bytes of a provider above its input and gradient, at the memory shape."""

    def measure(provider: str) -> int:
        found = memory.peak_above_input(provider, *MEMORY_SHAPE)
        request.config.stash[MEMORY][provider] = found
        return found

    return measure


def pytest_terminal_summary(
    terminalreporter: pytest.TerminalReporter, config: pytest.Config
) -> None:
    measured, peaks = config.stash[MEASURED], config.stash[MEMORY]
    if not measured and not peaks:
        return
    terminalreporter.section("targets")
    console = Console(width=110, file=terminalreporter._tw._file)
    console.print(_targets_table(measured, peaks))
    for name, group in measured.items():
        if group.floor:
            parts = ", ".join(
                f"{part} {group.timings[part].median * 1e3:.1f}" for part in harness.FLOORS
            )
            console.print(f"floor of {name}: {group.floor * 1e3:.1f} ms ({parts})")
    if config.getoption("--record"):
        console.print(f"rows appended to {_record(measured, peaks)}")


def _targets_table(measured: dict[str, Measured], peaks: dict[str, int]) -> Table:
    table = Table("case", "ratio", "measured", "target", "verdict", box=box.SIMPLE)
    for target in TARGETS:
        group = measured.get(target.group.name)
        if group:
            ratio = f"{target.ratio(group):.2f}"
            table.add_row(target.group.name, target.text, ratio, target.aim, target.verdict(group))
    if OURS in peaks:
        n, m = MEMORY_SHAPE
        floats = peaks[OURS] / (4 * n * n)
        table.add_row(
            f"memory {n} x {m}",
            "peak above input and gradient, in n^2 floats",
            f"{floats:.2f}",
            f"<= {MEMORY_LIMIT:g}",
            "hit" if floats <= MEMORY_LIMIT else "missed",
        )
    for provider in peaks.keys() - {OURS}:
        n, m = MEMORY_SHAPE
        floats = peaks[provider] / (4 * n * n)
        table.add_row(f"memory {n} x {m}", f"the same for {provider}", f"{floats:.2f}", "", "")
    return table


def _record(measured: dict[str, Measured], peaks: dict[str, int]) -> Path:
    path = RESULTS
    shapes = {target.group.name: target.group.shape for target in TARGETS}
    for name, group in measured.items():
        found = harness.rows(name, shapes[name], group.timings, floor=group.floor)
        path = harness.record(found, RESULTS)
    if peaks:
        untimed = {provider: harness.Timing(provider) for provider in peaks}
        n, m = MEMORY_SHAPE
        found = harness.rows(f"memory {n} x {m}", MEMORY_SHAPE, untimed, peak_bytes=peaks)
        path = harness.record(found, RESULTS)
    return path
