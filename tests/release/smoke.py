"""What an installed wssl_fast does: `python -I smoke.py FOLDER [--compiled | --pure]`.

Knows of no checkout: values against the package's own float64 truth, every module's examples, the
command, and files in FOLDER.
"""

import argparse
import doctest
import importlib
import importlib.metadata
import importlib.resources
import pkgutil
import subprocess
import sys
import time
from pathlib import Path

OPTIONAL = (
    *("matplotlib", "torchmetrics", "triton", "wssl_fast._cpu", "wssl_fast._cuda"),
    "setuptools",  # which Triton 3.2 needs
)


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("folder", type=Path)
    parser.add_argument("--compiled", action="store_true", help="the compiled part must be there")
    parser.add_argument("--pure", action="store_true", help="the compiled part must be absent")
    given = parser.parse_args()

    import torch

    torch.set_num_threads(1)
    before, start = set(sys.modules), time.perf_counter()
    import wssl_fast

    milliseconds = 1e3 * (time.perf_counter() - start)
    more = len(set(sys.modules) - before)
    installed(Path(wssl_fast.__file__), wssl_fast.__version__)
    if given.compiled or given.pure:
        compiled(given.compiled)
    values()
    files(given.folder)
    examples = doctests()
    versions = ", ".join(f"{n} {importlib.metadata.version(n)}" for n in ("torch", "numpy"))
    print(
        f"python {sys.version.split()[0]}, {versions}; imported in {milliseconds:.0f} ms over "
        f"torch ({more} modules); {examples} examples"
    )


def installed(path: Path, version: str) -> None:
    assert path.is_relative_to(sys.prefix), f"{path} is not of {sys.prefix}"
    assert version == importlib.metadata.version("wssl-fast")
    package = importlib.resources.files("wssl_fast")
    assert package.joinpath("py.typed").is_file()
    assert package.joinpath("backends", "triton", "table.json").is_file()


def compiled(wanted: bool) -> None:
    from wssl_fast import cli
    from wssl_fast.backends import native

    assert native.available() == wanted, native.why_missing()
    said = dict(cli.report(512, 8192))["compiled CPU part"]
    assert said.startswith("present, ") if wanted else "compiler" in said, said


def values() -> None:
    """Both formulations, healthy and collapsed, to what docs/numerics.md promises: W2 to 1e-5, its
    gradient to 3e-3; L_U to single precision."""
    import torch

    import wssl_fast as wf
    from wssl_fast import reference

    def gap(got: torch.Tensor, want: torch.Tensor) -> float:
        return ((got.double() - want).norm() / want.norm()).item()

    generator = torch.Generator().manual_seed(0)
    for n, m in ((48, 80), (96, 40)):
        healthy = torch.randn(n, m, generator=generator)
        low = torch.randn(n, 6, generator=generator) @ torch.randn(6, m, generator=generator)
        for z in (healthy, low + 1e-2 * healthy):
            z.requires_grad_()
            loss = wf.wasserstein_uniformity(z, squared=True)
            (grad,) = torch.autograd.grad(loss, z)
            raw = z.detach()
            assert abs(loss.sqrt().item() - reference.wasserstein_uniformity(raw).item()) < 1e-5
            truth = reference.wasserstein_uniformity_grad(raw, squared=True)
            assert gap(grad, truth) < 3e-3
            assert gap(wf.uniformity(raw), reference.uniformity(raw)) < 1e-5
    criterion = wf.nn.WassersteinUniformityLoss(weight=0.2)
    criterion(healthy, low).backward()


def files(folder: Path) -> None:
    """Saved moments come back; the command reads rows, and says so by its exit code."""
    import numpy as np
    import torch

    import wssl_fast as wf

    z = torch.randn(60, 8, generator=torch.Generator().manual_seed(1))
    moments = wf.metrics.Moments().update(z)
    moments.save(folder / "moments.safetensors")
    back = wf.metrics.Moments.load(folder / "moments.safetensors")
    assert torch.equal(back.covariance, moments.covariance)
    np.save(folder / "z.npy", z.numpy())
    for condition, code in (("effective_rank<1", 0), ("effective_rank<9", 1)):
        command = [sys.executable, "-I", "-m", "wssl_fast.cli", "inspect", "--fail-if", condition]
        done = subprocess.run([*command, str(folder / "z.npy")], capture_output=True, text=True)
        assert done.returncode == code, done.stdout + done.stderr


def doctests() -> int:
    """Of every module; one that needs a package which is not installed says which."""
    import wssl_fast

    count = 0
    for found in pkgutil.walk_packages(wssl_fast.__path__, "wssl_fast."):
        if found.name.endswith("__main__"):
            continue
        try:
            module = importlib.import_module(found.name)
        except ImportError as error:
            if error.name not in OPTIONAL:
                raise
            continue
        result = doctest.testmod(module)
        assert not result.failed, found.name
        count += result.attempted
    assert count > 0
    return count


if __name__ == "__main__":
    main()
