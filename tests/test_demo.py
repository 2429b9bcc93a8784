"""benchmarks.demo in seconds: every part runs, and what it leaves can be read."""

import math
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from benchmarks.data import load_digits
from benchmarks.demo import __main__ as demo
from benchmarks.demo.readme import BEGIN, END, paste
from benchmarks.demo.speed import Curve, foresee
from benchmarks.demo.tables import Table
from benchmarks.harness import Case, Timing, measure
from benchmarks.ssl.evaluate import knn_accuracy
from benchmarks.ssl_small import Recipe, train

PNG = b"\x89PNG\r\n\x1a\n"


@pytest.fixture(scope="module")
def out(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("demo")
    demo.main(["--quick", "--out", str(folder)])
    return folder


def test_picture(out: Path) -> None:
    assert (out / "demo.png").read_bytes().startswith(PNG)


def test_tables(out: Path) -> None:
    text = (out / "demo.md").read_text(encoding="utf-8")
    for expected in (
        "against the float64 truth",
        "| W2, wssl_fast |",
        "| W2, the paper's eigh |",
        "| Barlow Twins' loss |",
        "| L_U, pdist |",
        "digits: Barlow Twins alone, and with W2 beside it",
        "from scikit-learn",
    ):
        assert expected in text
    ours = next(line for line in text.splitlines() if line.startswith("| W2, wssl_fast |"))
    on_healthy, on_collapsed = ours.strip("| ").split(" | ")[-2:]
    assert float(on_healthy) > 0.999
    assert float(on_collapsed) > 0.999


def test_named_folder_is_missing(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as stop:
        demo.main(["--quick", "--data", str(tmp_path / "absent"), "--out", str(tmp_path)])
    assert stop.value.code == 2
    assert "no such folder" in capsys.readouterr().err


def test_arms_share_seed_batches_and_augmentations(monkeypatch: pytest.MonkeyPatch) -> None:
    """The W2 loss draws no random numbers: both arms see the same views, pixel for pixel."""
    from benchmarks import ssl_small

    recipe = replace(demo.QUICK.recipe, epochs=1)
    images = load_digits()
    make = ssl_small.augmentation
    seen: dict[float, list[float]] = {}
    for weight in (0.0, 30.0):
        sums = seen.setdefault(weight, [])

        def watched(recipe: Recipe, side: int, sums: list[float] = sums):
            augment = make(recipe, side)

            def call(batch: torch.Tensor) -> torch.Tensor:
                view = augment(batch)
                sums.append(view.double().sum().item())
                return view

            return call

        monkeypatch.setattr(ssl_small, "augmentation", watched)
        train(replace(recipe, w2_weight_start=weight), images)
    assert len(seen[0.0]) == 2 * (recipe.train_count // recipe.batch_size)
    assert seen[0.0] == seen[30.0]


def test_weight_schedule() -> None:
    recipe = Recipe(epochs=4, w2_weight_start=30.0, w2_weight_end=10.0)
    assert [recipe.w2_weight(epoch) for epoch in range(4)] == [30.0, 25.0, 20.0, 15.0]


def test_knn_accuracy() -> None:
    bank = torch.eye(2).repeat_interleave(5, 0)
    labels = torch.tensor([0] * 5 + [1] * 5)
    queries = torch.tensor([[2.0, 0.1], [0.1, 3.0], [1.0, 0.0]])
    right = knn_accuracy(bank, labels, queries, torch.tensor([0, 1, 1]), neighbours=5)
    assert right == pytest.approx(100 * 2 / 3)


def test_foreseen_times() -> None:
    timings = [Timing("p", [0.1]), Timing("p", [0.6])]
    curve = Curve("p", [256, 512], timings, {})
    assert foresee(curve, 1024) == pytest.approx(3.6)
    assert foresee(curve, 2048) == pytest.approx(21.6)
    assert foresee(Curve("p", [], [], {}), 256) == 0


def test_wrong_provider_is_not_timed() -> None:
    calls: list[str] = []
    cases = [
        Case("right", lambda z: calls.append("right")),
        Case("wrong", lambda z: calls.append("wrong"), check=lambda: "off by 1"),
    ]
    timings = measure(cases, [torch.zeros(1)], rounds=6, seconds_per_case=1.0)
    assert timings["wrong"].wrong == "off by 1"
    assert math.isnan(timings["wrong"].median)
    assert len(timings["right"].samples) == 6
    assert "wrong" not in calls


def test_table_in_markdown() -> None:
    text = Table("Title", ["name", "|x|"], [["a", "1"]], note="Why.").markdown()
    assert text == "**Title**\n\n| name | \\|x\\| |\n| :-- | --: |\n| a | 1 |\n\nWhy.\n"


def test_paste() -> None:
    page = f"# A\n{BEGIN}\nold\n{END}\ntail\n"
    assert paste("new\n", page) == f"# A\n{BEGIN}\nnew\n{END}\ntail\n"
    assert paste("new\n", paste("new\n", page)) == paste("new\n", page)
    with pytest.raises(ValueError, match="demo:begin"):
        paste("new", "no markers")
