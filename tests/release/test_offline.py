"""No network at import, in the functions, in the command, in a training run."""

import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from tests.release.archives import ROOT

OFFLINE = Path(__file__).parent / "offline.py"


def offline(*arguments: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, str(OFFLINE), *arguments]
    return subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)


def program(folder: Path, code: str) -> str:
    path = folder / "program.py"
    path.write_text(code)
    return str(path)


@pytest.mark.parametrize(
    "call",
    [
        "import urllib.request; urllib.request.urlopen('http://example.invalid')",
        "import socket; socket.getaddrinfo('localhost', 80)",
        "import socket; socket.create_server(('127.0.0.1', 0))",
        "import socket; socket.socket().connect(('127.0.0.1', 9))",
    ],
)
def test_the_ban_bites(call: str, tmp_path: Path) -> None:
    done = offline(program(tmp_path, call))
    assert done.returncode != 0
    assert "no network here" in done.stderr


def test_import_loss_and_command(tmp_path: Path) -> None:
    code = """
import sys
import torch
import wssl_fast as wf
z = torch.randn(16, 32, requires_grad=True)
(wf.wasserstein_uniformity(z) + wf.uniformity(z)).backward()
from wssl_fast import cli
for arguments in (["doctor"], ["inspect", sys.argv[1]]):
    cli.app(arguments, standalone_mode=False)
print("done")
"""
    np.save(tmp_path / "z.npy", np.random.default_rng(0).normal(size=(20, 4)).astype("f4"))
    done = offline(program(tmp_path, code), str(tmp_path / "z.npy"))
    assert done.returncode == 0, done.stderr
    assert done.stdout.strip().endswith("done")


def test_demo_and_training(tmp_path: Path) -> None:
    """On the digits that scikit-learn ships."""
    pytest.importorskip("sklearn", reason="benchmarks needs scikit-learn's digits")
    train = ["benchmarks.ssl", "train", "--method", "barlow", "--uniformity", "w2"]
    train += ["--preset", "tiny", "--device", "cpu", "--epochs", "1"]
    for arguments in (train, ["benchmarks.demo", "--quick"]):
        done = offline("-m", *arguments, "--out", str(tmp_path / arguments[0]))
        assert done.returncode == 0, done.stderr
