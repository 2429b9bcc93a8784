"""Every script of examples/ runs and does what it says; `wssl-fast inspect` reads what it saves."""

import importlib.util
import json
from pathlib import Path
from types import ModuleType

import numpy as np
import pytest
import torch
from torch.nn import functional as F
from typer.testing import CliRunner

import wssl_fast as wf
from tests.tolerances import value_tolerance
from wssl_fast import cli, reference

FOLDER = Path(__file__).parents[1] / "examples"
LIMIT = value_tolerance("double")


def example(name: str, *, needs: str | None = None) -> ModuleType:
    """The script as a module; the test is skipped where its library is absent."""
    if needs:
        pytest.importorskip(needs, reason=f"examples/{name}.py needs {needs}")
    spec = importlib.util.spec_from_file_location(f"examples_{name}", FOLDER / f"{name}.py")
    assert spec
    assert spec.loader
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_every_script_is_documented() -> None:
    listed = (FOLDER / "README.md").read_text()
    for script in FOLDER.glob("*.py"):
        assert f"`{script.name}`" in listed


@pytest.fixture(scope="module")
def embeddings(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Test embeddings of a network trained here, by plain_pytorch.py."""
    path = tmp_path_factory.mktemp("trained") / "embeddings.npy"
    plain = example("plain_pytorch", needs="sklearn")
    found = plain.main(["--epochs", "3", "--out", str(path)])
    z = torch.from_numpy(np.load(path))
    assert found["w2"] == pytest.approx(wf.wasserstein_uniformity(z).item(), abs=LIMIT)
    return path


def test_plain_pytorch_with_and_without_w2(embeddings: Path) -> None:
    """Real images, three epochs, one seed: W2 in the loss leaves many directions, alignment alone
    a few."""
    plain = example("plain_pytorch", needs="sklearn")
    alone = plain.main(["--epochs", "3", "--weight", "0"])
    z = torch.from_numpy(np.load(embeddings))
    with_w2 = wf.effective_rank(F.normalize(z)).item()
    assert with_w2 > 2 * alone["effective_rank"]


def test_inspect_reads_trained_embeddings(embeddings: Path, tmp_path: Path) -> None:
    pytest.importorskip("matplotlib", reason="--plot needs matplotlib")
    arguments = [
        *("inspect", str(embeddings), "--json", str(tmp_path / "a.json")),
        *("--plot", str(tmp_path / "a.png"), "--fail-if", "effective_rank<2"),
    ]
    result = CliRunner().invoke(cli.app, arguments, env={"COLUMNS": "200"})
    assert result.exit_code == 0, result.output
    found = json.loads((tmp_path / "a.json").read_text())["metrics"]
    z = torch.from_numpy(np.load(embeddings))
    x = F.normalize(z.double(), dim=1)
    assert found["w2"] == pytest.approx(reference.wasserstein_uniformity(z).item(), abs=LIMIT)
    assert found["effective_rank"] == pytest.approx(reference.effective_rank(x).item(), rel=1e-6)
    assert found["uniformity"] == pytest.approx(reference.uniformity(z).item(), abs=10 * LIMIT)
    assert found["w2_of_uniform"] < found["w2"] < 2**0.5


def test_lightning_callback() -> None:
    lightning = example("lightning_callback", needs="lightning")
    found = lightning.main(["--epochs", "2"])
    assert set(found) == {"val/w2", "val/uniformity", "val/effective_rank"}
    assert 0 < found["val/w2"] < 2**0.5
    assert 1 < found["val/effective_rank"] <= 16


def test_lightly_style_module() -> None:
    values = example("lightly_style").main()
    assert values[-1] < values[0]  # W2 of a collapsed batch falls
    module = example("lightly_style").WithWassersteinUniformity(torch.nn.L1Loss(), weight=0.5)
    z0, z1 = torch.randn(2, 8, 4)
    want = (z0 - z1).abs().mean() + 0.5 * wf.wasserstein_uniformity(torch.cat([z0, z1]))
    assert module(z0, z1).item() == pytest.approx(want.item(), rel=1e-6)


def test_lightly_style_module_around_a_loss_of_lightly() -> None:
    reason = "lightly, or the torchvision that it needs, is absent"
    loss = pytest.importorskip("lightly.loss", reason=reason, exc_type=ImportError)
    module = example("lightly_style").WithWassersteinUniformity(loss.BarlowTwinsLoss(), weight=30.0)
    z0, z1 = torch.randn(2, 16, 8, requires_grad=True)
    module(z0, z1).backward()


def test_solo_learn_style_function() -> None:
    solo = example("solo_learn_style")
    before, after = solo.main()
    assert after < before
    z1, z2 = torch.randn(2, 8, 4, requires_grad=True)
    loss = solo.wasserstein_uniformity_loss_func(z1, z2, weight=3.0)
    loss.backward()
    want = 3 * reference.wasserstein_uniformity(torch.cat([z1, z2])).item()
    assert loss.item() == pytest.approx(want, abs=3 * LIMIT)


@pytest.mark.parametrize("scheduler", ["synchronous", "threads"])
def test_moments_with_dask(scheduler: str, tmp_path: Path) -> None:
    """Shards of any size, by Dask's own schedulers on this machine."""
    module = example("moments_with_dask", needs="dask")
    z = torch.randn(700, 12) + 0.1
    paths = []
    for i, part in enumerate(z.split([200, 1, 300, 99, 100])):
        paths.append(str(tmp_path / f"{i}.npy"))
        np.save(paths[-1], part.numpy())
    saved = tmp_path / "moments.safetensors"
    moments, sample = module.main([*paths, "--scheduler", scheduler, "--save", str(saved)])
    assert moments.count == sample.seen == 700
    want = reference.wasserstein_uniformity(z).item()
    assert float(moments.wasserstein_uniformity()) == pytest.approx(want, abs=LIMIT)
    assert float(sample.uniformity()) == pytest.approx(reference.uniformity(z).item(), abs=LIMIT)
    back = wf.metrics.Moments.load(saved)
    assert float(back.effective_rank()) == float(moments.effective_rank())
