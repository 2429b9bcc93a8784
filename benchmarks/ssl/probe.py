"""The linear probe: a linear classifier on frozen features.

SGD with momentum, a cosine over its epochs, augmented training images: the W2 paper's recipe. Its
code leaves batch normalisation in training mode while the classifier trains and reports the best of
the test epochs; here batch normalisation is in evaluation mode and the last epoch counts.
"""

from collections.abc import Callable
from dataclasses import asdict, dataclass

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from benchmarks.ssl.config import Probe
from benchmarks.ssl.evaluate import Prepare, features_of, top_k_accuracy
from benchmarks.ssl.seeds import mixed, seed_for


@dataclass(frozen=True)
class ProbeResult:
    """Of the last epoch, in percent of the test images; the loss is that epoch's on training."""

    acc1: float
    acc5: float
    probe_loss: float

    def row(self) -> dict[str, float]:
        """For a row of metrics."""
        return asdict(self)


@dataclass(frozen=True)
class Split:
    """Images as bytes, with labels."""

    images: Tensor
    labels: Tensor


def linear_probe(
    backbone: nn.Module,
    train: Split,
    test: Split,
    settings: Probe,
    *,
    plain: Prepare,
    augmented: Prepare,
    seed: int,
    on_epoch: Callable[[int, int], None] = lambda epoch, epochs: None,
) -> ProbeResult:
    """Train and test the classifier.

    plain, augmented: make a batch of images what the backbone takes. With `copies` k > 0 the
    augmented training set is passed through the backbone k times, and epoch e takes pass e mod k:
    a frozen backbone sees k augmentations of each image instead of a new one each epoch.
    """
    test_features = features_of(backbone, test.images, plain)
    classes = int(train.labels.max()) + 1
    head = nn.Linear(test_features.shape[1], classes).to(test_features.device)
    seed_for(seed, "probe head")
    nn.init.normal_(head.weight, std=0.01)
    nn.init.zeros_(head.bias)
    optimizer = torch.optim.SGD(
        head.parameters(),
        lr=settings.lr,
        momentum=settings.momentum,
        weight_decay=settings.weight_decay,
    )
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, settings.epochs)
    kept: dict[int, Tensor] = {}

    def features(epoch: int) -> Tensor:
        if not settings.augment:
            epoch, prepare = 0, plain
        else:
            epoch, prepare = (epoch % settings.copies if settings.copies else epoch), augmented
        if epoch in kept:
            return kept[epoch]
        seed_for(seed, "probe views", epoch)
        found = features_of(backbone, train.images, prepare)
        if settings.copies or not settings.augment:
            kept[epoch] = found
        return found

    loss = 0.0
    for epoch in range(settings.epochs):
        x = features(epoch)
        generator = torch.Generator().manual_seed(mixed(seed, "probe order", epoch))
        order = torch.randperm(len(x), generator=generator).to(x.device)
        losses = []
        for rows in order.split(settings.batch):
            value = F.cross_entropy(head(x[rows]), train.labels[rows])
            optimizer.zero_grad(set_to_none=True)
            value.backward()
            optimizer.step()
            losses.append(value.detach())
        schedule.step()
        loss = torch.stack(losses).mean().item()
        on_epoch(epoch + 1, settings.epochs)
    with torch.no_grad():
        logits = head(test_features)
    return ProbeResult(
        top_k_accuracy(logits, test.labels, 1), top_k_accuracy(logits, test.labels, 5), loss
    )
