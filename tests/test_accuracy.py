"""benchmarks.accuracy: right on losses whose error is known, and its rows and table."""

import json
import math
from dataclasses import asdict
from pathlib import Path

import pytest
import torch
from torch import Tensor

import wssl_fast as wf
from benchmarks import machine
from benchmarks.accuracy import measure, report
from benchmarks.accuracy.__main__ import main
from benchmarks.accuracy.measure import ABOVE, OURS, Errors, Scale, errors, providers, run, steps
from benchmarks.peers import eigvalsh_w2, literal_w2, svdvals_w2
from benchmarks.studies.spectra import SPECTRA, Batch, from_rows, raw_rows
from tests.tolerances import gradient_tolerance, resolution, value_tolerance
from wssl_fast import reference

SHAPES = [(20, 40), (40, 20)]  # Gram and covariance formulation
TINY = Scale(k=16, spectra=("flat", "n = 2"), rounds=2)


def unit(spectrum: str, n: int, m: int) -> Batch:
    rows = raw_rows(spectrum, n, m)
    return from_rows(rows / rows.norm(dim=1, keepdim=True), torch.float32)


class Pushing(torch.autograd.Function):
    """W2 in float64, its polar factor's directions weighted by `weight(sigma/sigma_max)`."""

    @staticmethod
    def forward(ctx, z, squared, normalize, weight):  # type: ignore[no-untyped-def]
        x = z.double()
        n, m = z.shape
        u, s, vh = torch.linalg.svd(x - x.mean(0), full_matrices=False)
        polar = math.sqrt(n) * (u * weight(s / s[0])) @ vh
        ctx.save_for_backward((2 / n * x - 2 / (n * math.sqrt(m)) * polar).to(z.dtype))
        return reference.wasserstein_uniformity(z, squared=squared, normalize=normalize).to(z.dtype)

    @staticmethod
    def backward(ctx, grad):  # type: ignore[no-untyped-def]
        return grad * ctx.saved_tensors[0], None, None, None


def weighted(weight):  # type: ignore[no-untyped-def]
    def w2(z: Tensor, *, squared: bool = False, normalize: bool = True) -> Tensor:
        return Pushing.apply(z, squared, normalize, weight)

    return w2


@pytest.mark.parametrize(("n", "m"), SHAPES)
def test_errors_by_direction(n: int, m: int) -> None:
    """Weight 0.7 on directions from 1e-2 up, 0 below: errors 0.3 there, and 1 on the rest."""
    data = unit("noise 1e-3", n, m)
    found = errors(weighted(lambda s: torch.where(s >= 1e-2, 0.7, 0.0).double()), data)
    rank = min(n - 1, m)
    upper = int((data.relative >= 1e-2).sum())
    assert upper < rank
    rms = math.sqrt((0.3**2 * upper + rank - upper) / rank)
    # P is found from a float32 gradient: eps times its norm over sqrt(k), with margin
    assert found.gradient == pytest.approx({"0.01": 0.3, "3e-05": rms}, abs=1e-5)
    assert found.cosine == pytest.approx(math.sqrt(upper / rank), abs=1e-5)
    assert found.value < 1e-6
    assert found.failure is None


@pytest.mark.parametrize(("n", "m"), SHAPES)
def test_polar_factor_from_the_gradient(n: int, m: int) -> None:
    z = unit("power law", n, m).rows.double()
    gradient = reference.wasserstein_uniformity_grad(z, normalize=False, squared=True)
    truth = reference.polar_factor(z, normalize=False)
    torch.testing.assert_close(measure.polar_of(gradient, z), truth)


@pytest.mark.parametrize(("n", "m"), SHAPES)
def test_resolution(n: int, m: int) -> None:
    assert measure.resolved(wf.wasserstein_uniformity, n, m) < resolution("auto")
    assert measure.resolved(eigvalsh_w2, n, m) > resolution("auto")  # a squared float32 matrix
    cut = measure.resolved(weighted(lambda s: (s > 1e-2).double()), n, m)
    assert 1e-2 < cut < 1e-2 * 10 ** (2 * 8 / (min(n - 1, m) - 1))  # two rungs of its ladder
    assert measure.resolved(lambda z, **_: z.sum() * math.nan, n, m) is None


def nan_gradient(z: Tensor, *, squared: bool = False, normalize: bool = True) -> Tensor:
    return svdvals_w2(z, squared=squared, normalize=normalize) + (z - z.detach()).sum().sqrt()


def no_convergence(z: Tensor, **_: bool) -> Tensor:
    raise torch.linalg.LinAlgError("linalg.eigh: failed to converge\nmore")


@pytest.mark.parametrize(
    ("w2", "failure"),
    [
        (lambda z, **_: z.sum() * math.inf, "value is not finite"),
        (nan_gradient, "gradient is not finite"),
        (no_convergence, "LinAlgError: linalg.eigh: failed to converge"),
    ],
)
def test_failures_are_named(w2, failure: str) -> None:
    found = errors(w2, unit("flat", 8, 16))
    assert found == Errors(None, None, None, failure)


@pytest.mark.parametrize("spectrum", [s for s in SPECTRA if s != "n = 2"])
def test_zoo_reaches_both_formulations(spectrum: str) -> None:
    for n, m in ((24, 48), (48, 24)):
        rows = raw_rows(spectrum, n, m)
        assert rows.shape == (n, m)
        assert rows.isfinite().all()
    assert torch.equal(raw_rows(spectrum, 24), raw_rows(spectrum, 24, 48))


@pytest.mark.parametrize("name", [measure.DEAD, measure.ONE_HOT])
def test_the_papers_form_is_nan_on_exact_spectra(name: str) -> None:
    for shape in SHAPES:
        ((spectrum, data),) = measure.zoo(Scale(spectra=(name,)), shape)
        assert spectrum == name
        assert errors(literal_w2, data).failure == "gradient is not finite"
        found = errors(wf.wasserstein_uniformity, data)
        assert found.failure is None
        assert found.gradient["3e-05"] < gradient_tolerance("auto")


def test_providers_take_both_keywords() -> None:
    z = unit("flat", 10, 30).rows
    for name, w2 in providers().items():
        value = w2(z, squared=True, normalize=False)
        assert value.isfinite(), name
        # on a healthy batch all but Muon agree to what ends an iteration early
        assert name == "Muon" or value.item() == pytest.approx(w2(z).item() ** 2, abs=1e-3)


def test_run_makes_a_row_a_provider_and_formulation() -> None:
    said: list[str] = []
    rows = list(run(TINY, said.append))
    assert len(said) == steps(TINY) == 5  # two spectra and times, one spectrum and times
    assert len(rows) == 2 * len(providers())
    ours = [row for row in rows if row["provider"] == OURS]
    assert [row["shape"] for row in ours] == [[16, 32], [32, 16]]
    assert [list(row["spectra"]) for row in ours] == [["flat", "n = 2"], ["flat"]]
    for row in ours:
        assert row["healthy_over_ours"] == row["collapsed_over_ours"] == 1
        for found in row["spectra"].values():
            assert found["value"] <= value_tolerance("auto")
            assert list(found["gradient"]) == [f"{above:g}" for above in ABOVE]
    assert json.loads(json.dumps(rows, allow_nan=False)) == rows


def made(provider: str, formulation: str, shape: list[int], *found: Errors) -> dict[str, object]:
    return {
        "provider": provider,
        "formulation": formulation,
        "shape": shape,
        "spectra": {f"spectrum {i}": asdict(e) for i, e in enumerate(found)},
        "resolution": 1e-7 if formulation == "n < m" else 2e-5,
        "healthy_ms": 4.0,
        "collapsed_ms": 6.0,
        "healthy_over_ours": 1.0,
        "collapsed_over_ours": 1.5,
        "hardware": {"cpu": "A processor", "generation": "zen", "threads": 2},
    }


GOOD = Errors(1e-8, {"0.01": 1e-6, "3e-05": 1e-4}, 1.0)
POOR = Errors(1e-3, {"0.01": 1e-2, "3e-05": 0.8}, 0.5)
BROKEN = Errors(None, None, None, "gradient is not finite")
ROWS = [
    made("right", "n < m", [4, 8], GOOD, GOOD),
    made("mixed", "n < m", [4, 8], GOOD, BROKEN),
    made("right", "n > m", [8, 4], GOOD),
    made("mixed", "n > m", [8, 4], POOR),
]


def test_cells_pool_both_formulations() -> None:
    right, mixed = report.cells(ROWS)
    assert right[:7] == [
        "right",
        "1e-08 / 1e-08",
        "1e-06 / 1e-06",
        "1e-04 / 1e-04",
        "1.000 / 1.000",
        "-",
        "2e-05",
    ]
    assert mixed[1] == "5e-04 / 1e-03"  # of the two that are finite
    assert mixed[4] == "0.750 / 0.500"
    assert mixed[5] == "1 of 3"
    assert mixed[7:] == ["1.00 / 1.50", "1.00 / 1.50"]
    assert len(mixed) == len(report.HEADER)


def test_a_provider_that_always_fails_keeps_its_row() -> None:
    untimed = {"healthy_ms": None, "healthy_over_ours": None}
    row = {**made("broken", "n < m", [4, 8], BROKEN), **untimed, "resolution": None}
    (line,) = report.cells([row])
    assert line == ["broken", "-", "-", "-", "-", "1 of 1", "not finite", "- / 1.50"]


def test_markdown_names_failures() -> None:
    text = report.markdown(ROWS)
    assert len([line for line in text.splitlines() if line.startswith("|")]) == 4
    assert "mixed: spectrum 1 (gradient is not finite)" in text
    assert "4 x 8 4.0 and 6.0 ms" in text


def test_write_docs(tmp_path: Path) -> None:
    page = tmp_path / "page.md"
    page.write_text(f"above\n{report.BEGIN}\nold\n{report.END}\nbelow\n")
    report.write_docs(ROWS, page)
    text = page.read_text()
    assert text.startswith(f"above\n{report.BEGIN}\n| W2 by |")
    assert text.endswith(f"{report.END}\nbelow\n")
    assert "old" not in text
    page.write_text("no markers")
    with pytest.raises(ValueError, match="accuracy: begin"):
        report.write_docs(ROWS, page)


def test_record_appends(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(machine.MACHINE_VARIABLE, "here")
    report.record(report.located(ROWS[:1]), tmp_path)
    path = report.record(report.located(ROWS[1:2]), tmp_path)
    assert path == tmp_path / "here" / "accuracy.jsonl"
    first, second = (json.loads(line) for line in path.read_text().splitlines())
    assert (first["provider"], second["provider"]) == ("right", "mixed")
    assert {"hardware", "versions", "commit", "when"} <= first.keys()


@pytest.mark.parametrize("option", ["--record", "--write-docs"])
def test_quick_is_not_recorded(option: str, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        main(["--quick", option])
    assert "rehearsal" in capsys.readouterr().err
