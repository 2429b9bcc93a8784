"""What a network's features and embeddings are worth, as the W2 paper measures it.

Batch normalisation is in evaluation mode throughout. kNN and the probe take the backbone's
features; W2, L_U, the effective rank and the spectrum the projector's outputs for un-augmented test
images, scaled to unit length; alignment those for two augmented views of the test images.
"""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass

import torch
from torch import Tensor, nn
from torch.nn import functional as F

import wssl_fast as wf
from benchmarks.data.images import UNLABELLED

BATCH = 1024
Prepare = Callable[[Tensor], Tensor]


@dataclass(frozen=True)
class Geometry:
    """How embeddings (n, m) lie on the sphere."""

    w2: float
    uniformity: float  # L_U, t = 2
    effective_rank: float  # of the unit rows' covariance
    w2_floor: float  # W2 of n points drawn uniformly

    def row(self) -> dict[str, float]:
        """For a row of metrics."""
        return asdict(self)


@contextmanager
def evaluating(module: nn.Module) -> Iterator[None]:
    """Evaluation mode and no gradients; afterwards the mode that was."""
    was = module.training
    module.eval()
    try:
        with torch.no_grad():
            yield
    finally:
        module.train(was)


def _as_given(images: Tensor) -> Tensor:
    return images


def embed(
    network: nn.Sequential, images: Tensor, prepare: Prepare = _as_given, batch: int = BATCH
) -> tuple[Tensor, Tensor]:
    """Features and embeddings of images by a backbone and a projector in sequence.

    prepare: makes a batch of images what the backbone takes; where it draws random numbers, they
    depend on `batch`.
    """
    features, embeddings = [], []
    with evaluating(network):
        for chunk in images.split(batch):
            features.append(network[0](prepare(chunk)))
            embeddings.append(network[1](features[-1]))
    return torch.cat(features), torch.cat(embeddings)


def features_of(backbone: nn.Module, images: Tensor, prepare: Prepare) -> Tensor:
    """(n, f), without the projector's work."""
    with evaluating(backbone):
        return torch.cat([backbone(prepare(chunk)) for chunk in images.split(BATCH)])


@torch.no_grad()
def knn_accuracy(
    bank: Tensor, bank_labels: Tensor, queries: Tensor, labels: Tensor, neighbours: int
) -> float:
    """Percent right of the paper's kNN: cosine similarity s, neighbours weighted by exp(s)."""
    if not 1 <= neighbours <= len(bank):
        raise ValueError(f"neighbours must be 1 to {len(bank)}, the bank's size, got {neighbours}")
    bank, classes = F.normalize(bank, dim=1), int(bank_labels.max()) + 1
    right = 0
    for chunk, expected in zip(queries.split(BATCH), labels.split(BATCH), strict=True):
        similarity = F.normalize(chunk, dim=1) @ bank.T
        weights, indices = similarity.topk(neighbours, dim=1)
        votes = torch.zeros(len(chunk), classes, device=bank.device, dtype=bank.dtype)
        votes.scatter_add_(1, bank_labels[indices], weights.exp())
        right += int((votes.argmax(1) == expected).sum())
    return 100 * right / len(queries)


def singular_values(embeddings: Tensor) -> Tensor:
    """Singular values of the centred unit rows over sqrt(n): roots of the covariance's spectrum."""
    x = F.normalize(embeddings.double(), dim=1)
    return torch.linalg.svdvals(x - x.mean(0)) / len(x) ** 0.5


def log_spectrum(embeddings: Tensor) -> list[float]:
    """Natural logarithms of the covariance's singular values, descending, min(n, m) of them.

    The covariance is the unit rows', over n. What is below 1e-12 of the largest counts as that.
    """
    values = singular_values(embeddings).square()
    return values.clamp_min(1e-12 * float(values[0])).log().tolist()


def w2_floor(n: int, m: int, seed: int = 0) -> float:
    """W2 of n points drawn uniformly on the sphere of R^m: not 0, for n is finite."""
    sample = torch.randn(n, m, generator=torch.Generator().manual_seed(seed))
    return wf.wasserstein_uniformity(sample).item()


@torch.no_grad()
def geometry(embeddings: Tensor) -> Geometry:
    """Of embeddings (n, m) as the projector gives them."""
    return Geometry(
        w2=wf.wasserstein_uniformity(embeddings).item(),
        uniformity=wf.uniformity(embeddings).item(),
        effective_rank=wf.effective_rank(F.normalize(embeddings)).item(),
        w2_floor=w2_floor(*embeddings.shape),
    )


@torch.no_grad()
def top_k_accuracy(logits: Tensor, labels: Tensor, k: int) -> float:
    """Percent of rows whose label is among the k largest logits (all of them if fewer)."""
    best = logits.topk(min(k, logits.shape[1]), dim=1).indices
    return 100 * int((best == labels[:, None]).any(1).sum()) / len(labels)


def labelled(images: Tensor, labels: Tensor) -> tuple[Tensor, Tensor]:
    """Without the unlabelled ones, which come last."""
    count = int((labels != UNLABELLED).sum())
    return images[:count], labels[:count]
