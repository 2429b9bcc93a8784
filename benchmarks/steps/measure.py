"""The arms of one cell, method x dimension x batch, in interleaved rounds of one process.

Every round takes the step without W2 and the step of each arm, in an order that rotates, all from
the same weights, momentum, queue and images; right after it the arm's loss alone, at the same
embeddings. What an arm adds is the median of the differences within rounds. An arm slower than its
share of the time runs in fewer rounds, spread over the run, at least MIN_ROUNDS.
"""

import statistics
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

import torch
from torch import Tensor

from benchmarks import harness
from benchmarks.harness import Timing, seconds_of
from benchmarks.peers import Loss, value_and_gradient
from benchmarks.ssl.methods import Method, Views
from benchmarks.ssl.networks import Outputs
from benchmarks.steps.arms import ARMS, NONE, Arm, Check, Forecast, Truth, effective_rank
from benchmarks.steps.step import ENCODERS, Step, build

MIN_ROUNDS = 3
GROUP, MODE = "step", "training step"


@dataclass(frozen=True)
class Cell:
    """One method at one projector dimension and batch size (images, each in two views)."""

    method: Method
    dim: int
    batch: int
    encoder: str = "small"
    device: str = "cpu"

    @property
    def group(self) -> str:
        """Of its rows: "step" with the device's own encoder, else with the encoder's name."""
        usual = self.encoder == default_encoder(self.device)
        return GROUP if usual else f"{GROUP}, {self.encoder}"

    @property
    def name(self) -> str:
        """As "step BYOL 2048 batch 256"."""
        return f"{self.group} {self.method.name} {self.dim} batch {self.batch}"


def default_encoder(device: str) -> str:
    """The small one on a CPU, where a ResNet-18 would take seconds a view."""
    return "small" if torch.device(device).type == "cpu" else "resnet18"


@dataclass(frozen=True)
class Settings:
    """Rounds, seconds for each arm of a cell, and the longest step that is run."""

    rounds: int = 20
    seconds_per_arm: float = 12.0
    limit_seconds: float = 10.0


@dataclass
class ArmResult:
    """One arm of a cell: its steps by round, its loss alone by round, or why there are none."""

    arm: str
    steps: dict[int, float] = field(default_factory=dict)  # round -> seconds
    alone: dict[int, float] = field(default_factory=dict)
    check: Check | None = None
    wrong: str | None = None
    foreseen: float | None = None  # seconds a step, of an arm that is not run for it
    skipped: str | None = None


@dataclass
class Measured:
    """All arms of a cell."""

    cell: Cell
    arms: dict[str, ArmResult]
    effective_rank: float
    parameters: int  # trained

    def overheads(self, arm: str) -> list[float]:
        """Seconds over the step without W2, in each round that the arm ran in."""
        base = self.arms[NONE].steps
        return [taken - base[index] for index, taken in self.arms[arm].steps.items()]


def measure(
    cell: Cell,
    settings: Settings,
    forecast: Forecast,
    arms: Sequence[Arm] = ARMS,
    on_round: Callable[[int, int], None] = lambda done, total: None,
) -> Measured:
    """Check, foresee and time the arms of a cell; the first of them is the step without W2."""
    if not arms or arms[0].name != NONE:
        raise ValueError(f'the first arm must be "{NONE}"')
    step = build(cell.method, ENCODERS[cell.encoder], cell.dim, cell.batch, cell.device)
    outputs = step.outputs()
    z = torch.cat(outputs.embedded)
    results = {arm.name: ArmResult(arm.name) for arm in arms}
    losses = {arm.name: arm.loss(cell.method) for arm in arms}
    truth = Truth(z)

    def take(name: str) -> float:
        step.restore()
        return seconds_of(lambda _: step.run(losses[name]), z)

    warm: dict[str, float] = {}  # seconds of the round that is not counted, by arm that will run
    for arm in arms:
        result = results[arm.name]
        if losses[arm.name] is not None:
            foreseen = warm[NONE] + forecast.seconds(arm, cell.method, len(z), cell.dim)
            if foreseen > settings.limit_seconds and arm.decomposes:
                limit = f"over {settings.limit_seconds:g} s"
                result.foreseen = foreseen
                result.skipped = f"foreseen to take {foreseen:.1f} s a step, {limit}"
                continue
            result.check = truth.check(arm, cell.method)
            result.wrong = result.check.wrong
        if result.wrong is None:
            warm[arm.name] = take(arm.name)

    running = list(warm)
    shares = _shares(warm, settings)
    total = shares[NONE]
    for index in range(total):
        start = index % len(running)
        for name in running[start:] + running[:start]:
            if not (index + 1) * shares[name] // total > index * shares[name] // total:
                continue
            results[name].steps[index] = take(name)
            results[name].alone[index] = seconds_of(*_alone(step, losses[name], outputs))
        on_round(index + 1, total)

    return Measured(
        cell,
        results,
        effective_rank(z),
        sum(parameter.numel() for parameter in step.networks.trainable()),
    )


def _shares(warm: dict[str, float], settings: Settings) -> dict[str, int]:
    """Rounds that each arm runs in; the step without W2 runs in all of them."""

    def affordable(seconds: float, most: int) -> int:
        return max(min(int(settings.seconds_per_arm / seconds), most), min(MIN_ROUNDS, most))

    rounds = affordable(warm[NONE], settings.rounds)
    return {name: affordable(seconds, rounds) for name, seconds in warm.items()} | {NONE: rounds}


def _alone(
    step: Step, w2: Loss | None, outputs: Outputs
) -> tuple[Callable[[Tensor], object], Tensor]:
    """Forward and backward of W2 at the embeddings; without W2, of the method's own loss."""
    if w2 is not None:
        return lambda z: value_and_gradient(w2, z), torch.cat(outputs.embedded)

    def own(both: Tensor) -> Tensor:
        views = Views(*both.chunk(2))
        return step.method.loss(views, outputs.target, step.networks.queue)

    return lambda both: value_and_gradient(own, both), torch.cat(outputs.online)


def rows(measured: Measured) -> list[dict[str, object]]:
    """The harness's rows, one an arm, and what a step has beside them. Times in milliseconds."""
    cell = measured.cell
    timings = {
        name: Timing(name, list(result.steps.values()), result.wrong, result.skipped)
        for name, result in measured.arms.items()
    }
    shape = (2 * cell.batch, cell.dim)
    base = timings[NONE].median
    found = harness.rows(cell.group, shape, timings, mode=MODE, device=cell.device)
    for row, (name, result) in zip(found, measured.arms.items(), strict=True):
        row |= {
            "method": cell.method.name,
            "dim": cell.dim,
            "batch": cell.batch,
            "arm": name,
            "encoder": cell.encoder,
            "parameters": measured.parameters,
            "w2_weight": cell.method.w2_weight if name != NONE else None,
            "effective_rank": round(measured.effective_rank, 1),
            "value_error": _number(result.check.value_error) if result.check else None,
            "gradient_cosine": _number(result.check.gradient_cosine) if result.check else None,
            "foreseen_ms": _number(result.foreseen, 1e3),
        }
        overheads = Timing(name, measured.overheads(name) if name != NONE else [])
        for percent in (20, 50, 80):
            row[f"overhead_p{percent}_ms"] = _number(overheads.percentile(percent), 1e3)
        row["overhead"] = _number(overheads.median / base)
        alone = statistics.median(result.alone.values()) if result.alone else None
        row["alone_p50_ms"] = _number(alone, 1e3)
        row["alone"] = _number(alone / base) if alone is not None else None
    return found


def _number(value: float | None, scale: float = 1.0) -> float | None:
    """Five digits; None for NaN, which is not JSON."""
    return None if value is None or value != value else float(f"{value * scale:.5g}")
