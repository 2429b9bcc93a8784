"""The methods by their definitions; those of the training steps are in tests/test_steps.py."""

import math

import pytest
import torch
from torch import Tensor
from torch.nn import functional as F

from benchmarks.batches import healthy
from benchmarks.ssl.methods import METHODS, BarlowTwins, MoCoV2, SimCLR, Views, ZeroCL

EXACT = 1e-9  # float64 rounding times a condition number below 1e5


def two(n: int, m: int) -> Views:
    return Views(healthy(n, m, 0).double(), healthy(n, m, 1).double())


def test_simclr_by_hand() -> None:
    z = two(4, 5)
    x = [row / row.norm() for view in z for row in view]
    expected = 0.0
    for i in range(8):
        powers = [math.exp((x[i] @ x[k]).item() / 0.5) if k != i else 0.0 for k in range(8)]
        expected -= math.log(powers[(i + 4) % 8] / sum(powers)) / 8
    assert SimCLR().loss(z, None, None).item() == pytest.approx(expected, rel=1e-12)


def whitened(rows: Tensor, shrinkage: float) -> Tensor:
    """S_e^(-1/2) of standardised rows, applied to them; by an eigendecomposition."""
    x = (rows - rows.mean(1, keepdim=True)) / (rows.std(1, keepdim=True) + 1e-5)
    values, vectors = torch.linalg.eigh(x @ x.T / x.shape[1])
    roots = ((1 - shrinkage) * values + shrinkage).rsqrt()
    return (vectors * roots) @ vectors.T @ x


@pytest.mark.parametrize("shape", [(6, 9), (9, 6)], ids=["n < m", "n > m"])
def test_zerocl_by_its_definition(shape: tuple[int, int]) -> None:
    z = two(*shape)
    terms = []
    for views in (z, Views(z.a.T, z.b.T)):  # instances, then features
        h = [whitened(view, 0.01) for view in views]
        products = (h[0] @ h[1].T / h[0].shape[1]).diagonal()
        terms.append((1 - products).square().sum())
    method = ZeroCL()
    torch.testing.assert_close(method.loss(z, None, None), sum(terms), rtol=EXACT, atol=EXACT)
    only = ZeroCL(instance_weight=0.0, feature_weight=2.0)
    torch.testing.assert_close(only.loss(z, None, None), 2 * terms[1], rtol=EXACT, atol=EXACT)


def test_zerocl_whitening_has_no_gradient() -> None:
    """The derivative of the loss with the whitening matrix held, by differences."""
    z = two(5, 7)
    a = z.a.clone().requires_grad_()
    ZeroCL(feature_weight=0.0).loss(Views(a, z.b), None, None).backward()

    def frozen(rows: Tensor) -> Tensor:
        def standard(x: Tensor) -> Tensor:
            return (x - x.mean(1, keepdim=True)) / (x.std(1, keepdim=True) + 1e-5)

        x = standard(z.a)
        values, vectors = torch.linalg.eigh(x @ x.T / 7)
        matrix = (vectors * (0.99 * values + 0.01).rsqrt()) @ vectors.T
        return (1 - (matrix @ standard(rows) * whitened(z.b, 0.01)).mean(1)).square().sum()

    step, direction = 1e-6, healthy(5, 7, 3).double()
    slope = (frozen(z.a + step * direction) - frozen(z.a - step * direction)) / (2 * step)
    assert (a.grad * direction).sum().item() == pytest.approx(slope.item(), rel=1e-6)


def test_zerocl_of_equal_views_is_nearly_zero() -> None:
    """Whitened rows of full rank have c_ii = 1 but for the shrinkage."""
    z = two(4, 40).a
    assert ZeroCL(feature_weight=0.0).loss(Views(z, z), None, None).item() < 1e-2


def test_decays() -> None:
    moco = MoCoV2()
    assert moco.decay(0.0) == pytest.approx(0.99)
    assert moco.decay(0.5) == pytest.approx(0.9945)
    assert moco.decay(1.0) == pytest.approx(0.999)
    assert MoCoV2(ema_decay=0.5, ema_final=None).decay(0.7) == pytest.approx(0.5)


@pytest.mark.parametrize("name", [name for name, kind in METHODS.items() if not kind.couples_rows])
def test_what_is_called_a_mean_over_rows_is_one(name: str) -> None:
    """Else two processes would optimise something else than one."""
    method = METHODS[name]()
    online, target = two(8, 5), Views(healthy(8, 5, 2).double(), healthy(8, 5, 3).double())
    queue = F.normalize(healthy(12, 5, 4).double(), dim=1)
    halves = []
    for rows in (slice(0, 4), slice(4, 8)):
        parts = [Views(*(view[rows] for view in views)) for views in (online, target)]
        halves.append(method.loss(*parts, queue))
    torch.testing.assert_close(sum(halves) / 2, method.loss(online, target, queue))


def test_barlow_twins_couples_rows() -> None:
    z = two(8, 5)
    halves = [
        BarlowTwins().loss(Views(z.a[r], z.b[r]), None, None) for r in (slice(4), slice(4, 8))
    ]
    assert not torch.allclose(sum(halves) / 2, BarlowTwins().loss(z, None, None))
