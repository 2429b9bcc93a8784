"""Every study runs, reproduces what was published, and is drawn from its CSV alone."""

import json
from pathlib import Path

import pytest
from matplotlib import pyplot as plt
from rich.console import Console

from benchmarks.paper import __main__ as command
from benchmarks.paper import beyond, cloning, collapse, measures, properties, training
from benchmarks.paper.published import Comparison, Expected, pick, read_csv, write_csv
from benchmarks.paper.study import Context

RECORDED = command.RECORDED
PUBLISHED = {"2": 16, "3": 9, "4": 12, "5": 12, "6": 12, "11": 5}
"""Printed numbers a figure."""


@pytest.fixture(scope="module")
def quick(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder that `all --quick` wrote."""
    out = tmp_path_factory.mktemp("paper")
    assert command.main(["all", "--quick", "--out", str(out)]) == 0
    return out


def test_every_published_number_is_reproduced_at_quick_size(quick: Path) -> None:
    found = command.comparisons(quick)
    assert {name: sum(c.figure == name for c in found) for name in PUBLISHED} == PUBLISHED
    assert not [c.row() for c in found if not c.reproduced]


def test_every_published_number_is_reproduced_at_full_size() -> None:
    """Of the committed CSVs."""
    notes = json.loads((RECORDED / "runs.json").read_text(encoding="utf-8"))
    assert set(notes) >= set(command.STUDIES)
    assert not any(note["quick"] for note in notes.values())
    found = command.comparisons(RECORDED)
    assert {name: sum(c.figure == name for c in found) for name in PUBLISHED} == PUBLISHED
    assert not [c.row() for c in found if not c.reproduced]
    for figure in ("3", "4", "5", "6"):
        rows = read_csv(RECORDED / f"figure_{figure}.csv")
        assert max(row["n"] for row in rows) == 50_000, figure


@pytest.mark.parametrize("name", list(command.STUDIES))
def test_a_study_writes_its_numbers_and_a_picture(quick: Path, name: str) -> None:
    rows = read_csv(quick / f"figure_{name}.csv")
    assert rows
    picture = plt.imread(quick / f"figure_{name}.png")
    assert picture.std() > 0.02  # something is drawn


def test_a_picture_is_drawn_from_the_csv(quick: Path, tmp_path: Path) -> None:
    for name in ("3", "properties"):
        source = quick / f"figure_{name}.csv"
        (tmp_path / source.name).write_bytes(source.read_bytes())
        assert command.main([name, "--draw", "--out", str(tmp_path)]) == 0
        drawn = (tmp_path / f"figure_{name}.png").read_bytes()
        assert drawn == (quick / f"figure_{name}.png").read_bytes()
        assert source.read_bytes() == (tmp_path / source.name).read_bytes()


def test_a_seed_gives_the_same_rows_alone_and_among_others(quick: Path, tmp_path: Path) -> None:
    arguments = ["11", "--quick", "--out", str(tmp_path)]
    assert command.main(arguments) == 0
    again = (tmp_path / "figure_11.csv").read_bytes()
    assert again == (quick / "figure_11.csv").read_bytes()
    assert command.main([*arguments, "--seed", "1"]) == 0
    assert (tmp_path / "figure_11.csv").read_bytes() != again


def test_tables_of_the_docs_are_those_of_the_recorded_rows(tmp_path: Path) -> None:
    page = tmp_path / "paper.md"
    text = command.PAGE.read_text(encoding="utf-8")
    page.write_text(text, encoding="utf-8")
    command.write_docs(RECORDED, page)
    assert page.read_text(encoding="utf-8") == text


# wrong input


def test_unknown_study(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as stopped:
        command.main(["33"])
    assert stopped.value.code == 2
    assert "no study 33; there are: list, all, 1, 2, 3" in capsys.readouterr().err


def test_drawing_what_was_not_measured(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        command.main(["3", "--draw", "--out", str(tmp_path)])
    assert "figure_3.csv: run the study first" in capsys.readouterr().err


def test_list_names_every_study(capsys: pytest.CaptureFixture[str]) -> None:
    assert command.main(["list"]) == 0
    listed = capsys.readouterr().out
    assert all(study.title in listed for study in command.STUDIES.values())


# figures of training


def write_run(folder: Path, kind: str) -> Path:
    """A finished run of two epochs."""
    folder.mkdir()
    rows = [
        {"kind": "evaluation", "epoch": 1, "knn": 50.0, "w2": 1.2, "alignment": 0.3},
        {"kind": "final", "epoch": 2, "knn": 60.0, "w2": 1.0, "alignment": 0.4, "method": "byol",
         "uniformity_kind": kind, "spectrum": [-3.0, -5.0, -9.0]},
    ]  # fmt: skip
    lines = "".join(json.dumps(row) + "\n" for row in rows)
    (folder / "metrics.jsonl").write_text(lines, encoding="utf-8")
    return folder


def test_figures_from_training_runs(tmp_path: Path) -> None:
    runs = [str(write_run(tmp_path / f"byol-{kind}", kind)) for kind in ("none", "w2")]
    out = tmp_path / "out"
    assert command.main(["7", "15", "16", "17", "--runs", *runs, "--out", str(out)]) == 0
    spectra = read_csv(out / "figure_7.csv")
    assert [row["log singular value"] for row in spectra] == [-3, -5, -9] * 2
    accuracy = read_csv(out / "figure_15.csv")
    assert [(row["run"], row["epoch"], row["knn"]) for row in accuracy] == [
        (f"byol-{kind}", epoch, knn) for kind in ("none", "w2") for epoch, knn in ((1, 50), (2, 60))
    ]
    assert (out / "figure_17.png").exists()


def test_recorded_runs_are_read_too(tmp_path: Path) -> None:
    run = write_run(tmp_path / "a", "lu")
    recorded = tmp_path / "recorded"
    recorded.mkdir()
    lines = (run / "metrics.jsonl").read_text(encoding="utf-8").splitlines()
    both = [json.dumps({"run": name} | json.loads(line)) for name in "xy" for line in lines]
    (recorded / "rows.jsonl").write_text("\n".join(both) + "\n", encoding="utf-8")
    assert list(training.finished_runs([recorded])) == ["x", "y"]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["7"], "figure 7 is drawn from training runs: --runs FOLDER..."),
        (["16", "--runs", "nowhere"], "nowhere: no finished run in it"),
    ],
)
def test_training_figures_without_a_run(
    arguments: list[str], message: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit):
        command.main([*arguments, "--out", str(tmp_path)])
    assert message in capsys.readouterr().err


# comparing


def test_a_comparison() -> None:
    rows = (Expected(0.30, 0.01), Expected(0.35, 0.02))
    c = Comparison("x", "W2", "", ".30", 0.36, *rows)
    assert c.rounding == pytest.approx(0.005)
    assert c.difference == pytest.approx(0.06)
    assert c.unexplained == pytest.approx(0.01)
    assert c.tolerance == pytest.approx(0.035)
    assert c.reproduced
    assert not Comparison("x", "W2", "", ".30", 0.40, *rows).reproduced
    assert Comparison("x", "KL", "", "4.6e-5", 0, *rows).rounding == pytest.approx(5e-7)


def test_a_wrong_number_is_said(quick: Path, tmp_path: Path) -> None:
    rows = read_csv(quick / "figure_11.csv")
    rows[0]["W2"] = float(rows[0]["W2"]) + 0.01
    write_csv(tmp_path / "figure_11.csv", rows)
    console = Console(record=True, width=200)
    found = command.run(["11"], Context(), tmp_path, console, draw_only=True)
    assert sum(not c.reproduced for c in found) == 1
    assert "NOT reproduced" in console.export_text()


def test_the_printed_numbers_of_figures_5_and_6_are_not_of_the_stated_rows() -> None:
    """They lie within the errors of 1,000 rows, and outside those of 50,000."""
    for published, expected in (
        (cloning.FEATURES_PUBLISHED, cloning.expected_features),
        (cloning.ZEROS_PUBLISHED, cloning.expected_zeros),
    ):
        outside = 0
        for quantity, eta, copies, text in published:
            d, _ = measures.split(cloning.M, eta / 100)
            half_digit = Comparison("", "", "", text, 0, Expected(0), Expected(0)).rounding
            for n in (cloning.PRINTED_N, cloning.STATED_N):
                theory = expected(quantity, n, d, copies)
                off = abs(float(text) - theory.value) > theory.error + half_digit
                if n == cloning.PRINTED_N:
                    assert not off, (quantity, eta, copies)
                outside += off
        assert outside >= 4


def test_figure_3_counts_dimensions_as_its_numbers_do() -> None:
    """1.0558 at 80 % is that of 39 of 199 dimensions; 40 of 200 give 1.0515."""
    printed = next(p for p in collapse.SHARES_PUBLISHED if p[2] == 80 and p[0] == "W2")
    assert printed[3] == "1.0558"
    for d, m, right in ((39, 199, True), (40, 200, False)):
        theory = collapse.expected("W2", collapse.PUBLISHED_N, d, m)
        assert (abs(float(printed[3]) - theory.value) <= theory.error + 5e-5) is right


# properties and gradients: what docs/paper.md says of them


def test_only_w2_has_the_four_properties() -> None:
    rows = list(properties.measure(Context(quick=True)))
    holds = {(row["metric"], row["property"]): row["holds"] for row in rows}
    assert [holds["-W2", p] for p in properties.CHANGES] == ["yes"] * 4
    assert [holds["-L_U", p] for p in properties.CHANGES] == ["yes", "no", "no", "no"]
    others = {name for name, _ in holds} - {"-W2"}
    assert not [name for name in others if all(holds[name, p] == "yes" for p in properties.CHANGES)]
    assert all(holds[name, "IPC"] == "yes" for name in others)


def test_w2_pushes_collapsed_directions_and_l_u_does_not() -> None:
    rows = list(beyond.measure_gradients(Context(quick=True)))

    def push(loss: str) -> float:
        """On the direction closest to a thousandth of the largest."""
        chosen = [row for row in rows if row["loss"] == loss]
        nearest = min(chosen, key=lambda row: abs(float(row["sigma over the largest"]) - 1e-3))
        return float(nearest["push"])

    assert push("W2") > 0.2
    assert abs(push("L_U")) < 0.02
    assert abs(push("|S - I/m|^2")) < 0.02


def test_floors_of_small_batches() -> None:
    for row in beyond.measure_sizes(Context(quick=True)):
        assert row["W2"] >= row["rank floor"] - 1e-6
        assert row["rank floor"] <= row["W2 expected of n rows"] + 1e-9
    full = pick(read_csv(RECORDED / "figure_sizes.csv"), m=8192.0, n=256.0, eta=0.0)
    assert full["W2"] > full["rank floor"] > 1.2
