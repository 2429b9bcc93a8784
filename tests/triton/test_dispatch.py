"""The table of tiles, and the choice between backends."""

import json
import sys
from importlib.resources import files
from pathlib import Path

import pytest
import torch
import triton

import wssl_fast as wf
from wssl_fast import cli
from wssl_fast.backends import choice
from wssl_fast.backends.triton import dispatch

TABLE = json.loads((files("wssl_fast.backends.triton") / "table.json").read_text())
ROWS = [
    (name, kernel, product, rows)
    for name, kernels in TABLE.items()
    for kernel, products in kernels.items()
    for product, rows in products.items()
]


@pytest.mark.parametrize(("name", "kernel", "product", "rows"), ROWS, ids=lambda x: str(x)[:24])
def test_rows_ascend_and_end_without_a_limit(
    name: str, kernel: str, product: str, rows: list[list[object]]
) -> None:
    limits = [limit for limit, _ in rows]
    if kernel != "newton_schulz_small":  # which is asked for no more than it fits
        assert limits.pop() is None
    assert limits == sorted(limits)
    for _, (size, block, warps, stages) in rows:
        assert size & (size - 1) == 0, "Triton's blocks are powers of two"
        assert block & (block - 1) == 0
        assert warps in (1, 2, 4, 8, 16)
        assert 1 <= stages <= 6


def test_every_architecture_has_every_kernel() -> None:
    for name in dispatch.architectures():
        # newton_schulz_small was tried on NVIDIA's alone; newton_schulz takes its problems
        missing = {"newton_schulz_small"} if name.startswith("gfx") else set()
        assert set(TABLE[name]) == set(TABLE["interpreter"]) - missing, name


@pytest.mark.parametrize(
    ("asked", "taken"),
    [
        ("sm_80", "sm_80"),
        ("sm_86", "sm_80"),
        ("sm_90", "sm_90"),
        ("sm_120", "sm_100"),
        ("sm_75", "sm_80"),
    ],
)
def test_an_unknown_architecture_takes_the_nearest_older_one(asked: str, taken: str) -> None:
    product = "exact"
    for size in (32, 512, 8192):
        want = dispatch.tile("gram", product, size, dispatch.Target(taken, 100))
        assert dispatch.tile("gram", product, size, dispatch.Target(asked, 100)) == want


def test_override_and_assume_end() -> None:
    target = dispatch.Target("sm_90", 132)
    before = dispatch.tile("gram", "exact", 512, target)
    with dispatch.override("gram", dispatch.Tile(16, 16, 1, 1)):
        assert dispatch.tile("gram", "exact", 512, target) == (16, 16, 1, 1)
    assert dispatch.tile("gram", "exact", 512, target) == before
    device = torch.device("cpu")
    with dispatch.assume(target):
        assert dispatch.target_of(device) == target
    if not torch.cuda.is_available():
        assert dispatch.target_of(device) == dispatch.INTERPRETER


def test_a_cpu_tensor_takes_the_eager_path() -> None:
    assert choice.resolve("auto", torch.device("cpu")) == "eager"


def test_what_is_asked_for_by_name_runs_or_is_an_error(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(choice, "_interpreting", lambda: False)
    with choice.use("triton"), pytest.raises(RuntimeError, match="CUDA tensors, cpu given"):
        wf.wasserstein_uniformity(torch.ones(4, 8))
    monkeypatch.setattr(choice, "why_no_triton", lambda: "Triton is not installed (pip install x)")
    with choice.use("triton"), pytest.raises(RuntimeError, match="pip install"):
        wf.wasserstein_uniformity(torch.ones(4, 8))
    assert choice.resolve("auto", torch.device("cuda")) == "eager"


@pytest.mark.parametrize("version", ["3.5.1", "2.3.0", "3.5.0+git1a2b3c"])
def test_an_old_triton_is_left_alone(version: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(triton, "__version__", version)
    choice.why_no_triton.cache_clear()
    try:
        what = f"Triton {version} is installed; these kernels need 3.6 or newer"
        assert choice.why_no_triton() == what
        assert choice.resolve("auto", torch.device("cuda")) == "eager"
        assert dict(cli.report(8, 8))["Triton"].startswith(what)
        with choice.use("triton"), pytest.raises(RuntimeError, match="need 3"):
            wf.wasserstein_uniformity(torch.ones(4, 8))
    finally:
        choice.why_no_triton.cache_clear()


def test_a_triton_that_cannot_be_imported_is_left_alone(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As 3.2 without setuptools, which it needs and pip does not bring."""
    (tmp_path / "triton.py").write_text("import no_such_setuptools\n")
    monkeypatch.delitem(sys.modules, "triton")
    monkeypatch.syspath_prepend(tmp_path)
    choice.why_no_triton.cache_clear()
    try:
        assert "cannot be imported (No module named 'no_such_setuptools')" in choice.why_no_triton()
        assert choice.resolve("auto", torch.device("cuda")) == "eager"
    finally:
        choice.why_no_triton.cache_clear()


@pytest.mark.parametrize("version", ["3.6.0", "3.10.0", "4.0.0+git1a2b3c"])
def test_a_newer_triton_is_taken(version: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(triton, "__version__", version)
    choice.why_no_triton.cache_clear()
    try:
        assert choice.why_no_triton() == ""
    finally:
        choice.why_no_triton.cache_clear()


def test_an_unknown_backend_is_named() -> None:
    with pytest.raises(ValueError, match="'gpu' given, one of auto, eager, triton, cuda"):
        choice.use("gpu").__enter__()
    with pytest.raises(ValueError, match="WSSL_FAST_BACKEND: 'gpu' given"):
        choice.resolve("gpu", torch.device("cpu"))


def test_eigh_is_pytorchs_whatever_the_backend() -> None:
    z = torch.randn(6, 9)
    with choice.use("triton"):
        value = wf.wasserstein_uniformity(z, solver="eigh")
    assert torch.equal(value, wf.wasserstein_uniformity(z, solver="eigh"))


def test_the_backward_follows_the_forward() -> None:
    z = torch.randn(6, 9, device="cuda" if torch.cuda.is_available() else "cpu")
    z.requires_grad_()
    with choice.use("triton"):
        value = wf.wasserstein_uniformity(z)
        (inside,) = torch.autograd.grad(value, z, retain_graph=True)
    (outside,) = torch.autograd.grad(value, z)
    assert torch.equal(inside, outside)
