"""One training step without W2 and with it: this package, `eigvalsh`, the paper's eigh."""

from collections.abc import Callable

import pytest
from rich.console import Console

from benchmarks import harness
from benchmarks.conftest import CLOCK
from benchmarks.records import RESULTS, Row
from benchmarks.steps import plan
from benchmarks.steps.__main__ import show
from benchmarks.steps.arms import ARMS, OURS, Forecast
from benchmarks.steps.measure import Cell, Measured, measure, rows


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    config = metafunc.config
    device = config.getoption("--device", default="cpu")
    quick = config.getoption("--quick", default=False)
    cells = plan.quick(device) if quick else plan.subset(device)
    cases = [
        pytest.param(cell, arm.name, id=f"{cell.name} {arm.name}".replace(" ", "-"))
        for cell in cells
        for arm in ARMS
    ]
    metafunc.parametrize(("cell", "arm"), cases)


class Steps:
    """The cells of this run, measured when first asked for; shown and recorded at its end."""

    def __init__(self, device: str, quick: bool) -> None:
        self.settings = plan.QUICK if quick else plan.SUBSET
        self.forecast = Forecast(device)
        self.measured: dict[str, Measured] = {}

    def __call__(self, cell: Cell) -> Measured:
        if cell.name not in self.measured:
            self.measured[cell.name] = measure(cell, self.settings, self.forecast)
        return self.measured[cell.name]

    def pytest_terminal_summary(
        self, terminalreporter: pytest.TerminalReporter, config: pytest.Config
    ) -> None:
        terminalreporter.section("training steps")
        found: list[Row] = [row for cell in self.measured.values() for row in rows(cell)]
        console = Console(width=160, file=terminalreporter._tw._file)
        show(found, console)
        if config.getoption("--record", default=False):
            device = self.forecast.device
            console.print(f"rows appended to {harness.record(found, RESULTS, device=device)}")


@pytest.fixture(scope="session")
def steps(request: pytest.FixtureRequest) -> Callable[[Cell], Measured]:
    config = request.config
    device = config.getoption("--device", default="cpu")
    made = Steps(device, config.getoption("--quick", default=False))
    config.pluginmanager.register(made, "training steps")
    return made


@pytest.mark.benchmark(timer=CLOCK)
def test_step(steps, benchmark, cell: Cell, arm: str) -> None:
    benchmark.group, benchmark.name = cell.name, arm
    result = steps(cell).arms[arm]
    if result.skipped:
        pytest.skip(f"{arm}, {cell.name}: {result.skipped}")
    if result.wrong:
        fail = pytest.fail if arm == OURS else pytest.xfail
        fail(f"{arm} is wrong at {cell.name} and was not timed: {result.wrong}")
    samples = iter(result.steps.values())

    def advance() -> None:
        CLOCK.now += next(samples)

    benchmark.pedantic(advance, rounds=len(result.steps))
