"""A small self-supervised training run on real images: Barlow Twins alone, or with W2 beside it.

Both arms share the seed, the initial weights, the batches and the augmentations; the loss is the
only difference. Each epoch is measured on un-augmented test images, as in the paper.
"""

import time
from collections.abc import Callable
from dataclasses import dataclass, replace

import kornia.augmentation as kornia_aug
import torch
from torch import Tensor, nn
from torch.nn import functional as F

import wssl_fast as wf
from benchmarks.data import ImageSet
from benchmarks.networks import projector, small_resnet
from benchmarks.peers import barlow_twins


@dataclass(frozen=True)
class Recipe:
    """Every setting of a run.

    Chosen by kNN on 2,000 held-out training images of Fashion-MNIST, one seed. First Barlow Twins
    alone, six settings of learning rate (3e-4, 1e-3), lambda (0.0051, 0.02) and crops (from 0.15,
    0.3, 0.6): 76.3 to 79.2 %. On the best of them four W2 weights, 30 and 100 falling to 0, then
    100 and 300 constant: 78.9, 78.8, 78.7, 79.4 % at W2 1.07, 1.03, 0.99, 0.81 (alone: 79.2 %,
    1.14). One standard error is 0.9 %: the accuracies are equal, the spectra are not.
    """

    seed: int = 0
    epochs: int = 8
    train_count: int = 10_000  # images trained on, and the kNN's bank
    test_count: int = 2_000
    batch_size: int = 256  # rows of one view
    width: int = 16  # channels of the first of four stages
    projector_dim: int = 512
    learning_rate: float = 1e-3
    weight_decay: float = 1e-4
    off_diagonal_weight: float = 0.02  # Barlow Twins' lambda
    w2_weight_start: float = 0.0  # linear over the epochs, as in the paper's schedule
    w2_weight_end: float = 0.0
    crop_scale: tuple[float, float] = (0.6, 1.0)
    knn_share: float = 1 / 250  # neighbours over bank: the paper's 200 of 50,000

    def neighbours(self, bank: int) -> int:
        """The kNN's k for a bank of this size, at least 5."""
        return max(round(self.knn_share * bank), 5)

    def w2_weight(self, epoch: int) -> float:
        """The paper's linear schedule a_e = a_max - e (a_max - a_min) / epochs, epoch from 0."""
        share = epoch / self.epochs
        return self.w2_weight_start + share * (self.w2_weight_end - self.w2_weight_start)


def arms(base: Recipe, w2_weight: tuple[float, float]) -> dict[str, Recipe]:
    """The two recipes of the demo: equal but for the W2 weight."""
    start, end = w2_weight
    return {
        "Barlow Twins": replace(base, w2_weight_start=0.0, w2_weight_end=0.0),
        "Barlow Twins + W2": replace(base, w2_weight_start=start, w2_weight_end=end),
    }


@dataclass(frozen=True)
class EpochReport:
    """One epoch's figures; everything but the loss is measured on un-augmented test images."""

    epoch: int
    loss: float
    knn_accuracy: float  # percent
    w2: float
    uniformity: float
    effective_rank: float  # of the unit rows' covariance
    seconds: float  # training time of the epoch, evaluation excluded


@dataclass(frozen=True)
class RunReport:
    """A finished run: its curve, and the final test embeddings' singular values."""

    recipe: Recipe
    epochs: list[EpochReport]
    singular_values: Tensor  # (min(n, m),) of the centred unit rows / sqrt(n), descending
    w2_floor: float  # W2 of as many uniform points: what a finite sample cannot go below


class Encoder(nn.Module):
    """ResNet of one block a stage, three-layer projector: images -> features, embeddings."""

    def __init__(self, width: int, projector_dim: int) -> None:
        super().__init__()
        self.backbone = small_resnet(width).to(memory_format=torch.channels_last)
        self.projector = projector(8 * width, projector_dim, projector_dim)

    def forward(self, images: Tensor) -> tuple[Tensor, Tensor]:
        features = self.backbone(images.to(memory_format=torch.channels_last))
        return features, self.projector(features)


def augmentation(recipe: Recipe, side: int) -> nn.Module:
    """Random crop, flip, brightness and contrast: the part of the paper's list that suits grey."""
    return nn.Sequential(
        kornia_aug.RandomResizedCrop((side, side), scale=recipe.crop_scale),
        kornia_aug.RandomHorizontalFlip(p=0.5),
        kornia_aug.RandomBrightness((0.6, 1.4), p=0.8),
        kornia_aug.RandomContrast((0.6, 1.4), p=0.8),
    )


def train(
    recipe: Recipe,
    images: ImageSet,
    on_step: Callable[[int, int], None] = lambda step, steps: None,
    on_epoch: Callable[[EpochReport], None] = lambda report: None,
) -> RunReport:
    """Train one arm; `on_step(step, steps)` and `on_epoch(report)` show progress."""
    torch.manual_seed(recipe.seed)
    train_images = images.train_images[: recipe.train_count]
    train_labels = images.train_labels[: recipe.train_count]
    test_images = images.test_images[: recipe.test_count]
    test_labels = images.test_labels[: recipe.test_count]

    encoder = Encoder(recipe.width, recipe.projector_dim)
    augment = augmentation(recipe, side=train_images.shape[-1])
    steps_per_epoch = len(train_images) // recipe.batch_size
    steps = recipe.epochs * steps_per_epoch
    optimizer = torch.optim.AdamW(
        encoder.parameters(), lr=recipe.learning_rate, weight_decay=recipe.weight_decay
    )
    schedule = torch.optim.lr_scheduler.OneCycleLR(
        optimizer, max_lr=recipe.learning_rate, total_steps=steps, pct_start=0.1
    )
    w2_loss = wf.nn.WassersteinUniformityLoss()
    batches = torch.Generator().manual_seed(recipe.seed)

    reports: list[EpochReport] = []
    embeddings = torch.empty(0)
    for epoch in range(recipe.epochs):
        started = time.perf_counter()
        weight = recipe.w2_weight(epoch)
        order = torch.randperm(len(train_images), generator=batches)
        total = 0.0
        encoder.train()
        for step in range(steps_per_epoch):
            rows = order[step * recipe.batch_size : (step + 1) * recipe.batch_size]
            batch = train_images[rows]
            view_a, view_b = augment(batch), augment(batch)
            _, z_a = encoder(view_a)
            _, z_b = encoder(view_b)
            loss = barlow_twins(z_a, z_b, off_diagonal_weight=recipe.off_diagonal_weight)
            if weight > 0:
                loss = loss + weight * w2_loss(z_a, z_b)
            optimizer.zero_grad(set_to_none=True)
            loss.backward()
            optimizer.step()
            schedule.step()
            total += loss.item()
            on_step(epoch * steps_per_epoch + step + 1, steps)
        seconds = time.perf_counter() - started

        bank, _ = embed(encoder, train_images)
        features, embeddings = embed(encoder, test_images)
        report = EpochReport(
            epoch=epoch + 1,
            loss=total / steps_per_epoch,
            knn_accuracy=knn_accuracy(
                bank, train_labels, features, test_labels, recipe.neighbours(len(bank))
            ),
            w2=wf.wasserstein_uniformity(embeddings).item(),
            uniformity=wf.uniformity(embeddings).item(),
            effective_rank=wf.effective_rank(F.normalize(embeddings)).item(),
            seconds=seconds,
        )
        reports.append(report)
        on_epoch(report)
    return RunReport(
        recipe=recipe,
        epochs=reports,
        singular_values=singular_values(embeddings),
        w2_floor=w2_floor(*embeddings.shape),
    )


@torch.no_grad()
def embed(encoder: Encoder, images: Tensor) -> tuple[Tensor, Tensor]:
    """Features and embeddings of un-augmented images, batch statistics frozen."""
    encoder.eval()
    features, embeddings = zip(*(encoder(batch) for batch in images.split(1024)), strict=True)
    return torch.cat(features), torch.cat(embeddings)


def knn_accuracy(
    bank: Tensor, bank_labels: Tensor, queries: Tensor, labels: Tensor, neighbours: int
) -> float:
    """Percent right of the paper's kNN: cosine similarity s, neighbours weighted by exp(s)."""
    bank = F.normalize(bank, dim=1)
    queries = F.normalize(queries, dim=1)
    weights, indices = (queries @ bank.T).topk(neighbours, dim=1)
    votes = torch.zeros(len(queries), int(bank_labels.max()) + 1)
    votes.scatter_add_(1, bank_labels[indices], weights.exp())
    return (votes.argmax(1) == labels).float().mean().item() * 100


def singular_values(embeddings: Tensor) -> Tensor:
    """Singular values of the centred unit rows over sqrt(n): roots of the covariance's spectrum."""
    x = F.normalize(embeddings.double(), dim=1)
    return torch.linalg.svdvals(x - x.mean(0)) / len(x) ** 0.5


def w2_floor(n: int, m: int, seed: int = 0) -> float:
    """W2 of n points drawn uniformly on the sphere of R^m: not 0, for n is finite."""
    sample = torch.randn(n, m, generator=torch.Generator().manual_seed(seed))
    return wf.wasserstein_uniformity(sample).item()
