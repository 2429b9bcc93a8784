"""Self-supervised learning of handwritten digits in plain PyTorch: alignment + W2, nothing else.

    python examples/plain_pytorch.py --out embeddings.npy
    wssl-fast inspect embeddings.npy --plot spectrum.png

Alignment alone is minimal when every image gets the same embedding. W2 keeps them apart: try
--weight 0 and see the effective rank fall.
"""

import argparse
from collections.abc import Sequence

import numpy as np
import torch
from sklearn.datasets import load_digits
from torch import Tensor, nn
from torch.nn import functional as F

import wssl_fast as wf


def main(arguments: Sequence[str] | None = None) -> dict[str, float]:
    options = parse(arguments)
    torch.manual_seed(options.seed)
    images, labels = digits()
    train, test = slice(0, 1437), slice(1437, None)  # the test set's writers are (nearly) unseen
    encoder = nn.Sequential(
        nn.Conv2d(1, 32, 3, padding=1), nn.BatchNorm2d(32), nn.ReLU(),
        nn.Conv2d(32, 64, 3, padding=1, stride=2), nn.BatchNorm2d(64), nn.ReLU(),
        nn.Conv2d(64, 64, 3, padding=1), nn.BatchNorm2d(64), nn.ReLU(),
        nn.Flatten(),
    )  # fmt: skip
    projector = nn.Sequential(
        nn.Linear(64 * 16, 256), nn.BatchNorm1d(256), nn.ReLU(), nn.Linear(256, options.dim)
    )
    network = nn.Sequential(encoder, projector)
    optimizer = torch.optim.AdamW(network.parameters(), lr=2e-3, weight_decay=1e-4)
    w2 = wf.nn.WassersteinUniformityLoss(weight=options.weight)

    found: dict[str, float] = {}
    for epoch in range(options.epochs):
        network.train()
        for rows in torch.randperm(1437).split(256)[:-1]:  # the last batch is a short one
            z_a, z_b = network(augment(images[train][rows])), network(augment(images[train][rows]))
            loss = wf.alignment(z_a, z_b) + w2(z_a, z_b)
            optimizer.zero_grad(set_to_none=True)
            loss.backward()
            optimizer.step()
        found = measure(network, encoder, images, labels, train, test)
        print(f"epoch {epoch + 1:3}  loss {loss.item():.3f}  " + figures(found))
    if options.out:
        with torch.no_grad():
            np.save(options.out, network.eval()(images[test]).numpy())
    return found


def digits() -> tuple[Tensor, Tensor]:
    """1,797 images (n, 1, 8, 8) in [0, 1] and their labels."""
    bunch = load_digits()
    return torch.from_numpy(bunch.images).float()[:, None] / 16, torch.from_numpy(bunch.target)


def augment(images: Tensor) -> Tensor:
    """Each image turned, scaled, shifted and sheared a little, with noise."""
    n = len(images)
    turn = torch.eye(2).expand(n, 2, 2) + 0.15 * torch.randn(n, 2, 2)
    shift = 0.12 * torch.randn(n, 2, 1)
    grid = F.affine_grid(torch.cat([turn, shift], 2), list(images.shape), align_corners=False)
    return F.grid_sample(images, grid, align_corners=False) + 0.1 * torch.randn_like(images)


@torch.no_grad()
def measure(
    network: nn.Module,
    encoder: nn.Module,
    images: Tensor,
    labels: Tensor,
    train: slice,
    test: slice,
) -> dict[str, float]:
    """Of the test images: W2 and effective rank of embeddings, 5-nearest-neighbour accuracy of
    features in percent."""
    network.eval()
    z = network(images[test])
    bank, queries = (F.normalize(encoder(images[part])) for part in (train, test))
    votes = labels[train][(queries @ bank.T).topk(5).indices]
    return {
        "w2": wf.wasserstein_uniformity(z).item(),
        "effective_rank": wf.effective_rank(F.normalize(z)).item(),
        "knn": (votes.mode().values == labels[test]).float().mean().item() * 100,
    }


def figures(found: dict[str, float]) -> str:
    return (
        f"W2 {found['w2']:.3f}  effective rank {found['effective_rank']:.1f}  "
        f"kNN {found['knn']:.1f} %"
    )


def parse(arguments: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--epochs", type=int, default=20)
    parser.add_argument("--weight", type=float, default=10.0, help="of W2")
    parser.add_argument("--dim", type=int, default=128, help="of the embeddings")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--out", help="npy file for the test embeddings")
    return parser.parse_args(arguments)


if __name__ == "__main__":
    main()
