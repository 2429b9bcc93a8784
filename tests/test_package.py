"""The package as installed: cheap to import, one-way imports, no stray dependency."""

import ast
import subprocess
import sys
from pathlib import Path

import pytest

import wssl_fast

ROOT = Path(wssl_fast.__file__).parent
LAYERS = {
    "cli": 5,
    "metrics": 4,
    "nn": 4,
    "functional": 3,
    "spectra": 3,
    "distributed": 2,
    "ops": 1,
    "backends": 0,
    "reference": 0,
    "_calls": 0,
    "_checks": 0,
    "_files": 0,
}


def imported_modules(path: Path) -> set[str]:
    names = set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            names |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module:
            names |= {node.module} | {f"{node.module}.{a.name}" for a in node.names}
    return names


@pytest.mark.parametrize("path", sorted(ROOT.rglob("*.py")), ids=lambda p: str(p.relative_to(ROOT)))
def test_imports_point_one_way(path: Path) -> None:
    own = path.relative_to(ROOT).parts[0].removesuffix(".py")
    if own not in LAYERS:
        return
    for name in imported_modules(path):
        assert name.split(".")[0] not in ("tests", "benchmarks"), name
        parts = name.split(".")
        if parts[0] == "wssl_fast" and len(parts) > 1 and parts[1] in LAYERS and parts[1] != own:
            assert LAYERS[parts[1]] < LAYERS[own], f"{path} imports {name}"


def test_isinstance_takes_no_union() -> None:
    """PyTorch 2.6 does not compile one; newer ones do."""
    for path in ROOT.rglob("*.py"):
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.Call) and ast.unparse(node.func) == "isinstance":
                assert not isinstance(node.args[1], ast.BinOp), f"{path}:{node.lineno}"


def test_reference_needs_torch_alone() -> None:
    for path in (ROOT / "reference").rglob("*.py"):
        roots = {name.split(".")[0] for name in imported_modules(path)}
        assert roots <= {"torch", "wssl_fast", "math", "typing", "collections"}, roots


def test_import_loads_itself_and_the_standard_library() -> None:
    """A training script pays for torch and for nothing that only the command line needs; nor for
    what torch itself loads late: its compiler, its collectives."""
    code = (
        "import sys, torch\n"
        "before = set(sys.modules)\n"
        "import wssl_fast\n"
        "plain = {'wssl_fast', *sys.stdlib_module_names}\n"
        "new = set(sys.modules) - before\n"
        "print(sorted(name for name in new if name.split('.')[0] not in plain))"
    )
    out = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert out.stdout.strip() == "[]"


def test_works_without_the_compiled_part() -> None:
    """The same numbers through PyTorch calls, and `doctor` says what is missing and its cost."""
    code = """
import sys
sys.modules["wssl_fast._cpu"] = None                       # an import of it now fails
import torch, wssl_fast as wf
from wssl_fast import cli, reference
from wssl_fast.backends import native
assert not native.available() and "compiler" in native.why_missing()
assert any("compiler" in value for _, value in cli.report(512, 8192))
for shape in ((24, 40), (40, 24)):
    for dtype in (torch.float32, torch.float64, torch.bfloat16):
        z = torch.randn(shape, generator=torch.Generator().manual_seed(0)).to(dtype)
        z.requires_grad_()
        for f, g in (
            (wf.wasserstein_uniformity, reference.wasserstein_uniformity_grad),
            (wf.uniformity, reference.uniformity_grad),
            (wf.effective_rank, reference.effective_rank_grad),
        ):
            (grad,) = torch.autograd.grad(f(z), z)
            expected = g(z.detach())
            unit = torch.finfo(dtype).eps
            assert (grad.double() - expected).norm() <= 1e3 * unit * expected.norm(), (f, dtype)
print("ok")
"""
    out = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert out.stdout.strip() == "ok", out.stderr


def test_version_matches_metadata() -> None:
    from importlib.metadata import version

    assert version("wssl-fast") == wssl_fast.__version__
