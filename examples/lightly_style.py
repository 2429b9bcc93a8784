"""A criterion in the manner of lightly's: a module, called with the projections of two views.

    python examples/lightly_style.py

lightly's losses are `nn.Module`s that take `(z0, z1)` and return a scalar; so does this one, which
puts W2 beside any of them:

    criterion = WithWassersteinUniformity(lightly.loss.BarlowTwinsLoss(), weight=30.0)
    loss = criterion(z0, z1)
"""

import torch
from torch import Tensor, nn
from torch.nn import functional as F

import wssl_fast as wf


class WithWassersteinUniformity(nn.Module):
    """`criterion(z0, z1) + weight * W2`, W2 over the rows of both views.

    Attributes:
        criterion: any loss of two views.
        weight: of W2; the authors use 1 for MoCo v2, 0.2 for BYOL, 30 for Barlow Twins.
        squared: use W2 squared, which is smooth at its optimum.
    """

    def __init__(self, criterion: nn.Module, weight: float = 1.0, squared: bool = False) -> None:
        super().__init__()
        self.criterion = criterion
        self.w2 = wf.nn.WassersteinUniformityLoss(weight=weight, squared=squared)

    def forward(self, z0: Tensor, z1: Tensor) -> Tensor:
        return self.criterion(z0, z1) + self.w2(z0, z1)


class NegativeCosineSimilarity(nn.Module):
    """The invariance of SimSiam and BYOL, standing in for a criterion of lightly's."""

    def forward(self, z0: Tensor, z1: Tensor) -> Tensor:
        return -F.cosine_similarity(z0, z1).mean()


def main() -> list[float]:
    """A few steps on embeddings that start collapsed onto four directions; returns W2 of each."""
    torch.manual_seed(0)
    criterion = WithWassersteinUniformity(NegativeCosineSimilarity(), weight=1.0)
    backbone = nn.Sequential(nn.Linear(32, 128), nn.ReLU(), nn.Linear(128, 64))
    optimizer = torch.optim.AdamW(backbone.parameters(), lr=3e-3)
    x = torch.randn(256, 4) @ torch.randn(4, 32) + 0.05 * torch.randn(256, 32)
    values = []
    for step in range(30):
        z0, z1 = (backbone(x + 0.05 * torch.randn_like(x)) for _ in range(2))
        loss = criterion(z0, z1)
        optimizer.zero_grad(set_to_none=True)
        loss.backward()
        optimizer.step()
        values.append(wf.wasserstein_uniformity(z0.detach()).item())
        if step % 10 == 0 or step == 29:
            rank = wf.effective_rank(F.normalize(z0.detach())).item()
            print(f"step {step:3}  loss {loss:.3f}  W2 {values[-1]:.3f}  effective rank {rank:.1f}")
    return values


if __name__ == "__main__":
    main()
