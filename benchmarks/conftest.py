"""`pytest benchmarks`: groups measured side by side, shown by pytest-benchmark, held to targets.

pytest-benchmark times one test after another, which turns a noisy second into a wrong ratio. The
harness measures a group in interleaved rounds; each test then replays its provider's rounds to
pytest-benchmark on a clock that shows the measured times. A provider that is wrong is not timed:
the package then fails, a peer is an expected failure with its reason; a skipped one is named.
"""

import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import torch
from rich.console import Console

from benchmarks import harness, memory, report, scaling
from benchmarks.records import RESULTS, Row
from benchmarks.suites import Group, Measured, families, is_ours
from benchmarks.suites.targets import MEMORY_SHAPE

QUICK_MEMORY_SHAPE = (64, 2048)
MEASURED = pytest.StashKey[dict[str, Measured]]()
MEMORY = pytest.StashKey[dict[str, int]]()
CURVES = pytest.StashKey[list[scaling.Curves]]()
WALL = pytest.StashKey[dict[str, float]]()


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
    parser.addoption(
        "--quick",
        action="store_true",
        help="every group at tiny shapes; the figures mean nothing and are not recorded",
    )
    parser.addoption(
        "--device",
        choices=("cpu", "cuda"),
        default="cuda" if torch.cuda.is_available() else "cpu",
        help="where inputs live (default: cuda where there is one)",
    )


def pytest_configure(config: pytest.Config) -> None:
    if config.getoption("--quick") and config.getoption("--record"):
        raise pytest.UsageError("--quick measures nothing worth a row: not with --record")
    config.stash[MEASURED], config.stash[MEMORY] = {}, {}
    config.stash[CURVES], config.stash[WALL] = [], {}


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    """A test of (group, provider) runs for all of its module's FAMILY."""
    if {"group", "provider"} <= set(metafunc.fixturenames):
        groups = families(metafunc.config.getoption("--quick"))[metafunc.module.FAMILY]
        cases = [
            pytest.param(group, provider, id=f"{group.name} {provider}".replace(" ", "-"))
            for group in groups
            for provider in group.providers
        ]
        metafunc.parametrize(("group", "provider"), cases)


@pytest.fixture(autouse=True)
def _wall(request: pytest.FixtureRequest) -> Iterator[None]:
    """Seconds by module, for the summary."""
    wall, started = request.config.stash[WALL], time.perf_counter()
    yield
    name = Path(request.node.fspath).stem.removeprefix("test_bench_")
    wall[name] = wall.get(name, 0.0) + time.perf_counter() - started


@pytest.fixture(scope="session")
def device(request: pytest.FixtureRequest) -> torch.device:
    """Where inputs live."""
    return torch.device(request.config.getoption("--device"))


@pytest.fixture(scope="session")
def quick(request: pytest.FixtureRequest) -> bool:
    """Whether this run is the quick one."""
    return request.config.getoption("--quick")


@pytest.fixture
def replay(
    request: pytest.FixtureRequest, benchmark, device: torch.device
) -> Callable[[Group, str], None]:
    """Measure the group if it was not yet, then hand one provider's rounds to pytest-benchmark."""
    measured = request.config.stash[MEASURED]

    def show(group: Group, provider: str) -> None:
        benchmark.group = group.name
        benchmark.name = provider
        benchmark.extra_info["shape"] = group.shape
        if group.name not in measured:
            measured[group.name] = group.run(device)
        timing = measured[group.name].timings[provider]
        judge(group.name, timing)
        samples = iter(timing.samples)

        def advance() -> None:
            CLOCK.now += next(samples)

        benchmark.pedantic(advance, rounds=len(timing.samples))

    return show


def judge(group: str, timing: harness.Timing) -> None:
    """Skip what was not run, fail where the package is wrong, expect it where a peer is."""
    if timing.skipped:
        pytest.skip(f"{timing.provider}, {group}: {timing.skipped}")
    if timing.wrong:
        fail = pytest.fail if is_ours(timing.provider) else pytest.xfail
        fail(f"{timing.provider} is wrong at {group} and was not timed: {timing.wrong}")


@pytest.fixture
def peak_bytes(request: pytest.FixtureRequest, quick: bool) -> Callable[[str], int]:
    """Peak bytes of a provider above its input and gradient, at the memory shape."""

    def measure(provider: str) -> int:
        shape, repeats = (QUICK_MEMORY_SHAPE, 1) if quick else (MEMORY_SHAPE, memory.REPEATS)
        found = memory.peak_above_input(provider, *shape, repeats=repeats)
        request.config.stash[MEMORY][provider] = found
        return found

    return measure


@pytest.fixture
def curves(
    request: pytest.FixtureRequest, device: torch.device, quick: bool
) -> Callable[[scaling.Axis], scaling.Curves]:
    """Time over one axis."""

    def measure(axis: scaling.Axis) -> scaling.Curves:
        found = scaling.run(axis, device, quick=quick)
        request.config.stash[CURVES].append(found)
        return found

    return measure


def pytest_terminal_summary(
    terminalreporter: pytest.TerminalReporter, config: pytest.Config
) -> None:
    console = Console(width=160, file=terminalreporter._tw._file)
    rows = _rows(config)
    if rows and not config.getoption("--quick"):
        terminalreporter.section("targets")
        for table in (report.targets_table(rows), report.scaling_table(rows)):
            if table:
                console.print(table.rich())
    _print_floors(console, config.stash[MEASURED])
    for name, seconds in config.stash[WALL].items():
        console.print(f"{name}: {seconds:.0f} s")
    if rows and config.getoption("--record"):
        device = config.getoption("--device")
        console.print(f"rows appended to {harness.record(rows, RESULTS, device=device)}")


def _print_floors(console: Console, measured: dict[str, Measured]) -> None:
    for name, group in measured.items():
        parts = ", ".join(
            f"{part} {timing.median * 1e3:.3g}"
            for part, timing in group.timings.items()
            if timing.part
        )
        console.print(f"floor of {name}: {group.floor * 1e3:.3g} ms ({parts})")


def _rows(config: pytest.Config) -> list[Row]:
    measured, peaks = config.stash[MEASURED].values(), config.stash[MEMORY]
    found = [row for group in (*measured, *config.stash[CURVES]) for row in group.rows()]
    if peaks:
        untimed = {provider: harness.Timing(provider) for provider in peaks}
        shape = QUICK_MEMORY_SHAPE if config.getoption("--quick") else MEMORY_SHAPE
        found += harness.rows("memory", shape, untimed, peak_bytes=peaks)
    return found
