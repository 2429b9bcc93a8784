"""What can be known of several processes in one: the half matrices, the arguments, the imports."""

import math
import re
import subprocess
import sys
from itertools import pairwise
from pathlib import Path

import pytest
import torch
import torch.distributed as dist

import wssl_fast as wf
from wssl_fast.backends.eager import uniformity, w2_covariance
from wssl_fast.distributed import halves

LOSSES = (wf.nn.WassersteinUniformityLoss, wf.nn.UniformityLoss, wf.nn.AlignmentLoss)


@pytest.mark.parametrize("k", [1, 2, 3, 6, 7])
def test_half_of_a_symmetric_matrix_is_the_matrix(k: int) -> None:
    a = torch.randn(k, k)
    a = a + a.mT
    a[k // 2, k // 3] = a[k // 3, k // 2] = torch.nan  # stays where it is
    out = torch.full((halves.size(k),), torch.nan)
    halves.fold(a, out)
    assert torch.equal(halves.unfold(out, k).nan_to_num(7.0), a.nan_to_num(7.0))
    assert halves.size(k) <= k * (k + 2) / 2 + 1


def test_the_lower_triangle_counts(poisoned: None) -> None:
    a = torch.arange(9.0).view(3, 3)
    out = torch.empty(halves.size(3))
    halves.fold(a, out)
    assert torch.equal(halves.unfold(out, 3), a.tril() + a.tril(-1).mT)


@pytest.mark.parametrize("t", [2.0, 300.0])
@pytest.mark.parametrize("normalize", [True, False])
def test_strips_add_up_to_all_pairs(t: float, normalize: bool) -> None:
    z = torch.randn(1100, 5)  # three blocks of 512 rows; strips that do not begin with one
    whole = uniformity.forward(z, t, normalize, True)
    ends = (0, 3, 3, 700, 1100)
    parts = [uniformity.strip(z, slice(a, b), t, normalize, True) for a, b in pairwise(ends)]
    value = torch.stack([part.value for part in parts]).logsumexp(0)
    want = whole.value + torch.tensor(1100 * 1099.0).log()
    # exponents of t |x_i - x_j|^2, each known to float32
    torch.testing.assert_close(value.double(), want.double(), rtol=0, atol=1e-6 * t)
    # the moments of the whole are relative to its largest exponent, those of a strip to its own
    largest = want - whole.total[0].log() - math.log(2)
    scaled = [p.moments * (p.total[1] - largest).exp() for p in parts if len(p.moments)]
    torch.testing.assert_close(torch.cat(scaled), whole.moments, rtol=1e-3, atol=1e-5)


def test_covariance_of_no_rows_is_nothing() -> None:
    empty, mean = torch.empty(0, 4), torch.randn(4, dtype=torch.float64)
    scales = w2_covariance.Scales(empty[:, 0].double(), mean, 1.0, True)
    for plain in (True, False):
        rows = w2_covariance.Rows(empty, scales, plain)
        for dtype in (torch.float32, torch.float64):
            assert torch.equal(rows.product(dtype), torch.zeros(4, 4, dtype=dtype))
        assert torch.equal(rows.ritz(torch.randn(4, 2)), torch.zeros(2, 2, dtype=torch.float64))


@pytest.mark.parametrize("loss", LOSSES)
def test_gathering_needs_a_process_group(loss: type[torch.nn.Module]) -> None:
    criterion = loss(gather_distributed=True)  # may be made before there is one
    z = torch.randn(4, 3)
    with pytest.raises(ValueError, match="init_process_group"):
        criterion(z, z)


@pytest.mark.parametrize("loss", LOSSES)
def test_gathering_needs_torch_distributed(
    loss: type[torch.nn.Module], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(dist, "is_available", lambda: False)
    with pytest.raises(ValueError, match=r"no torch\.distributed"):
        loss(gather_distributed=True)
    with pytest.raises(TypeError, match="group must be"):
        wf.uniformity(torch.randn(4, 3), group=object())  # type: ignore[arg-type]


def test_a_process_alone_loads_none_of_it() -> None:
    code = (
        "import sys, torch\n"
        "had_compiler = 'torch._dynamo' in sys.modules\n"
        "import wssl_fast as wf\n"
        "wf.nn.WassersteinUniformityLoss()(torch.randn(4, 3))\n"
        "print('wssl_fast.distributed' in sys.modules,"
        " 'torch._dynamo' in sys.modules and not had_compiler)"
    )
    out = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert out.stdout.strip() == "False False"


def test_works_on_a_build_without_torch_distributed() -> None:
    """Of which such a build has little more than `is_available`."""
    code = (
        "import torch, torch.distributed as dist\n"
        "for name in [n for n in vars(dist) if n[0] != '_']:\n"
        "    delattr(dist, name)\n"
        "dist.is_available = lambda: False\n"
        "import wssl_fast as wf\n"
        "z = torch.randn(4, 3, requires_grad=True)\n"
        "loss = wf.nn.WassersteinUniformityLoss()\n"
        "(loss(z) + wf.uniformity(z) + wf.alignment(z, z)).backward()\n"
        "print('ok')"
    )
    out = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert out.stdout.strip() == "ok", out.stderr


def test_collectives_are_called_in_one_place() -> None:
    package = Path(wf.__file__).parent
    collective = re.compile(r"\bdist\.(all_|reduce|broadcast|send|recv|gather|scatter|barrier)")
    users = [path.name for path in package.rglob("*.py") if collective.search(path.read_text())]
    assert users == ["exchange.py"]
