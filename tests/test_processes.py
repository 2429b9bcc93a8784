"""The same numbers again: repeated, on other thread counts, in other processes, from a copy."""

import copy
import io
import json
import multiprocessing
import pickle
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn

import wssl_fast as wf
from tests.processes_worker import JOBS, TIMEOUT, digest
from tests.tolerances import contract_tolerance

MODULES = (
    wf.nn.WassersteinUniformityLoss(0.2, squared=True, eps=1e-3, solver="newton_schulz",
                                    precision="double"),
    wf.nn.UniformityLoss(t=3.0),
    wf.nn.AlignmentLoss(alpha=1.5),
    wf.nn.FrechetLoss(squared=False),
)  # fmt: skip


@pytest.fixture(autouse=True)
def _threads_as_found() -> Iterator[None]:
    before = torch.get_num_threads()
    yield
    torch.set_num_threads(before)


def test_the_thread_count_may_change_between_calls_and_each_has_its_bits() -> None:
    first = {count: digest(count) for count in (1, 2)}
    for count in (2, 1, 1, 2):
        assert digest(count) == first[count]


@pytest.mark.parametrize("job", range(len(JOBS)))
def test_thread_counts_agree_to_rounding(job: int) -> None:
    """Not to the bit: what PyTorch multiplies and row means are summed in other orders."""
    loss, shape = JOBS[job]
    found: list[tuple[Tensor, Tensor]] = []
    for count in (1, 2, 3):
        torch.set_num_threads(count)
        z = torch.randn(shape, generator=torch.Generator().manual_seed(1)).requires_grad_()
        value = loss(z)
        found.append((value.detach(), torch.autograd.grad(value, z)[0]))
    tolerance = contract_tolerance(torch.float32)
    for value, grad in found[1:]:
        assert (value - found[0][0]).abs() <= tolerance * found[0][0].abs()
        assert (grad - found[0][1]).norm() <= tolerance * found[0][1].norm()


@pytest.fixture(scope="module")
def processes() -> dict[str, list[str]]:
    command = [sys.executable, "-m", "tests.processes_worker"]
    root = Path(__file__).parents[1]
    out = subprocess.run(
        command, cwd=root, capture_output=True, text=True, timeout=4 * TIMEOUT, check=False
    )
    assert out.returncode == 0, out.stderr
    return json.loads(out.stdout)


@pytest.mark.skipif("fork" not in multiprocessing.get_all_start_methods(), reason="fork is Unix's")
def test_processes_compute_the_same_bits(processes: dict[str, list[str]]) -> None:
    """Forked before PyTorch's threads were started, or after on one thread, as DataLoader's workers
    are; spawned with any. (Forked after, on several, PyTorch itself hangs: docs/reliability.md.)"""
    one, two = processes["here"]
    assert processes["spawned"] == [one, two]
    assert processes["forked before"] == [two]
    assert processes["forked after"] == [one]
    assert processes["loader"] == [one, one]


@pytest.mark.parametrize("module", MODULES, ids=lambda module: type(module).__name__)
def test_a_copy_of_a_module_is_the_module(module: nn.Module) -> None:
    def saved(original: nn.Module) -> nn.Module:
        file = io.BytesIO()
        torch.save(original, file)
        file.seek(0)
        return torch.load(file, weights_only=False)

    def loss(which: nn.Module) -> list[Tensor]:
        x, y = (torch.randn(12, 20, generator=torch.Generator().manual_seed(i)) for i in (1, 2))
        value = which(x.requires_grad_(), y)
        return [value, torch.autograd.grad(value, x)[0]]

    for other in (copy.deepcopy(module), pickle.loads(pickle.dumps(module)), saved(module)):
        assert repr(other) == repr(module)
        assert all(torch.equal(a, b) for a, b in zip(loss(other), loss(module), strict=True))


def test_losses_add_nothing_to_a_models_state() -> None:
    """A checkpoint written before a loss was added, or after it went, still loads strictly."""
    model = nn.Sequential(nn.Linear(3, 4))
    with_losses = nn.ModuleDict({"encoder": model, "losses": nn.ModuleList(MODULES)})
    state = with_losses.state_dict()
    assert set(state) == {"encoder.0.weight", "encoder.0.bias"}
    with_losses.load_state_dict(state, strict=True)
    assert not list(nn.ModuleList(MODULES).parameters())
