"""`Moments` as a file: written whole or not at all, and read with suspicion."""

from pathlib import Path

import pytest
import torch

from tests.metrics.test_moments import stream
from wssl_fast.metrics import Moments


def test_save_and_load(tmp_path: Path) -> None:
    moments = stream(torch.randn(20, 6), [3], normalize=False, precision="highest")
    moments.save(tmp_path / "a.safetensors")
    back = Moments.load(tmp_path / "a.safetensors")
    assert (back.count, back.dim, back.normalize, back.precision) == (20, 6, False, "highest")
    for name in ("mean", "covariance"):
        assert torch.equal(getattr(back, name), getattr(moments, name))
    assert float(back.rankme()) == float(moments.rankme())
    back.update(torch.randn(2, 6))  # and it goes on
    assert [path.name for path in tmp_path.iterdir()] == ["a.safetensors"]


def test_damaged_and_foreign_files(tmp_path: Path) -> None:
    from safetensors.torch import save_file

    path = tmp_path / "a.safetensors"
    with pytest.raises(FileNotFoundError):
        Moments.load(path)
    save_file({"x": torch.ones(2)}, path)
    with pytest.raises(ValueError, match=r"a\.safetensors must be a file of wssl_fast\.moments"):
        Moments.load(path)
    Moments().update(torch.randn(4, 3)).save(path)
    path.write_bytes(path.read_bytes()[:-8])
    with pytest.raises(ValueError, match=r"a\.safetensors is not a whole safetensors file"):
        Moments.load(path)


def saved(path: Path) -> tuple[dict[str, torch.Tensor], dict[str, str]]:
    """Tensors and metadata of a whole file."""
    from safetensors import safe_open
    from safetensors.torch import load_file

    Moments().update(torch.randn(4, 3)).save(path)
    with safe_open(path, framework="pt") as file:
        return load_file(path), file.metadata()


@pytest.mark.parametrize(
    ("name", "value"),
    [("mean", torch.zeros(2)), ("second_moment", torch.zeros(9)), ("count", torch.ones(1))],
)
def test_parts_that_do_not_fit(tmp_path: Path, name: str, value: torch.Tensor) -> None:
    from safetensors.torch import save_file

    path = tmp_path / "a.safetensors"
    parts, metadata = saved(path)
    save_file(parts | {name: value}, path, metadata)
    with pytest.raises(ValueError, match=r"a\.safetensors is damaged: .* have shapes"):
        Moments.load(path)
    save_file(parts, path, metadata | {"precision": "high"})
    with pytest.raises(ValueError, match=r"a\.safetensors is damaged: .* are \('True', 'high'\)"):
        Moments.load(path)


@pytest.mark.parametrize(
    ("changed", "fault"),
    [
        ({"count": torch.tensor(torch.nan)}, r"count must be a whole number >= 1, got nan"),
        ({"count": torch.tensor(torch.inf)}, r"count .*got inf"),
        ({"count": torch.tensor(-4.0)}, r"count .*got -4\.0"),
        ({"count": torch.tensor(0.0)}, r"count .*got 0\.0"),
        ({"count": torch.tensor(2.5)}, r"count .*got 2\.5"),
        ({"norm_sum": torch.tensor(-1.0)}, r"norm_sum must be >= 0, got -1\.0"),
        ({"mean": torch.zeros(0), "second_moment": torch.zeros(0, 0)}, "mean must have"),
        ({"second_moment": -torch.eye(3)}, "second_moment must have squares"),
        ({"second_moment": torch.ones(3, 3).triu()}, "second_moment must be symmetric"),
    ],
)
def test_parts_that_cannot_be(tmp_path: Path, changed: dict[str, torch.Tensor], fault: str) -> None:
    from safetensors.torch import save_file

    path = tmp_path / "a.safetensors"
    parts, metadata = saved(path)
    save_file(parts | {name: part.double() for name, part in changed.items()}, path, metadata)
    with pytest.raises(ValueError, match=rf"a\.safetensors is damaged: {fault}"):
        Moments.load(path)
    for dtype in (torch.bool, torch.float32, torch.int64):
        for name in parts:
            save_file(parts | {name: parts[name].to(dtype)}, path, metadata)
            with pytest.raises(ValueError, match=rf"is damaged: {name} must be float64, got"):
                Moments.load(path)


def test_moments_of_rows_with_nan_are_not_damaged(tmp_path: Path) -> None:
    path = tmp_path / "a.safetensors"
    for normalize in (True, False):
        moments = Moments(normalize=normalize).update(torch.tensor([[1.0, torch.nan], [1, 2]]))
        moments.save(path)
        assert Moments.load(path).wasserstein_uniformity().isnan()


@pytest.mark.parametrize("error", [OSError("disk full"), KeyboardInterrupt()])
def test_interrupted_writing_leaves_what_was_there(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, error: BaseException
) -> None:
    import safetensors.torch

    path = tmp_path / "a.safetensors"
    moments = Moments().update(torch.randn(4, 3))
    moments.save(path)
    before = path.read_bytes()

    def half(tensors: object, part: Path, metadata: object) -> None:
        part.write_bytes(before[: len(before) // 2])
        raise error

    monkeypatch.setattr(safetensors.torch, "save_file", half)
    with pytest.raises(type(error)):
        moments.save(path)
    assert path.read_bytes() == before
    assert [p.name for p in tmp_path.iterdir()] == [path.name]
