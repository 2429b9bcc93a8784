"""The functions as losses: `torch.nn.Module`s to add to a training script.

With `gather_distributed=True` a loss is that of the batches of all processes of torch.distributed
together (`group=` of the functions; docs/distributed.md). It must then be called by all of them.
"""

from typing import TYPE_CHECKING, Any

import torch
import torch.distributed as dist
from torch import Tensor, nn

from wssl_fast import _checks as checks
from wssl_fast import functional

if TYPE_CHECKING:
    from torch.distributed import ProcessGroup


def _both_views(z_a: Tensor, z_b: Tensor | None, minimum_rows: int = 1) -> Tensor:
    """Rows of both views as one batch, as the authors of W2 do."""
    checks.rows("z_a", z_a, minimum_rows)
    if z_b is None:
        return z_a
    checks.rows("z_b", z_b, minimum_rows)
    if z_a.shape[:-2] != z_b.shape[:-2] or z_a.shape[-1] != z_b.shape[-1]:
        raise ValueError(
            "z_a and z_b must agree in all dimensions but the number of rows, got "
            f"{tuple(z_a.shape)} and {tuple(z_b.shape)}"
        )
    checks.same_kind("z_a", z_a, "z_b", z_b)
    return torch.cat([z_a, z_b], dim=-2)


class _Gathering(nn.Module):
    """A loss of this process's batch, or of the batches of all processes."""

    def __init__(self, gather_distributed: bool) -> None:
        super().__init__()
        self.gather_distributed = checks.flag("gather_distributed", gather_distributed)
        if self.gather_distributed and not dist.is_available():
            raise ValueError(
                "gather_distributed is True, but this build of PyTorch has no torch.distributed"
            )

    @property
    def weight(self) -> float:
        """Factor on the loss; set it anew for a schedule. Always a float: torch.compile makes one
        graph for all floats, and one for each int."""
        return self._weight

    @weight.setter
    def weight(self, weight: float) -> None:
        self._weight = checks.number("weight", weight, minimum=0.0)

    def _gathers(self) -> str:
        return ", gather_distributed=True" if self.gather_distributed else ""

    def _group(self) -> "ProcessGroup | None":
        """All processes, or None where this one is alone or asked to be."""
        if not self.gather_distributed:
            return None
        if not dist.is_initialized():
            raise ValueError(
                "gather_distributed is True, but there is no process group: call "
                "torch.distributed.init_process_group first, or start the script with torchrun"
            )
        return dist.group.WORLD if dist.get_world_size() > 1 else None


class _GaussianLoss(_Gathering):
    """What the losses between Gaussians share: their settings, checked once."""

    def __init__(
        self,
        weight: float,
        squared: bool,
        eps: float,
        solver: str,
        precision: str,
        gather_distributed: bool = False,
    ) -> None:
        super().__init__(gather_distributed)
        self.weight = weight
        self.squared = checks.flag("squared", squared)
        self.eps = checks.number("eps", eps, minimum=0.0)
        self.solver = checks.choice("solver", solver, checks.SOLVERS)
        self.precision = checks.choice("precision", precision, checks.PRECISIONS)

    def extra_repr(self) -> str:
        return (
            f"weight={self.weight:g}, squared={self.squared}, eps={self.eps:g}, "
            f"solver={self.solver}, precision={self.precision}{self._gathers()}"
        )


class WassersteinUniformityLoss(_GaussianLoss):
    """`weight * W2` of one view, or of two concatenated; add it to the loss you train with.

    Args:
        weight: factor on the loss (the authors': 1 for MoCo v2, 0.2 for BYOL, 30 falling to 0 for
            Barlow Twins, 30 for Zero-CL). Set the attribute for a schedule; compiled, too
            (docs/reliability.md).
        squared, eps, solver, precision: see :func:`wssl_fast.wasserstein_uniformity`.
        gather_distributed: the loss of the batches of all processes together, as in lightly.

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
        gather_distributed: bool = False,
    ) -> None:
        super().__init__(weight, squared, eps, solver, precision, gather_distributed)

    def forward(self, z_a: Tensor, z_b: Tensor | None = None) -> Tensor:
        how: dict[str, Any] = {
            "squared": self.squared,
            "eps": self.eps,
            "solver": self.solver,
            "precision": self.precision,
        }
        group = self._group()
        if group is None:
            value = functional.wasserstein_uniformity(_both_views(z_a, z_b), **how)
        else:
            from wssl_fast import distributed

            def views() -> Tensor:  # errors in them must reach all processes
                return _both_views(z_a, z_b, minimum_rows=0)

            value = distributed.wasserstein_uniformity(
                group, views, normalize=True, weight=self.weight, **how
            )
        return self.weight * value


class UniformityLoss(_Gathering):
    """`weight * L_U` of Wang & Isola; of two views, the mean of both, as in their code.

    Args:
        t, normalize: see :func:`wssl_fast.uniformity`. weight: factor on the loss.
        gather_distributed: the loss of the batches of all processes together, n >= 2 in all.

    Shape: z_a (..., n, m), z_b (..., n', m) or None -> (...), n >= 2.

    Example:
        >>> import torch, wssl_fast as wf
        >>> wf.nn.UniformityLoss()(torch.tensor([[1.0, 0.0], [-1.0, 0.0]]))
        tensor(-8.)
    """

    def __init__(
        self,
        t: float = 2.0,
        *,
        weight: float = 1.0,
        normalize: bool = True,
        gather_distributed: bool = False,
    ) -> None:
        super().__init__(gather_distributed)
        self.t = checks.number("t", t, minimum=0.0, exclusive=True)
        self.weight = weight
        self.normalize = checks.flag("normalize", normalize)

    def forward(self, z_a: Tensor, z_b: Tensor | None = None) -> Tensor:
        views = 1 if z_b is None else 2
        value = self._of_view(z_a, views)
        if z_b is not None:
            value = (value + self._of_view(z_b, views)) / 2
        return self.weight * value

    def _of_view(self, z: Tensor, views: int) -> Tensor:
        group = self._group()
        if group is None:
            return functional.uniformity(z, t=self.t, normalize=self.normalize)
        from wssl_fast import distributed

        return distributed.uniformity(
            group,
            lambda: z,
            t=self.t,
            normalize=self.normalize,
            weight=self.weight,
            views=views,
        )

    def extra_repr(self) -> str:
        settings = f"t={self.t:g}, weight={self.weight:g}, normalize={self.normalize}"
        return settings + self._gathers()


class AlignmentLoss(_Gathering):
    """`weight * mean |x_i - y_i|^alpha` of two views. See :func:`wssl_fast.alignment`.

    Shape: z_a and z_b (..., n, m) -> (...).

    Example:
        >>> import torch, wssl_fast as wf
        >>> wf.nn.AlignmentLoss()(torch.tensor([[2.0, 0.0]]), torch.tensor([[0.0, 5.0]]))
        tensor(2.)
    """

    def __init__(
        self,
        alpha: float = 2.0,
        *,
        weight: float = 1.0,
        normalize: bool = True,
        gather_distributed: bool = False,
    ) -> None:
        super().__init__(gather_distributed)
        self.alpha = checks.number("alpha", alpha, minimum=0.0, exclusive=True)
        self.weight = weight
        self.normalize = checks.flag("normalize", normalize)

    def forward(self, z_a: Tensor, z_b: Tensor) -> Tensor:
        group = self._group()
        if group is None:
            value = functional.alignment(z_a, z_b, alpha=self.alpha, normalize=self.normalize)
        else:
            from wssl_fast import distributed

            value = distributed.alignment(
                group,
                z_a,
                z_b,
                alpha=self.alpha,
                normalize=self.normalize,
                weight=self.weight,
            )
        return self.weight * value

    def extra_repr(self) -> str:
        settings = f"alpha={self.alpha:g}, weight={self.weight:g}, normalize={self.normalize}"
        return settings + self._gathers()


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
