"""A loss function in the manner of solo-learn's: `*_loss_func(z1, z2, ...)`.

    python examples/solo_learn_style.py

solo-learn keeps a function a loss (`solo/losses/barlow.py`) and calls it in a method's
`training_step` with the projector's outputs of two views; this one goes beside it:

    loss = barlow_loss_func(z1, z2) + wasserstein_uniformity_loss_func(z1, z2, weight=30.0)
"""

import torch
from torch import Tensor

import wssl_fast as wf


def wasserstein_uniformity_loss_func(
    z1: Tensor, z2: Tensor, weight: float = 1.0, squared: bool = False, eps: float = 0.0
) -> Tensor:
    """Computes the Gaussian 2-Wasserstein uniformity loss of the rows of both views.

    Args:
        z1 (Tensor): NxD Tensor containing projected features from view 1.
        z2 (Tensor): NxD Tensor containing projected features from view 2.
        weight (float): factor on the loss. Defaults to 1.0.
        squared (bool): whether to return W2 squared. Defaults to False.
        eps (float): ridge on the covariance. Defaults to 0.0.

    Returns:
        Tensor: weighted W2.
    """
    return weight * wf.wasserstein_uniformity(torch.cat([z1, z2]), squared=squared, eps=eps)


def barlow_loss_func(z1: Tensor, z2: Tensor, lamb: float = 5e-3) -> Tensor:
    """Barlow Twins' loss (Zbontar et al. 2021), the method's own in this example."""
    z1, z2 = ((z - z.mean(0)) / z.std(0) for z in (z1, z2))
    corr = z1.T @ z2 / len(z1)  # (D, D)
    on, off = (corr.diagonal() - 1) ** 2, corr - torch.diag(corr.diagonal())
    return on.sum() + lamb * (off**2).sum()


def main() -> tuple[float, float]:
    """One step with the loss: W2 of a collapsed batch before and after."""
    torch.manual_seed(0)
    projector = torch.nn.Linear(32, 64)
    optimizer = torch.optim.SGD(projector.parameters(), lr=0.01)
    x = torch.randn(128, 32) * torch.logspace(0, -2, 32)
    x1, x2 = (x + 0.01 * torch.randn_like(x) for _ in range(2))
    values = []
    for _ in range(20):
        z1, z2 = projector(x1), projector(x2)
        loss = barlow_loss_func(z1, z2) + wasserstein_uniformity_loss_func(z1, z2, weight=30.0)
        optimizer.zero_grad(set_to_none=True)
        loss.backward()
        optimizer.step()
        values.append(wf.wasserstein_uniformity(torch.cat([z1, z2]).detach()).item())
    print(f"W2 {values[0]:.3f} -> {values[-1]:.3f} in {len(values)} steps")
    return values[0], values[-1]


if __name__ == "__main__":
    main()
