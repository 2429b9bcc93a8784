"""Runs: every method with every uniformity loss, resumed, interrupted, failed."""

import json
import math
import os
import signal
from pathlib import Path
from typing import Any

import pytest
import torch

from benchmarks.data import ImageSet
from benchmarks.records import Row
from benchmarks.ssl import checkpoint, train
from benchmarks.ssl.config import KINDS, Config, ConfigError
from benchmarks.ssl.methods import METHODS
from benchmarks.ssl.progress import Quiet
from benchmarks.ssl.runs import RunError, RunFolder
from benchmarks.ssl.seeds import order
from benchmarks.ssl.signals import Interrupted
from benchmarks.ssl.step import Parts
from benchmarks.ssl.train import Training
from benchmarks.ssl.watch import LossError
from tests.ssl.conftest import tiny

CPU = torch.device("cpu")


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("method", METHODS)
def test_every_method_with_every_uniformity(method: str, kind: str, digits: ImageSet) -> None:
    """Three steps: finite parts that add up, weights that move, a target that follows."""
    training = Training(tiny(method, kind), digits, CPU)
    before = {name: x.clone() for name, x in training.networks.state_dict().items()}
    rows = order(64, 0, 0)
    for step in range(3):
        parts = training.step(training.views(0, step, rows), 0.5, step + 1)
        assert all(math.isfinite(part) for part in parts)
        expected = parts.method + (0.5 * parts.uniformity if kind != "none" else 0)
        torch.testing.assert_close(parts.total, expected)
        assert (parts.uniformity != 0) == (kind != "none")
    after = training.networks.state_dict()
    moved = {name.split(".")[0] for name, x in before.items() if not torch.equal(x, after[name])}
    expected_moved = {"online"}
    expected_moved |= {"target"} if training.networks.target is not None else set()
    expected_moved |= {"predictor"} if training.method.predictor else set()
    expected_moved |= {"queue"} if training.method.queue_rows else set()
    assert moved == expected_moved


def test_the_uniformity_loss_is_the_only_difference_of_arms(digits: ImageSet) -> None:
    """Same seed: same weights and same views, whatever stands beside the loss."""
    arms = [Training(tiny("byol", kind), digits, CPU) for kind in KINDS]
    rows = order(64, 0, 0)
    views = [arm.views(0, 1, rows) for arm in arms]
    for arm, seen in zip(arms[1:], views[1:], strict=True):
        assert all(torch.equal(a, b) for a, b in zip(seen, views[0], strict=True))
        own, first = arm.networks.state_dict(), arms[0].networks.state_dict()
        assert all(torch.equal(own[name], first[name]) for name in first)


def test_weight_zero_measures_and_does_not_push(digits: ImageSet) -> None:
    """Barlow Twins' schedule ends at 0."""
    alone, beside = (Training(tiny("barlow", kind), digits, CPU) for kind in ("none", "w2"))
    assert beside.weight(beside.config.epochs - 1) == 0
    for training in (alone, beside):
        parts = training.step(training.views(0, 0, order(64, 0, 0)), 0.0, 1)
    assert parts.uniformity > 0
    ours, theirs = beside.networks.state_dict(), alone.networks.state_dict()
    assert all(torch.equal(ours[name], theirs[name]) for name in theirs)


def run(config: Config, path: Path, images: ImageSet, **keywords: Any) -> Row | None:
    return train.run(config, RunFolder(path), images=images, **keywords)


def comparable(rows: list[Row]) -> list[Row]:
    """Rows without times and places."""
    return [{k: v for k, v in row.items() if k not in ("seconds", "commit")} for row in rows]


def test_a_whole_run(tmp_path: Path, digits: ImageSet) -> None:
    config = tiny("mocov2", "w2", epochs=2)
    final = run(config, tmp_path / "a", digits)
    folder = RunFolder(tmp_path / "a")
    assert folder.config == config
    assert [row["kind"] for row in folder.rows()] == ["epoch", "evaluation", "epoch", "final"]
    assert final is not None
    assert folder.final == final
    assert 0 <= final["acc1"] <= final["acc5"] <= 100
    assert len(final["spectrum"]) == 8
    assert final["spectrum"] == sorted(final["spectrum"], reverse=True)
    assert 0 < final["w2"] < math.sqrt(2)
    assert 0 <= final["alignment"] <= 4
    for name in ("curves.png", "spectrum.png"):
        assert (folder.path / name).read_bytes().startswith(b"\x89PNG")
    again = run(config, tmp_path / "b", digits)
    assert again is not None
    assert comparable(RunFolder(tmp_path / "b").rows()) == comparable(folder.rows())


class Stops(Quiet):
    """Sends a signal to the process after so many steps."""

    def __init__(self, after: int, number: int) -> None:
        super().__init__()
        self.after, self.number = after, number

    def step(self, epoch: int, step: int) -> None:
        self.after -= 1
        if self.after == 0:
            os.kill(os.getpid(), self.number)


@pytest.mark.parametrize("method", ["byol", "mocov2", "zerocl"])
def test_an_interrupted_run_goes_on_to_the_same_losses(
    method: str, tmp_path: Path, digits: ImageSet
) -> None:
    """Stopped within the second of three epochs, and after its last step: equal bit for bit."""
    config = tiny(method, "w2", epochs=3, optimizer__name="lars", optimizer__lr=0.2)
    run(config, tmp_path / "whole", digits)
    path = tmp_path / "stopped"
    folder = RunFolder(path)
    with pytest.raises(Interrupted, match="after 1 epochs and 2 steps; --resume") as stop:
        run(config, path, digits, reporter=Stops(6, signal.SIGTERM))  # four steps an epoch
    assert stop.value.exit_code == 128 + signal.SIGTERM
    assert [row["kind"] for row in folder.rows()] == ["epoch", "evaluation"]
    with pytest.raises(Interrupted, match="after 1 epochs and 4 steps; --resume") as stop:
        run(
            config, path, digits, reporter=Stops(2, signal.SIGINT), resume=folder.checkpoint
        )  # the last step of the epoch
    assert stop.value.exit_code == 128 + signal.SIGINT
    run(config, path, digits, resume=folder.checkpoint)
    assert comparable(folder.rows()) == comparable(RunFolder(tmp_path / "whole").rows())
    (_, ours), (_, theirs) = (
        checkpoint.read(RunFolder(tmp_path / name).checkpoint, CPU) for name in ("stopped", "whole")
    )
    for name, x in theirs["networks"].items():
        assert torch.equal(ours["networks"][name], x), name
    assert ours["queue_head"] == theirs["queue_head"]


def test_signals_act_as_before_after_a_run(tmp_path: Path, digits: ImageSet) -> None:
    before = signal.getsignal(signal.SIGINT), signal.getsignal(signal.SIGTERM)
    run(tiny(epochs=1), tmp_path / "run", digits)
    assert (signal.getsignal(signal.SIGINT), signal.getsignal(signal.SIGTERM)) == before


def test_a_killed_run_loses_the_epoch_in_hand(
    tmp_path: Path, digits: ImageSet, monkeypatch: pytest.MonkeyPatch
) -> None:
    config = tiny("byol", epochs=3)
    run(config, tmp_path / "whole", digits)
    step, calls = Training.step, []

    def dies(self: Training, *arguments: Any) -> Parts:
        calls.append(1)
        if len(calls) == 7:
            raise MemoryError
        return step(self, *arguments)

    monkeypatch.setattr(Training, "step", dies)
    folder = RunFolder(tmp_path / "killed")
    with pytest.raises(MemoryError):
        run(config, folder.path, digits)
    monkeypatch.undo()
    position, _ = checkpoint.read(folder.checkpoint, CPU)
    assert position == checkpoint.Position(1, 0)
    run(config, folder.path, digits, resume=folder.checkpoint)
    assert comparable(folder.rows()) == comparable(RunFolder(tmp_path / "whole").rows())


def test_a_loss_that_is_not_finite(
    tmp_path: Path, digits: ImageSet, monkeypatch: pytest.MonkeyPatch
) -> None:
    config = tiny("barlow", "w2", epochs=3)
    made, calls = train.uniformity_loss, []

    def breaking(settings: Any) -> Any:
        loss = made(settings)

        def call(z_a: torch.Tensor, z_b: torch.Tensor) -> torch.Tensor:
            calls.append(1)
            return loss(z_a, z_b) * (float("nan") if len(calls) == 7 else 1.0)

        return call

    monkeypatch.setattr(train, "uniformity_loss", breaking)
    folder = RunFolder(tmp_path / "run")
    with pytest.raises(LossError) as error:
        run(config, folder.path, digits)
    message = str(error.value)
    assert "not finite at step 3 of epoch 2" in message
    assert "Barlow Twins " in message
    assert "W2 nan with weight 10, in all nan" in message
    assert f"the last good checkpoint is {folder.checkpoint}, after 1 epochs" in message
    assert folder.failure is not None
    assert folder.failure["parts"]["uniformity"] == "nan"
    assert folder.failure["step"] == 3
    assert checkpoint.read(folder.checkpoint, CPU)[0] == checkpoint.Position(1, 0)
    monkeypatch.undo()
    assert run(config, folder.path, digits, resume=folder.checkpoint) is not None
    assert folder.failure is None


def test_not_finite_before_any_checkpoint(
    tmp_path: Path, digits: ImageSet, monkeypatch: pytest.MonkeyPatch
) -> None:
    broken = lambda settings: lambda a, b: a.sum() * float("inf")  # noqa: E731
    monkeypatch.setattr(train, "uniformity_loss", broken)
    with pytest.raises(LossError, match="there is no checkpoint yet"):
        run(tiny("byol", "lu"), tmp_path / "run", digits)


def test_folders_are_not_mixed_up(tmp_path: Path, digits: ImageSet) -> None:
    path = tmp_path / "run"
    with pytest.raises(RunError, match=r"no config\.json in it"):
        run(tiny(), path, digits, resume=path / checkpoint.NAME)
    run(tiny(epochs=1), path, digits)
    with pytest.raises(RunError, match="there is a run in it already"):
        run(tiny(epochs=1), path, digits)
    with pytest.raises(RunError, match="seed is 0 there and 1 here"):
        run(tiny(epochs=1, seed=1), path, digits, resume=path / checkpoint.NAME)
    assert run(tiny(epochs=1), path, digits, resume=path / checkpoint.NAME)["kind"] == "final"


def test_a_damaged_checkpoint_stops_a_resume(tmp_path: Path, digits: ImageSet) -> None:
    config, folder = tiny("byol", epochs=3), RunFolder(tmp_path / "run")
    with pytest.raises(Interrupted):
        run(config, folder.path, digits, reporter=Stops(9, signal.SIGTERM))
    rows = folder.rows()
    damaged = bytearray(folder.checkpoint.read_bytes())
    damaged[-100] ^= 1
    folder.checkpoint.write_bytes(damaged)
    with pytest.raises(checkpoint.CheckpointError, match="damaged") as error:
        run(config, folder.path, digits, resume=folder.checkpoint)
    assert folder.rows() == rows
    before = checkpoint.previous(folder.checkpoint)
    assert str(before) in str(error.value)
    assert run(config, folder.path, digits, resume=before) is not None


@pytest.mark.parametrize(
    ("overrides", "says"),
    [
        ({"data__train_count": 10}, "batch: 16 is more than the 10 training images"),
        ({"data__train_count": 5000}, "train_count: 5,000 asked for, digits has 1,437"),
        ({"data__test_count": 5000}, "test_count: 5,000 of 360"),
        ({"data__holdout": 1437}, "holdout: 1437 of 1437"),
        ({"evaluation__neighbours": 65}, "neighbours: 65 of 64 labelled images"),
        ({"precision": "bfloat16"}, "bfloat16 is for CUDA, cpu has float32"),
    ],
)
def test_what_the_data_cannot_give(
    overrides: dict[str, Any], says: str, tmp_path: Path, digits: ImageSet
) -> None:
    with pytest.raises(ConfigError, match=says):
        run(tiny(**overrides), tmp_path / "run", digits)
    assert not (tmp_path / "run").exists()


def test_a_queue_longer_than_the_data(digits: ImageSet) -> None:
    config = tiny("mocov2", method__queue_rows=96)
    with pytest.raises(ConfigError, match="96 keys are more than the 64 training images"):
        Training(config, digits, CPU)


def test_hold_out_replaces_the_tests(digits: ImageSet) -> None:
    config = tiny(data__holdout=20, data__test_count=None)
    splits = Training(config, digits, CPU).splits
    assert torch.equal(splits.train.images, digits.train_images[:64])
    assert torch.equal(splits.test.images, digits.train_images[64:84])
    config = tiny(data__holdout=20, data__test_count=None, data__train_count=None)
    splits = Training(config, digits, CPU).splits
    assert len(splits.train.images) == 1437 - 20
    assert torch.equal(splits.test.images, digits.train_images[-20:])


def test_rows_are_json_with_numbers_alone(tmp_path: Path, digits: ImageSet) -> None:
    run(tiny("simclr", "lu", epochs=1), tmp_path / "run", digits)
    for line in (tmp_path / "run" / "metrics.jsonl").read_text().splitlines():
        row = json.loads(line, parse_constant=lambda name: pytest.fail(f"{name} is no number"))
        assert row["kind"] in ("epoch", "evaluation", "final")
