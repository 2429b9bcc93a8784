"""benchmarks.steps: the methods by their definitions, one step, the arms, rows and tables."""

import copy
import json
import math
from dataclasses import replace

import pytest
import torch
from torch import Tensor
from torch.nn import functional as F

import wssl_fast as wf
from benchmarks import harness
from benchmarks.batches import healthy
from benchmarks.harness import Timing
from benchmarks.networks import Encoder, resnet18, small_resnet
from benchmarks.ssl.methods import BYOL, BarlowTwins, MoCoV2, VICReg, Views, info_nce
from benchmarks.ssl.networks import Networks
from benchmarks.steps import plan, report
from benchmarks.steps.arms import ARMS, EIGVALSH, NONE, OURS, PAPER, PROBE_DIM, Arm, Forecast
from benchmarks.steps.measure import ArmResult, Cell, Measured, Settings, measure, rows
from benchmarks.steps.methods import METHODS
from benchmarks.steps.step import Step, synthetic_views

TINY = Encoder("tiny", lambda: small_resnet(2), 16, 1, 8, "")
QUEUE = 32
TINY_METHODS = [BarlowTwins(), VICReg(), BYOL(), MoCoV2(queue_rows=QUEUE)]
BATCH, DIM = 8, 6
FLOAT64 = 1e-9  # rounding of float64 times a condition number below 1e5, networks included


def tiny_step(method, dim: int = DIM, batch: int = BATCH) -> Step:
    """In float64, of a network of a few hundred weights."""
    networks = Networks(method, TINY, dim, hidden=8).double()
    return Step(networks, Views(*(view.double() for view in synthetic_views(TINY, batch))))


def two(n: int, m: int, seed: int = 0) -> Views:
    return Views(healthy(n, m, seed).double(), healthy(n, m, seed + 1).double())


def off_diagonal(square: Tensor) -> Tensor:
    return square[~torch.eye(len(square), dtype=torch.bool)]


def test_barlow_twins_by_its_definition() -> None:
    z = two(12, 5)
    unit = [(x - x.mean(0)) / (x.var(0, unbiased=False) + 1e-5).sqrt() for x in z]
    c = unit[0].T @ unit[1] / 12
    expected = (1 - c.diagonal()).square().sum() + 0.08 * off_diagonal(c).square().sum()
    torch.testing.assert_close(BarlowTwins().loss(z, None, None), expected)


def test_vicreg_by_its_definition() -> None:
    z = two(12, 5)
    expected = 25 * (z.a - z.b).square().mean()
    for x in z:
        expected = expected + 25 * F.relu(1 - (x.var(0) + 1e-4).sqrt()).mean() / 2
        expected = expected + off_diagonal(torch.cov(x.T)).square().sum() / 5
    torch.testing.assert_close(VICReg().loss(z, None, None), expected)


def test_byol_by_its_definition() -> None:
    online, target = two(7, 5), two(7, 5, seed=2)
    expected = 0.0
    for p, z in ((online.a, target.b), (online.b, target.a)):
        for i in range(7):
            cosine = (p[i] @ z[i] / (p[i].norm() * z[i].norm())).item()
            expected += (2 - 2 * cosine) / 7
    assert BYOL().loss(online, target, None).item() == pytest.approx(expected, rel=1e-12)


def test_info_nce_by_hand() -> None:
    q, k = two(5, 4)
    queue = F.normalize(healthy(9, 4, 3).double(), dim=1)
    expected = 0.0
    for i in range(5):
        unit = q[i] / q[i].norm()
        similar = [(unit @ k[i] / k[i].norm()).item()] + [(unit @ row).item() for row in queue]
        powers = [math.exp(s / 0.2) for s in similar]
        expected -= math.log(powers[0] / sum(powers)) / 5
    assert info_nce(q, k, queue, 0.2).item() == pytest.approx(expected, rel=1e-12)


def test_moco_goes_both_ways() -> None:
    online, target = two(5, 4), two(5, 4, seed=2)
    queue = F.normalize(healthy(9, 4, 5).double(), dim=1)
    expected = sum(
        info_nce(q, k, queue, 0.2) for q, k in ((online.a, target.b), (online.b, target.a))
    )
    torch.testing.assert_close(MoCoV2().loss(online, target, queue), expected)


def test_weights_are_the_papers() -> None:
    assert {name: (m.w2_weight, m.paper_ridge) for name, m in METHODS.items()} == {
        "Barlow Twins": (30, 1e-12),
        "VICReg": (1, 0),  # not in the paper
        "BYOL": (0.2, 0),
        "MoCo v2": (1, 1e-4),
    }


@pytest.mark.parametrize("method", TINY_METHODS, ids=lambda method: method.name)
def test_gradients_reach_what_is_trained_and_nothing_else(method) -> None:
    step = tiny_step(method)
    step.run(wf.wasserstein_uniformity)
    networks = step.networks
    for name, parameter in networks.named_parameters():
        if name.startswith("target"):
            assert parameter.grad is None
            assert not parameter.requires_grad
        else:
            assert parameter.grad is not None, name
            assert parameter.grad.isfinite().all(), name
    # a bias that batch normalisation takes off again has gradient 0, every matrix a real one
    matrices = [p for p in networks.trainable() if p.ndim > 1]
    assert all(p.grad.abs().max() > 0 for p in matrices)


@pytest.mark.parametrize("arm", ARMS, ids=lambda arm: arm.name)
@pytest.mark.parametrize("method", TINY_METHODS, ids=lambda method: method.name)
def test_arms_differ_by_the_w2_term_alone(method, arm: Arm) -> None:
    step = tiny_step(method)
    without, _ = step.loss(None)
    step.restore()
    beside, outputs = step.loss(arm.loss(method))
    if arm.name == NONE:
        assert torch.equal(beside, without)
        return
    z = torch.cat(outputs.embedded)
    assert z.shape == (2 * BATCH, DIM)
    w2 = wf.reference.wasserstein_uniformity(z, eps=arm.ridge(method))
    expected = without + method.w2_weight * w2
    torch.testing.assert_close(beside, expected, rtol=FLOAT64, atol=FLOAT64)


@pytest.mark.parametrize("method", TINY_METHODS[2:], ids=lambda method: method.name)
def test_target_follows_the_online_branch(method) -> None:
    step = tiny_step(method)
    before = [parameter.clone() for parameter in step.networks.target.parameters()]
    step.run(None)
    pairs = zip(before, step.networks.online.parameters(), strict=True)
    for slow, (old, new) in zip(step.networks.target.parameters(), pairs, strict=True):
        torch.testing.assert_close(slow, 0.99 * old + 0.01 * new, rtol=1e-12, atol=1e-15)


def test_queue_takes_the_keys_of_both_views_in_turn() -> None:
    networks = Networks(MoCoV2(queue_rows=QUEUE), TINY, DIM, hidden=8).double()
    first = networks.queue.clone()
    torch.testing.assert_close(first.norm(dim=1), torch.ones(QUEUE, dtype=torch.float64))
    keys = two(BATCH, DIM)
    networks.after_step(keys)
    expected = torch.cat([F.normalize(torch.cat(keys), dim=1), first[2 * BATCH :]])
    torch.testing.assert_close(networks.queue, expected)
    assert networks.queue_head == 2 * BATCH
    networks.after_step(two(BATCH, DIM, seed=4))
    assert networks.queue_head == 0
    with pytest.raises(ValueError, match="multiple"):
        networks.after_step(two(BATCH + 1, DIM))


@pytest.mark.parametrize("method", TINY_METHODS, ids=lambda method: method.name)
def test_every_step_starts_from_the_same_state(method) -> None:
    step = tiny_step(method)
    saved = copy.deepcopy(step.networks.state_dict())
    first = step.run(wf.wasserstein_uniformity)
    assert not torch.equal(step.networks.online[1][-1].weight, saved["online.1.6.weight"])
    step.restore()
    assert all(torch.equal(a, saved[name]) for name, a in step.networks.state_dict().items())
    assert torch.equal(step.run(wf.wasserstein_uniformity), first)


def test_views_share_their_images() -> None:
    views = synthetic_views(TINY, 4, seed=1)
    assert views.a.shape == (4, 1, 8, 8)
    assert not torch.equal(*views)
    assert torch.corrcoef(torch.stack([view.flatten() for view in views]))[0, 1] > 0.5
    assert torch.equal(views.a, synthetic_views(TINY, 4, seed=1).a)


def test_resnet18() -> None:
    encoder = resnet18()
    # He et al. 2016's 11.2 million: 11,173,962 with a classifier of ten, less 512 * 10 + 10
    assert sum(parameter.numel() for parameter in encoder.parameters()) == 11_168_832
    assert encoder(torch.randn(2, 3, 32, 32)).shape == (2, 512)


TINY_CELL = Cell(BYOL(), 16, 12)
ONE_ROUND = Settings(rounds=2, seconds_per_arm=0.01, limit_seconds=1e9)


def test_rows_of_a_cell() -> None:
    off = Arm("off by one", lambda method: lambda z: wf.wasserstein_uniformity(z) + 1)
    nan = Arm("NaN", lambda method: lambda z: wf.wasserstein_uniformity(z) + _nan(z))
    measured = measure(TINY_CELL, ONE_ROUND, Forecast("cpu"), [*ARMS, off, nan])
    found = {row["arm"]: row for row in rows(measured)}
    assert json.loads(json.dumps(list(found.values()), allow_nan=False)) == list(found.values())
    schema = harness.rows("", (1, 1), {NONE: Timing(NONE)})[0].keys()
    for row in found.values():
        assert schema <= row.keys()
        cell = [row[key] for key in ("method", "dim", "batch", "shape", "device", "encoder")]
        assert cell == ["BYOL", 16, 12, [24, 16], "cpu", "small"]
    assert found[NONE]["overhead"] is None
    assert found[NONE]["rounds"] == 2
    for name in (OURS, EIGVALSH, PAPER):
        assert found[name]["wrong"] is None
        assert found[name]["gradient_cosine"] > 0.9  # rank 16 of 24 rows: all forms are right
        assert found[name]["alone_p50_ms"] > 0
        expected = Timing(name, measured.overheads(name)).median / measured_base(measured)
        assert found[name]["overhead"] == pytest.approx(expected, rel=1e-4)  # five digits
    assert found["off by one"]["wrong"] == "value off by 1.0e+00"
    assert found["NaN"]["wrong"] == "gradient not finite"
    for name in ("off by one", "NaN"):
        assert found[name]["rounds"] == 0
        assert found[name]["p50_ms"] is None


def _nan(z: Tensor) -> Tensor:
    """0 in value, NaN in gradient: the root's slope at 0, times 0."""
    return (z.detach() - z).square().sum().sqrt()


def measured_base(measured: Measured) -> float:
    return Timing(NONE, list(measured.arms[NONE].steps.values())).median


def test_foreseen_arms_have_rows_and_are_not_run() -> None:
    calls: list[int] = []

    def slow(method):
        def loss(z: Tensor) -> Tensor:
            calls.append(len(z))
            return wf.wasserstein_uniformity(z)

        return loss

    arms = [ARMS[0], ARMS[1], Arm("slow", slow, decomposes=True)]
    settings = replace(ONE_ROUND, limit_seconds=0.0)
    measured = measure(TINY_CELL, settings, Forecast("cpu"), arms)
    assert len(calls) == 2  # the forecast's two
    found = {row["arm"]: row for row in rows(measured)}
    assert found[OURS]["rounds"] == 2  # no decomposition of m x m: no forecast
    assert found["slow"]["rounds"] == 0
    assert found["slow"]["foreseen_ms"] > 0
    assert found["slow"]["skipped"].startswith("foreseen to take")
    assert found["slow"]["wrong"] is None


def test_forecast_is_cubic() -> None:
    forecast = Forecast("cpu")
    eigvalsh = next(arm for arm in ARMS if arm.name == EIGVALSH)
    forecast._probed[EIGVALSH, 512, PROBE_DIM] = 0.5
    assert forecast.seconds(eigvalsh, BYOL(), 512, 4 * PROBE_DIM) == 32
    assert forecast.seconds(eigvalsh, BYOL(), 512, PROBE_DIM) == 0.5
    assert forecast.seconds(ARMS[1], BYOL(), 512, 16384) == 0


def test_the_step_without_w2_comes_first() -> None:
    with pytest.raises(ValueError, match="first arm"):
        measure(TINY_CELL, ONE_ROUND, Forecast("cpu"), ARMS[1:])


def made(dim: int, ours: list[float]) -> list[dict[str, object]]:
    """Rows of steps of 100 s, with W2 of ours[round] more."""
    none = ArmResult(NONE, dict.fromkeys(range(len(ours)), 100.0), {0: 40.0})
    beside = ArmResult(OURS, {i: 100 + more for i, more in enumerate(ours)}, {0: 2.0})
    foreseen = ArmResult(EIGVALSH, foreseen=150.0, skipped="foreseen")
    wrong = ArmResult(PAPER, wrong="gradient not finite")
    arms = {result.arm: result for result in (none, beside, foreseen, wrong)}
    return rows(Measured(Cell(BarlowTwins(), dim, 256), arms, 9.0, 10))


def test_table_and_verdict_from_rows() -> None:
    found = made(8192, [1.0, 2.0, 3.0]) + made(256, [1.0])
    text = report.markdown(found)
    cells = "100,000 | 40.0 | 2.0 | 1.4..2.6 | 2.0 | > (~150 s) | gradient not finite |"
    assert f"| Barlow Twins | 8,192 | 256 | {cells}" in text
    (verdict,) = report.verdicts(found)
    assert "2.0 % of a step" in verdict
    assert verdict.endswith("aimed at 3 %: hit")
    (verdict,) = report.verdicts(made(8192, [4.0]))
    assert verdict.endswith("aimed at 3 %: **missed**")


def test_plans() -> None:
    assert len(plan.every_cell("cpu")) == 32
    subset = plan.subset("cpu")
    assert {cell.method.name for cell in subset if cell.dim == 2048} == set(METHODS)
    assert [cell.dim for cell in subset if cell.method.name == "Barlow Twins"] == list(plan.DIMS)
    assert len(plan.subset("cuda")) == 32
    assert {cell.encoder for cell in plan.subset("cuda")} == {"resnet18"}
    assert len({cell.name for cell in plan.every_cell("cpu")}) == 32
