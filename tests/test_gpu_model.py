"""The analytic model of the GPU kernels: counts that are known in closed form, and its readers."""

import json
from pathlib import Path

import pytest
import torch

pytest.importorskip("triton")

from benchmarks.gpu import costs, model
from wssl_fast.backends.triton.newton_schulz import barriers, persistent

SINGLE, WIDE = 42, 90  # k^3 flops of a root: 14 or 30 products by one triangle, as many in full


@pytest.mark.parametrize(
    ("n", "m", "dtype", "precision", "pieces", "back"),
    [
        pytest.param(256, 4096, torch.float32, "auto", 6, 6, id="Gram, float32"),
        pytest.param(256, 4096, torch.bfloat16, "auto", 1, 3, id="Gram, bfloat16"),
        pytest.param(512, 256, torch.float32, "auto", 3, 6, id="covariance, float32"),
    ],
)
def test_flops_are_those_of_the_mathematics(
    n: int, m: int, dtype: torch.dtype, precision: str, pieces: int, back: int
) -> None:
    found = model.call(n, m, dtype, precision)
    k, long = min(n, m), max(n, m)
    forward = k * (k + 1) * long * pieces + SINGLE * 3 * k**3
    assert model.flops(found.forward) == {"half": forward}
    assert model.flops(found.backward) == {"half": 2 * k * k * long * back}


def test_double_is_float64_alone() -> None:
    n, m = 256, 4096
    found = model.call(n, m, torch.float32, "double")
    assert model.flops(found.forward)["float64"] == n * (n + 1) * m + WIDE * n**3
    assert model.flops(found.backward)["float64"] == 2 * n * n * m
    assert model.flops(found.forward + found.backward)["half"] == 0


def test_a_healthy_batch_pays_latency_alone_for_what_stands_by() -> None:
    found = model.call(256, 4096, torch.float32)
    idle = [x for x in found.forward + found.backward if not sum(w.flops + w.bytes for w in x)]
    assert len(idle) == 3  # the Gram matrix, its root and its gradient again
    assert all([work.floor for work in launch] == [costs.LAUNCH] for launch in idle)


@pytest.mark.parametrize("k", [512, 4096])
def test_phases_are_barriers_or_launches(k: int) -> None:
    found = model.call(k, 2 * k, torch.float32)
    roots = [launch for launch in found.forward if launch[0].kernel == "newton_schulz"]
    if persistent(k, costs.H200):
        assert [len(launch) for launch in roots] == [barriers(7) + 1]
    else:
        assert [len(launch) for launch in roots] == [1] * (barriers(7) + 1)


def test_a_plan_is_never_faster_than_its_floor() -> None:
    for n, m in ((256, 1024), (2048, 256)):
        found = model.call(n, m, torch.float32)
        for work in (work for launch in found.forward + found.backward for work in launch):
            assert work.planned >= work.floor > 0


def test_time_goes_with_the_slower_of_bytes_and_products() -> None:
    second = costs.Work("any", flops=costs.RATES["half"], bytes=costs.MEMORY / 2, latency=0.0)
    assert second.floor == 1.0
    third = costs.Work("any", bytes=costs.MEMORY * 3, latency=0.5)
    assert third.floor == 3.5


def test_two_passes_of_a_square_batch() -> None:
    k = 4096
    wide, single = model.two_passes(k, k)
    assert wide == pytest.approx((1 + 90 + 2) * k**3 / costs.RATES["float64"])
    products = (6 * (2 + 4) + 3 * 68) * k**3 / costs.RATES["half"]
    assert single == pytest.approx(products + 8 * k * k / costs.MEMORY)


def test_the_latest_replay_of_a_case_is_set_beside_it(tmp_path: Path) -> None:
    row = {
        "shape": [256, 1024],
        "dtype": "float32",
        "provider": "wssl_fast",
        "mode": "forward+backward",
        "call": "graph",
        "p50_ms": 0.25,
        "hardware": {"gpu": "any"},
        "when": "2026-01-02",
    }
    other = [
        row | {"when": "2026-01-01", "p50_ms": 9.0},
        row | {"call": "plain", "when": "2026-01-03"},
        row | {"hardware": {}, "when": "2026-01-03"},
        row | {"provider": "svdvals", "when": "2026-01-03"},
        {"group": "rates", "hardware": {"gpu": "any"}},
    ]
    (tmp_path / "gpu").mkdir()
    path = tmp_path / "gpu" / "rows.jsonl"
    path.write_text("".join(json.dumps(r) + "\n" for r in [row, *other]))
    assert model.measured(tmp_path) == {(256, 1024, "float32", "auto"): 250.0}


def test_a_line_of_the_table_has_a_cell_a_column() -> None:
    found = list(model.lines([("float32", "auto")], [(256, 1024)], {}))
    assert [len(line) for line in found] == [len(model.HEADER)]


def test_help_is_help(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(model, "document", lambda: pytest.fail("it ran"))
    with pytest.raises(SystemExit) as left:
        model.main(["--help"])
    assert left.value.code == 0
    assert "--out" in capsys.readouterr().out
    with pytest.raises(SystemExit) as left:
        model.main(["--colour"])
    assert left.value.code == 2


def test_the_document_goes_where_it_is_asked_to(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(model, "document", lambda: "a page")
    model.main(["--out", str(tmp_path / "page.md")])
    assert (tmp_path / "page.md").read_text() == "a page"
