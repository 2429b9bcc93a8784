"""The torchmetrics classes: by batches, in `forward`, merged, synced by two processes, plotted."""

import copy
import pickle
import subprocess
import sys
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

import wssl_fast as wf
from tests.metrics.test_moments import fail_in_the_second_block
from tests.tolerances import value_tolerance
from wssl_fast.metrics import _state

pytest.importorskip("torchmetrics", reason="wf.metrics' modules need torchmetrics")

ROOT = Path(__file__).parents[2]
LIMIT = value_tolerance("double")

Value = Callable[[Tensor], float]
METRICS: dict[str, tuple[Callable[[], Any], Value]] = {
    "W2": (
        lambda: wf.metrics.WassersteinUniformity(12),
        lambda z: wf.reference.wasserstein_uniformity(z).item(),
    ),
    "W2 squared, raw": (
        lambda: wf.metrics.WassersteinUniformity(12, normalize=False, squared=True),
        lambda z: wf.reference.wasserstein_uniformity(z, normalize=False, squared=True).item(),
    ),
    "effective rank": (
        lambda: wf.metrics.EffectiveRank(12),
        lambda z: wf.reference.effective_rank(z).item(),
    ),
    "L_U": (
        lambda: wf.metrics.Uniformity(12, capacity=100),
        lambda z: wf.reference.uniformity(z).item(),
    ),
}
EACH = pytest.mark.parametrize("name", METRICS)


def filled(name: str, z: Tensor) -> Any:
    metric = METRICS[name][0]()
    for batch in z.split(7):
        metric.update(batch)
    return metric


@EACH
def test_over_batches(name: str) -> None:
    z = torch.randn(50, 12)
    value = filled(name, z).compute()
    assert value.dtype == torch.float32
    assert value.item() == pytest.approx(METRICS[name][1](z), abs=10 * LIMIT, rel=LIMIT)


@EACH
def test_forward_gives_the_batch_and_keeps_the_stream(name: str) -> None:
    z = torch.randn(50, 12)
    metric, truth = METRICS[name]
    metric = metric()
    for batch in z.split(25):
        assert metric(batch).item() == pytest.approx(truth(batch), abs=10 * LIMIT, rel=LIMIT)
    assert metric.compute().item() == pytest.approx(truth(z), abs=10 * LIMIT, rel=LIMIT)
    metric.reset()
    metric.update(z[:20])
    assert metric.compute().item() == pytest.approx(truth(z[:20]), abs=10 * LIMIT, rel=LIMIT)


@EACH
def test_merge_state_copies_and_checkpoints(name: str) -> None:
    z = torch.randn(50, 12)
    metric, truth = filled(name, z[:30]), METRICS[name][1]
    metric.persistent(True)
    fresh = METRICS[name][0]()
    fresh.load_state_dict(copy.deepcopy(metric.state_dict()))
    for twin in (metric.clone(), pickle.loads(pickle.dumps(metric)), fresh):
        twin._update_count = 1  # a loaded state counts as an update
        assert twin.compute().item() == pytest.approx(truth(z[:30]), abs=10 * LIMIT, rel=LIMIT)
    metric.merge_state(filled(name, z[30:]))
    assert metric.compute().item() == pytest.approx(truth(z), abs=10 * LIMIT, rel=LIMIT)


@EACH
def test_states_keep_their_dtype(name: str) -> None:
    z = torch.randn(50, 12)
    metric = filled(name, z)
    want = metric.compute()
    for changed in (
        metric.to(torch.bfloat16),
        metric.half(),
        metric.set_dtype(torch.float16),
        torch.nn.ModuleList([metric]).to(dtype=torch.bfloat16)[0],
    ):
        changed._computed = None
        assert torch.equal(changed.compute(), want)


def test_frechet_distance() -> None:
    x, y = torch.randn(40, 12), torch.randn(30, 12) + 0.3
    metric = wf.metrics.FrechetEmbeddingDistance(12, reset_real_features=False)
    for batch in x.split(9):
        metric.update(batch, real=True)
    for batch in y.split(4):
        assert metric(batch, real=False) is None
    want = wf.reference.frechet_distance(x, y).item()
    assert metric.compute().item() == pytest.approx(want, rel=1e-5)
    metric.reset()
    with pytest.raises(ValueError, match="has seen no other rows yet"):
        metric.compute()
    metric.update(x, real=False)
    assert metric.compute().item() == pytest.approx(0, abs=1e-5)
    root = wf.metrics.FrechetEmbeddingDistance(12, squared=False)
    root.update(x, real=True)
    root.update(y, real=False)
    assert root.compute().item() == pytest.approx(want**0.5, rel=1e-5)
    root.reset()
    root.update(y, real=False)
    with pytest.raises(ValueError, match="has seen no real rows yet"):
        root.compute()


def test_uniformity_of_a_sample() -> None:
    """400 of 4,000 rows of a small spread: L_U to what 400 of them give by chance."""
    z = torch.randn(4000, 12) * torch.linspace(0.2, 1, 12)
    metric = wf.metrics.Uniformity(12, capacity=400, seed=1)
    for batch in z.split(300):
        metric.update(batch)
    assert int((metric.sample[:, 0] >= 0).sum()) == 400
    draws = torch.tensor([wf.uniformity(z[torch.randperm(4000)[:400]]) for _ in range(50)])
    # within 5 standard deviations of such a draw
    truth = wf.uniformity(z).item()
    assert metric.compute().item() == pytest.approx(truth, abs=5 * draws.std().item())


COLLECTIONS: dict[str, tuple[dict[str, Any], int]] = {  # metrics, and groups that share a state
    "normalize": (
        {"a": wf.metrics.WassersteinUniformity, "b": wf.metrics.EffectiveRank},
        2,
    ),
    "precision": (
        {
            "a": wf.metrics.EffectiveRank,
            "b": partial(wf.metrics.EffectiveRank, precision="highest"),
        },
        2,
    ),
    "the same": (
        {
            "a": wf.metrics.WassersteinUniformity,
            "b": partial(wf.metrics.WassersteinUniformity, squared=True),
            "c": partial(wf.metrics.EffectiveRank, normalize=True),
        },
        1,
    ),
}


@pytest.mark.parametrize("name", COLLECTIONS)
def test_collections_share_the_moments_of_equal_settings(name: str) -> None:
    """Whatever the first batch: moments of zeros are the same under any settings."""
    from torchmetrics import MetricCollection

    make, groups = COLLECTIONS[name]
    z = 5 * torch.randn(512, 64)
    collection = MetricCollection({key: metric(64) for key, metric in make.items()})
    collection.update(torch.zeros(8, 64))
    collection.reset()
    collection.update(z[:300])
    collection.update(z[300:])
    assert len(collection.compute_groups) == groups
    for key, value in collection.compute().items():
        alone = make[key](64)
        alone.update(z[:300])
        alone.update(z[300:])
        assert torch.equal(value, alone.compute()), key


def test_collections_forget_real_rows_apart() -> None:
    from torchmetrics import MetricCollection

    make = wf.metrics.FrechetEmbeddingDistance
    collection = MetricCollection({"a": make(8), "b": make(8, reset_real_features=False)})
    collection.update(torch.randn(9, 8), real=True)
    collection.reset()
    assert [int(metric.moments_0[0]) for metric in collection.values()] == [0, 9]


def test_other_settings_do_not_merge_or_load() -> None:
    z = torch.randn(9, 8)
    metric, other = (wf.metrics.EffectiveRank(8, normalize=flag) for flag in (True, False))
    for each in (metric, other):
        each.update(z)
        each.persistent(True)
    want, saved = metric.moments_0.clone(), other.state_dict()
    with pytest.raises(ValueError, match="must agree in normalize, precision"):
        metric.merge_state(other)
    with pytest.raises(ValueError, match="must agree in normalize, precision"):
        metric.load_state_dict(saved)
    assert torch.equal(metric.moments_0, want)
    del saved["settings"]  # as metrics without it saved
    metric.load_state_dict(saved)
    assert torch.equal(metric.moments_0, other.moments_0)


@pytest.mark.parametrize("name", ["W2", "effective rank"])
def test_an_update_that_fails_adds_nothing(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    z = torch.randn(_state.BLOCK + 9, 12)
    metric = filled(name, z[:20])
    want, value = metric.moments_0.clone(), metric.compute()
    with monkeypatch.context() as patch:
        fail_in_the_second_block(patch, MemoryError())
        with pytest.raises(MemoryError):
            metric.update(z)
    assert torch.equal(metric.moments_0, want)
    assert torch.equal(metric.compute(), value)


def test_a_restored_sample_draws_new_keys() -> None:
    """The same rows again, after a checkpoint: no key twice."""
    z = torch.randn(300, 12)
    metric, restored = (wf.metrics.Uniformity(12, capacity=400) for _ in range(2))
    metric.update(z)
    metric.persistent(True)
    restored.load_state_dict(copy.deepcopy(metric.state_dict()))
    for each in (metric, restored):
        each.update(z)
    assert torch.equal(restored.sample, metric.sample)
    assert len(restored.sample[:, 0].unique()) == 400


def test_keys_go_on_after_reset_and_in_forward() -> None:
    z = torch.randn(30, 12)
    metric, want = (wf.metrics.Uniformity(12, capacity=100) for _ in range(2))
    for part in z.split(10):
        metric(part)
        want.update(part)
    assert torch.equal(metric.sample, want.sample)
    assert int(metric.seen) == int(want.seen) == 30
    metric.reset()
    metric.update(z)
    assert not set(metric.sample[:30, 0].tolist()) & set(want.sample[:30, 0].tolist())


def test_plot(tmp_path: Path) -> None:
    pytest.importorskip("matplotlib", reason="a plot needs matplotlib").use("Agg")
    metric = filled("W2", torch.randn(50, 12))
    figure, _ = metric.plot()
    figure.savefig(tmp_path / "one.png")
    figure, axes = metric.plot([metric.compute(), metric.compute()])
    assert axes.get_ylabel() == "WassersteinUniformity"
    figure.savefig(tmp_path / "two.png")


def test_errors() -> None:
    with pytest.raises(TypeError, match="num_features must be an integer, got float"):
        wf.metrics.EffectiveRank(3.0)
    with pytest.raises(ValueError, match="num_features must be >= 1, got 0"):
        wf.metrics.EffectiveRank(0)
    with pytest.raises(ValueError, match="precision must be one of"):
        wf.metrics.EffectiveRank(3, precision="auto")
    with pytest.raises(TypeError, match="capacity must be an integer, got float"):
        wf.metrics.Uniformity(3, capacity=2.7)
    with pytest.raises(ValueError, match="capacity must be >= 2, got 1"):
        wf.metrics.Uniformity(3, capacity=1)
    with pytest.raises(TypeError, match="seed must be an integer, got str"):
        wf.metrics.Uniformity(3, seed="x")
    numpy = wf.metrics.Uniformity(np.int64(3), capacity=np.int32(8), seed=np.uint8(1))
    numpy.update(torch.randn(2, 3))
    wf.metrics.EffectiveRank(np.int64(3)).update(torch.randn(2, 3))
    metric = wf.metrics.Uniformity(3)
    with pytest.raises(ValueError, match=r"\(n, 3\), the width of num_features, got \(2, 4\)"):
        metric.update(torch.randn(2, 4))
    metric.update(torch.randn(1, 3))
    with pytest.raises(ValueError, match="2 rows are needed, got 1"):
        metric.compute()


PROCESS = """
import os, sys, torch
import wssl_fast as wf
rank, world, address, out = int(sys.argv[1]), int(sys.argv[2]), sys.argv[3], sys.argv[4]
torch.set_num_threads(1)
torch.distributed.init_process_group("gloo", init_method=address, rank=rank, world_size=world)
z = torch.randn(90, 12, generator=torch.Generator().manual_seed(0)) + 0.1
mine = [z[:70], z[70:]][rank].split(16)                    # unequal, 5 batches and 2
metrics = {
    "W2": wf.metrics.WassersteinUniformity(12),
    "effective rank": wf.metrics.EffectiveRank(12),
    "L_U": wf.metrics.Uniformity(12, capacity=100),
    "sample": wf.metrics.Uniformity(12, capacity=40),
    "one side": wf.metrics.WassersteinUniformity(12),      # rank 1 sees nothing
}
frechet = wf.metrics.FrechetEmbeddingDistance(12)
for batch in mine:
    for name, metric in metrics.items():
        if name != "one side" or rank == 0:
            metric.update(batch)
    frechet.update(batch, real=rank == 0)                  # one kind of rows a process
if rank == 1:
    metrics["one side"]._update_count = 1                  # compute without update warns
found = {name: metric.compute() for name, metric in (metrics | {"Frechet": frechet}).items()}
found["local"] = metrics["W2"].moments_0[0]                # unsynced again: its own rows
metrics["sample"].sync()
found["kept"] = metrics["sample"].sample
torch.save(found, f"{out}/{rank}.pt")
os._exit(0)  # PyTorch 2.13 aborts now and then when Gloo's threads outlive Python
"""


def test_two_processes(tmp_path: Path) -> None:
    command = [sys.executable, "-c", PROCESS]
    address = (tmp_path / "rendezvous").as_uri()
    processes = [
        subprocess.Popen(
            [*command, str(rank), "2", address, str(tmp_path)],
            cwd=ROOT, stderr=subprocess.PIPE, text=True,
        )
        for rank in range(2)
    ]  # fmt: skip
    errors = [process.communicate(timeout=120)[1] for process in processes]
    assert [process.returncode for process in processes] == [0, 0], "\n".join(errors)
    a, b = (torch.load(tmp_path / f"{rank}.pt", weights_only=True) for rank in range(2))
    assert (a.pop("local"), b.pop("local")) == (70, 20)
    for name, value in a.items():
        assert torch.equal(value, b[name]), name  # every process has the same bits

    z = torch.randn(90, 12, generator=torch.Generator().manual_seed(0)) + 0.1
    for name in ("W2", "effective rank", "L_U"):
        want = METRICS[name][1](z)
        assert a[name].item() == pytest.approx(want, abs=10 * LIMIT, rel=LIMIT), name
    want = wf.reference.wasserstein_uniformity(z[:70]).item()
    assert a["one side"].item() == pytest.approx(want, abs=LIMIT)
    want = wf.reference.frechet_distance(z[:70], z[70:]).item()
    assert a["Frechet"].item() == pytest.approx(want, rel=1e-5)
    kept = a["kept"][:, 1:]
    known = (kept[:, None] == z).all(2)
    assert kept.shape == (40, 12)
    assert bool((known.sum(1) == 1).all())  # 40 rows of the 90,
    assert bool((known.sum(0) <= 1).all())  # each once
    assert 0 < int(known[:, 70:].sum()) < 40  # of both processes
