"""`wssl-fast inspect` and `compare`: figures, gates and pictures."""

import io
import json
from pathlib import Path

import pytest
import torch
from rich.console import Console
from torch import Tensor
from torch.nn import functional as F

import wssl_fast as wf
from tests.cli import files
from tests.cli.commands import report, run
from tests.tolerances import value_tolerance
from wssl_fast import reference
from wssl_fast.cli import gates, scan, summary
from wssl_fast.cli.exits import BAD_INPUT, GATE_FAILED
from wssl_fast.cli.readers import open_sources

PNG = b"\x89PNG\r\n\x1a\n"


def expected(z: Tensor, normalize: bool) -> dict[str, float]:
    x = F.normalize(z.double(), dim=1) if normalize else z.double()
    return {
        "w2": reference.wasserstein_uniformity(z, normalize=normalize).item(),
        "w2_floor": 0.0,
        "w2_of_uniform": wf.metrics.w2_of_uniform(60, 8),
        "uniformity": reference.uniformity(z).item(),
        "effective_rank": reference.effective_rank(x).item(),
        "rankme": reference.rankme(x).item(),
        "mean_norm": z.double().norm(dim=1).mean().item(),
        "norm_of_mean": x.mean(0).norm().item(),
        "rows": 60,
        "columns": 8,
        "rejected_rows": 0,
    }


@pytest.mark.parametrize("normalize", [True, False])
@pytest.mark.parametrize("name", files.FORMATS)
def test_figures_of_every_format(name: str, normalize: bool, tmp_path: Path, z: Tensor) -> None:
    write, suffix = files.FORMATS[name]
    shards = [write(tmp_path / f"{i}{suffix}", part) for i, part in enumerate(z.split(25))]
    found = report("inspect", *shards, "--normalize" if normalize else "--raw")
    want = expected(z, normalize)
    assert found["metrics"].keys() == want.keys() == set(summary.NAMES)
    assert found["metrics"] == pytest.approx(want, abs=value_tolerance("double"), rel=1e-6)
    assert len(found["files"]) == 3
    assert found["normalize"] is normalize
    assert found["uniformity_sample"] == {"rows": 60, "seed": 0, "t": 2.0}
    x = F.normalize(z.double(), dim=1) if normalize else z
    spectrum = reference.covariance_spectrum(x).tolist()
    assert found["covariance_spectrum"] == pytest.approx(spectrum, rel=1e-9)


def test_a_table_for_a_person(path: Path) -> None:
    result = run("inspect", path)
    assert result.exit_code == 0
    for text in ("60 x 8, float32, 1 file", "scaled to unit length", "W2", "of all rows", "of 8"):
        assert text in result.stdout
    few = run("inspect", path, "--sample", 20, "--seed", 3)
    assert "of 20 rows, seed 3" in few.stdout
    one = files.npy(path.with_name("one.npy"), files.rows(1))
    assert "needs 2 rows" in run("inspect", one).stdout


def test_precision_highest(path: Path, z: Tensor) -> None:
    found = report("inspect", path, "--precision", "highest")
    want = reference.wasserstein_uniformity(z).item()
    assert found["metrics"]["w2"] == pytest.approx(want, abs=value_tolerance("highest"))
    assert found["precision"] == "highest"


def test_files_it_writes(path: Path, tmp_path: Path) -> None:
    pytest.importorskip("matplotlib", reason="--plot needs matplotlib")
    out = tmp_path / "out"
    out.mkdir()
    result = run("inspect", path, "--json", out / "a.json", "--plot", out / "a.png")
    assert result.exit_code == 0, result.output
    assert "effective rank" in result.stdout  # the table is shown too
    assert json.loads((out / "a.json").read_text())["metrics"]["rows"] == 60
    assert (out / "a.png").read_bytes().startswith(PNG)
    assert {p.name for p in out.iterdir()} == {"a.json", "a.png"}


@pytest.mark.parametrize(
    "z",
    [torch.ones(5, 4), torch.randn(1, 3), torch.randn(9, 1), torch.zeros(4, 4), torch.eye(2)],
    ids=["constant", "one row", "one column", "zeros", "two"],
)
def test_pictures_of_what_has_little_to_show(z: Tensor, tmp_path: Path) -> None:
    pytest.importorskip("matplotlib", reason="--plot needs matplotlib")
    path = files.npy(tmp_path / "a.npy", z)
    result = run("inspect", path, "--plot", tmp_path / "a.png")
    assert result.exit_code == 0, result.output
    assert (tmp_path / "a.png").read_bytes().startswith(PNG)


def test_gates(path: Path) -> None:
    assert (
        run("inspect", path, "--fail-if", "effective_rank<2", "--fail-if", "w2>1.4").exit_code == 0
    )
    failed = run("inspect", path, "--fail-if", "effective_rank < 100", "--fail-if", "w2>1.4")
    assert failed.exit_code == GATE_FAILED == 1
    assert "failed effective_rank < 100: effective_rank is " in failed.stderr
    assert "W2" in failed.stdout  # the report is there all the same
    found = run("inspect", path, "--fail-if", "rows<=60", "--json", "-")
    assert found.exit_code == GATE_FAILED
    assert json.loads(found.stdout)["failed"] == ["rows<=60"]


def test_a_figure_that_is_missing_fails_its_gate(tmp_path: Path) -> None:
    one = files.npy(tmp_path / "one.npy", files.rows(1))
    result = run("inspect", one, "--fail-if", "uniformity>0")
    assert result.exit_code == GATE_FAILED
    assert "uniformity is not a number" in result.stderr


@pytest.mark.parametrize(
    "text",
    [
        "",
        "w2",
        "w2 is 3",
        "w2<",
        "w2<one",
        "w2<nan",
        "w3<1",
        "1<w2",
        "w2<1 and w2>0",
        "w2<1;rows>0",
    ],
)
def test_conditions_that_are_none(text: str, path: Path) -> None:
    with pytest.raises(ValueError, match=r"no comparison|is none of|is not a number"):
        gates.parse(text, summary.NAMES)
    result = run("inspect", path, "--fail-if", text)
    assert result.exit_code == 2
    assert "--fail-if" in result.stderr


@pytest.mark.parametrize(
    ("text", "holds"),
    [("w2<1", False), ("w2<=1", True), ("w2>=1", True), ("w2>1", False), ("w2==1", True),
     ("w2!=1", False), ("W2 < 1", None), (" w2 < 1e1 ", True), ("w2>-inf", True)],
)  # fmt: skip
def test_comparisons(text: str, holds: bool | None) -> None:
    if holds is None:
        with pytest.raises(ValueError, match="is none of"):
            gates.parse(text, ["w2"])
    else:
        assert gates.parse(text, ["w2"]).failed({"w2": 1.0}) is holds
        assert gates.parse(text, ["w2"]).failed({"w2": float("nan")})


def test_rows_that_are_not_finite(z: Tensor, tmp_path: Path) -> None:
    bad = z.clone()
    bad[[3, 59]], bad[7, 2] = torch.nan, torch.inf
    a = files.npy(tmp_path / "a.npy", bad)
    b = files.npz(tmp_path / "b.npz", bad[50:])
    for order in ((a, b), (b, a)):
        result = run("inspect", *order, "--json", tmp_path / "out.json")
        assert result.exit_code == BAD_INPUT == 3
        assert f"{a}: 3 (rows 3, 7, 59)" in result.stderr.replace("\n", "")
        assert f"{b}[embeddings]: 1 (row 9)" in result.stderr.replace("\n", "")
        assert "4 rows with NaN or infinity" in result.stderr
        assert not (tmp_path / "out.json").exists()
    found = report("inspect", a, b, "--nan", "skip")
    good = torch.cat([bad, bad[50:]])
    good = good[good.isfinite().all(1)]
    want = reference.wasserstein_uniformity(good).item()
    assert found["metrics"]["w2"] == pytest.approx(want, abs=value_tolerance("double"))
    assert found["metrics"]["rows"] == 66
    assert found["metrics"]["rejected_rows"] == 4
    assert found["rejected"][0] == {"file": str(a), "count": 3, "rows": [3, 7, 59]}
    shown = run("inspect", a, b, "--nan", "skip").stdout
    assert "b.npz[embeddings]: 1 (row 9)" in shown  # brackets are no markup
    nothing = files.npy(tmp_path / "nan.npy", torch.full((3, 2), torch.nan))
    result = run("inspect", nothing, "--nan", "skip")
    assert result.exit_code == BAD_INPUT
    assert "no finite row" in result.stderr


def test_bad_input_is_named_with_its_own_exit_code(path: Path, tmp_path: Path) -> None:
    wide = files.npy(tmp_path / "wide.npy", files.rows(m=9))
    out = tmp_path / "out.json"
    out.write_text("before")
    for arguments, text in (
        ((path, wide), "has rows of 9 columns"),
        ((tmp_path / "absent.npy",), "absent.npy: cannot be read"),
        ((path, "--key", "x", files.npz(tmp_path / "b.npz", files.rows())), "has no array 'x'"),
    ):
        result = run("inspect", *arguments, "--json", out)
        assert result.exit_code == BAD_INPUT, result.output
        assert text in result.stderr
    truncated = tmp_path / "short.parquet"
    truncated.write_bytes(b"PAR1")
    assert run("compare", path, wide).exit_code == BAD_INPUT
    assert out.read_text() == "before"


def test_compare(tmp_path: Path, z: Tensor) -> None:
    a = files.npy(tmp_path / "a.npy", z)
    (tmp_path / "b").mkdir()
    y = files.rows(90, seed=1) * 2
    for i, part in enumerate(y.split(40)):
        files.npz(tmp_path / "b" / f"{i}.npz", part)
    found = report("compare", a, tmp_path / "b", "--raw")
    want = reference.frechet_distance(z, y).item()
    assert found["frechet_distance"] == pytest.approx(want, rel=1e-6)
    gap = (z.double().mean(0) - y.double().mean(0)).norm().item()
    assert found["mean_distance"] == pytest.approx(gap, rel=1e-9)
    assert (found["a"]["metrics"]["rows"], found["b"]["metrics"]["rows"]) == (60, 90)
    assert len(found["b"]["covariance_spectrum"]) == 8
    unit = report("compare", a, tmp_path / "b")
    x, y = (F.normalize(rows.double(), dim=1) for rows in (z, y))
    want = reference.frechet_distance(x, y).item()
    assert unit["frechet_distance"] == pytest.approx(want, rel=1e-6)
    shown = run("compare", a, tmp_path / "b", "--fail-if", "b.rows<91", "--fail-if", "a.w2>2")
    assert shown.exit_code == GATE_FAILED
    assert "failed b.rows<91" in shown.stderr
    assert "Frechet distance" in shown.stdout
    assert run("compare", a, tmp_path / "b", "--fail-if", "w2>1").exit_code == 2


def test_a_picture_of_two(path: Path, tmp_path: Path) -> None:
    pytest.importorskip("matplotlib", reason="--plot needs matplotlib")
    other = files.npy(tmp_path / "b.npy", files.rows(40, seed=1))
    result = run("compare", path, other, "--plot", tmp_path / "ab.png")
    assert result.exit_code == 0, result.output
    assert (tmp_path / "ab.png").read_bytes().startswith(PNG)


def test_pairwise_cosines_and_their_density() -> None:
    pytest.importorskip("matplotlib", reason="the pictures' module needs matplotlib")
    from wssl_fast.cli import picture

    x = torch.tensor([[1.0, 0.0], [0.0, 2.0], [-3.0, 0.0]])
    assert picture.pairwise_cosines(x).tolist() == [0, -1, 0]
    for m in (3, 8, 500):
        y, density = picture.sphere_density(m)
        mass, moment = (torch.trapezoid(f, y).item() for f in (density, density * y**2))
        assert mass == pytest.approx(1, abs=2e-3)  # cut off at 0.999
        assert moment == pytest.approx(1 / m, abs=2e-3)


def test_a_bar_on_a_terminal_and_none_in_a_pipe(tmp_path: Path) -> None:
    # brackets of a name are no markup
    path = files.npz(tmp_path / "a.npz", files.rows())
    for terminal in (True, False):
        out = io.StringIO()
        console = Console(file=out, force_terminal=terminal, width=400)
        scan.scan(
            open_sources([path]), normalize=True, precision="double", skip=False, sample=9, seed=0,
            console=console,
        )  # fmt: skip
        assert ("a.npz[embeddings]" in out.getvalue()) is terminal
        assert ("60/60" in out.getvalue()) is terminal


def test_sparkline() -> None:
    line = summary.sparkline(torch.tensor([1.0, 1e-3, 1e-6, 0.0], dtype=torch.float64))
    assert line == "█▄  "
    assert summary.sparkline(torch.zeros(3)) == "   "


def test_sparkline_of_an_encoding_without_blocks() -> None:
    spectrum = torch.tensor([1.0, 1e-3, 1e-6, 0.0], dtype=torch.float64)
    for encoding, line in (("latin-1", "@=  "), ("cp437", "@=  "), ("utf-16", "█▄  ")):
        assert summary.sparkline(spectrum, summary.heights_in(encoding)) == line
