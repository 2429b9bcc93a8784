"""The functions as losses: `torch.nn.Module`s to add to a training script."""

import torch
from torch import Tensor, nn

from wssl_fast import _checks as checks
from wssl_fast import functional


def _both_views(z_a: Tensor, z_b: Tensor | None) -> Tensor:
    """Rows of both views as one batch, as the authors of W2 do."""
    checks.rows("z_a", z_a)
    if z_b is None:
        return z_a
    checks.rows("z_b", z_b)
    if z_a.shape[:-2] != z_b.shape[:-2] or z_a.shape[-1] != z_b.shape[-1]:
        raise ValueError(
            "z_a and z_b must agree in all dimensions but the number of rows, got "
            f"{tuple(z_a.shape)} and {tuple(z_b.shape)}"
        )
    checks.same_kind("z_a", z_a, "z_b", z_b)
    return torch.cat([z_a, z_b], dim=-2)


class _GaussianLoss(nn.Module):
    """What the losses between Gaussians share: their settings, checked once."""

    def __init__(
        self, weight: float, squared: bool, eps: float, solver: str, precision: str
    ) -> None:
        super().__init__()
        self.weight = checks.number("weight", weight, minimum=0.0)
        self.squared = bool(squared)
        self.eps = checks.number("eps", eps, minimum=0.0)
        self.solver = checks.choice("solver", solver, checks.SOLVERS)
        self.precision = checks.choice("precision", precision, checks.PRECISIONS)

    def extra_repr(self) -> str:
        return (
            f"weight={self.weight:g}, squared={self.squared}, eps={self.eps:g}, "
            f"solver={self.solver}, precision={self.precision}"
        )


class WassersteinUniformityLoss(_GaussianLoss):
    """`weight * W2` of one view, or of two concatenated; add it to the loss you train with.

    Args:
        weight: factor on the loss (the authors': 1 for MoCo v2, 0.2 for BYOL, 30 falling to 0 for
            Barlow Twins, 30 for Zero-CL). A plain attribute: change it for a schedule.
        squared, eps, solver, precision: see :func:`wssl_fast.wasserstein_uniformity`.

    Shape: z_a (..., n, m), z_b (..., n', m) or None -> (...).

    Example:
        >>> import torch, wssl_fast as wf
        >>> criterion = wf.nn.WassersteinUniformityLoss(weight=0.2)
        >>> z_a, z_b = torch.randn(2, 8, 16, requires_grad=True)
        >>> criterion(z_a, z_b).backward()
    """

    def __init__(
        self,
        weight: float = 1.0,
        *,
        squared: bool = False,
        eps: float = 0.0,
        solver: str = "auto",
        precision: str = "auto",
    ) -> None:
        super().__init__(weight, squared, eps, solver, precision)

    def forward(self, z_a: Tensor, z_b: Tensor | None = None) -> Tensor:
        value = functional.wasserstein_uniformity(
            _both_views(z_a, z_b),
            squared=self.squared,
            eps=self.eps,
            solver=self.solver,
            precision=self.precision,
        )
        return self.weight * value


class UniformityLoss(nn.Module):
    """`weight * L_U` of Wang & Isola; of two views, the mean of both, as in their code.

    Args:
        t, normalize: see :func:`wssl_fast.uniformity`. weight: factor on the loss.

    Shape: z_a (..., n, m), z_b (..., n', m) or None -> (...), n >= 2.

    Example:
        >>> import torch, wssl_fast as wf
        >>> wf.nn.UniformityLoss()(torch.tensor([[1.0, 0.0], [-1.0, 0.0]]))
        tensor(-8.)
    """

    def __init__(self, t: float = 2.0, *, weight: float = 1.0, normalize: bool = True) -> None:
        super().__init__()
        self.t = checks.number("t", t, minimum=0.0, exclusive=True)
        self.weight = checks.number("weight", weight, minimum=0.0)
        self.normalize = bool(normalize)

    def forward(self, z_a: Tensor, z_b: Tensor | None = None) -> Tensor:
        value = functional.uniformity(z_a, t=self.t, normalize=self.normalize)
        if z_b is not None:
            other = functional.uniformity(z_b, t=self.t, normalize=self.normalize)
            value = (value + other) / 2
        return self.weight * value

    def extra_repr(self) -> str:
        return f"t={self.t:g}, weight={self.weight:g}, normalize={self.normalize}"


class AlignmentLoss(nn.Module):
    """`weight * mean |x_i - y_i|^alpha` of two views. See :func:`wssl_fast.alignment`.

    Shape: z_a and z_b (..., n, m) -> (...).

    Example:
        >>> import torch, wssl_fast as wf
        >>> wf.nn.AlignmentLoss()(torch.tensor([[2.0, 0.0]]), torch.tensor([[0.0, 5.0]]))
        tensor(2.)
    """

    def __init__(self, alpha: float = 2.0, *, weight: float = 1.0, normalize: bool = True) -> None:
        super().__init__()
        self.alpha = checks.number("alpha", alpha, minimum=0.0, exclusive=True)
        self.weight = checks.number("weight", weight, minimum=0.0)
        self.normalize = bool(normalize)

    def forward(self, z_a: Tensor, z_b: Tensor) -> Tensor:
        value = functional.alignment(z_a, z_b, alpha=self.alpha, normalize=self.normalize)
        return self.weight * value

    def extra_repr(self) -> str:
        return f"alpha={self.alpha:g}, weight={self.weight:g}, normalize={self.normalize}"


class FrechetLoss(_GaussianLoss):
    """`weight * ` Frechet distance between two batches. See :func:`wssl_fast.frechet_distance`.

    Shape: x (..., n_x, m), y (..., n_y, m) -> (...).

    Example:
        >>> import torch, wssl_fast as wf
        >>> x = torch.randn(16, 8, generator=torch.Generator().manual_seed(0))
        >>> wf.nn.FrechetLoss()(x, x + 2)
        tensor(32.)
    """

    def __init__(
        self,
        weight: float = 1.0,
        *,
        squared: bool = True,
        eps: float = 0.0,
        solver: str = "auto",
        precision: str = "auto",
    ) -> None:
        super().__init__(weight, squared, eps, solver, precision)

    def forward(self, x: Tensor, y: Tensor) -> Tensor:
        value = functional.frechet_distance(
            x,
            y,
            squared=self.squared,
            eps=self.eps,
            solver=self.solver,
            precision=self.precision,
        )
        return self.weight * value
