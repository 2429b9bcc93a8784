"""Descent on W2 leaves every collapse that exact descent can leave, and is never NaN on the way."""

import json
from pathlib import Path

import pytest
import torch
from matplotlib import pyplot as plt

import wssl_fast as wf
from benchmarks import records
from benchmarks.reliability import __main__ as command
from benchmarks.reliability import descent, descent_report
from benchmarks.reliability.starts import BY_NAME, STARTS, Start, full, low, optimum
from wssl_fast import reference

SHAPES = ((24, 16), (16, 24))
ROWS = descent.MODES[0]
SETTINGS = [(p, s) for p in ("auto", "double") for s in ("eigh", "newton_schulz")]
"""Resolve directions at 1e-6 of the largest; one float32 pass does not: docs/reliability.md."""


def each(starts: list[Start]) -> pytest.MarkDecorator:
    return pytest.mark.parametrize("start", starts, ids=lambda start: start.name)


def rows(start: Start, shape: tuple[int, int]) -> torch.Tensor:
    return start(*shape, torch.Generator().manual_seed(1))


@pytest.mark.parametrize(("precision", "solver"), SETTINGS)
@pytest.mark.parametrize("shape", SHAPES, ids=str)
@each([start for start in STARTS if start.can_escape(24, 16) and start.can_escape(16, 24)])
def test_a_collapse_is_left(
    start: Start, shape: tuple[int, int], precision: str, solver: str
) -> None:
    run = descent.descend(descent.ours(precision, solver), start, *shape, ROWS, 0)
    assert run.failed is None
    assert run.steps is not None, run


@pytest.mark.parametrize(("precision", "solver"), SETTINGS)
@pytest.mark.parametrize("shape", SHAPES, ids=str)
@each([BY_NAME["rank k/8"], BY_NAME["every row twice"]])
def test_what_exact_descent_can_reach_is_reached(
    start: Start, shape: tuple[int, int], precision: str, solver: str
) -> None:
    """From null directions rounding may lead further, never to NaN."""
    run = descent.descend(descent.ours(precision, solver), start, *shape, ROWS, 0)
    assert run.failed is None
    assert run.steps_reachable is not None, run


@pytest.mark.parametrize(("precision", "solver"), SETTINGS)
@pytest.mark.parametrize("shape", SHAPES, ids=str)
@each([BY_NAME["rank 1"], BY_NAME["identical rows"]])
def test_a_stationary_start_stays(
    start: Start, shape: tuple[int, int], precision: str, solver: str
) -> None:
    """Newton-Schulz's gradient of rounding is under 1e-2 of a healthy one (docs/numerics.md)."""
    run = descent.descend(descent.ours(precision, solver), start, *shape, ROWS, 0, steps=20)
    assert run.failed is None
    assert run.gradient <= (1e-12 if solver == "eigh" else 1e-2)
    assert abs(run.last - run.first) <= 1e-6


@pytest.mark.parametrize("solver", ["eigh", "newton_schulz"])
def test_one_pass_reaches_what_it_resolves(solver: str) -> None:
    """`highest` by eigh gives weight 0 to what its float32 Gram cannot tell from null: the optimum
    of the rank is in its reach, more is not promised."""
    n, m = SHAPES[0]
    start = BY_NAME["rank 12 + noise 1e-5"]
    run = descent.descend(descent.ours("highest", solver), start, n, m, ROWS, 0)
    assert run.failed is None
    assert run.least <= optimum(low(n, m), m) + 1e-3


@pytest.mark.parametrize("shape", SHAPES, ids=str)
@pytest.mark.parametrize("solver", ["eigh", "newton_schulz"])
def test_one_pass_is_the_same_by_its_three_names(shape: tuple[int, int], solver: str) -> None:
    z = rows(BY_NAME["rank 12 + noise 1e-4"], shape).float()
    found = [descent.ours(name, solver)(z) for name in ("highest", "high", "medium")]
    assert torch.equal(found[0], found[1])
    assert torch.equal(found[0], found[2])


# what `starts` says of exact descent, on float64 rows and the reference's gradient


@pytest.mark.parametrize("shape", SHAPES, ids=str)
@each(list(STARTS))
def test_w2_at_a_start(start: Start, shape: tuple[int, int]) -> None:
    z = rows(start, shape)
    truth = reference.wasserstein_uniformity(z, squared=True).item()
    assert abs(descent.w2_squared(z) - truth) <= descent.JUDGED
    assert optimum(full(*shape), shape[1]) - 1e-12 <= start.reachable(*shape) <= truth + 1e-12


@pytest.mark.parametrize("shape", SHAPES, ids=str)
def test_the_gradient_of_a_low_rank_stays_in_its_span(shape: tuple[int, int]) -> None:
    z = rows(BY_NAME["rank k/8"], shape)
    grad = reference.wasserstein_uniformity_grad(z, squared=True)
    basis = torch.linalg.svd(z).Vh[: torch.linalg.matrix_rank(z)]
    outside = grad - grad @ basis.mT @ basis
    assert outside.norm() <= 1e-12 * grad.norm()


@pytest.mark.parametrize("shape", SHAPES, ids=str)
def test_copies_have_one_gradient(shape: tuple[int, int]) -> None:
    half = shape[0] // 2
    grad = reference.wasserstein_uniformity_grad(rows(BY_NAME["every row twice"], shape))
    assert (grad[:half] - grad[half:]).norm() <= 1e-12 * grad.norm()


@pytest.mark.parametrize("shape", SHAPES, ids=str)
@each([BY_NAME["rank 1"], BY_NAME["identical rows"]])
def test_stationary_starts_have_no_gradient(start: Start, shape: tuple[int, int]) -> None:
    n, m = shape
    grad = reference.wasserstein_uniformity_grad(rows(start, shape), squared=True)
    assert grad.norm() <= 1e-12 * 2 * (full(n, m) / (n * m)) ** 0.5


@pytest.mark.parametrize("n", [16, 24])
def test_the_optimum_is_attained(n: int) -> None:
    """Steps end there, and the bound is no lower than that: from a healthy batch, in float64."""
    m = 16
    z = torch.randn(n, m, dtype=torch.float64, generator=torch.Generator().manual_seed(2))
    z = torch.nn.functional.normalize(z, dim=1)
    for _ in range(400):
        z = z - n / 8 * reference.wasserstein_uniformity_grad(z, squared=True)
    best = optimum(full(n, m), m)
    assert 0 <= wf.wasserstein_uniformity(z, squared=True).item() - best + 1e-9 <= 1e-3


def test_tables_of_the_docs_are_those_of_the_recorded_rows(tmp_path: Path) -> None:
    page = tmp_path / "reliability.md"
    text = descent_report.PAGE.read_text(encoding="utf-8")
    page.write_text(text, encoding="utf-8")
    descent_report.write_docs(records.read(command.RECORDED / "descent.jsonl"), page)
    assert page.read_text(encoding="utf-8") == text


def test_rows_pictures_and_table_of_a_study(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The command, on few steps of few losses."""
    monkeypatch.setattr(descent, "STEPS", 2)
    monkeypatch.setattr(descent_report, "SEEN_STEPS", 2)
    monkeypatch.setattr(descent_report, "STARTS", [BY_NAME[n] for n in descent_report.SEEN])
    arguments = ["descent", "--quick", "--out", str(tmp_path)]
    assert command.main(arguments) == 0
    found = [json.loads(line) for line in (tmp_path / "descent.jsonl").read_text().splitlines()]
    assert {row["loss"] for row in found} == set(descent.LOSSES)
    assert {row["mode"] for row in found} == set(descent.MODES)
    for name in ("descent", "descent_curves"):
        assert plt.imread(tmp_path / f"{name}.png").std() > 0.02  # something is drawn
        (tmp_path / f"{name}.png").unlink()
    assert command.main(["descent", "--draw", "--out", str(tmp_path)]) == 0
    assert (tmp_path / "descent.png").exists()


def test_without_rows_there_is_nothing_to_draw(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert command.main(["descent", "--draw", "--out", str(tmp_path)]) == 2
    out = capsys.readouterr().out
    assert f"nothing to draw: no {tmp_path / 'descent.jsonl'}" in out
    assert "python -m benchmarks.reliability descent makes them" in out
    assert not list(tmp_path.iterdir())
