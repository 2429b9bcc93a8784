"""Which images a run trains on, which are the kNN's bank and the probe's, which it is tested on."""

from dataclasses import dataclass

import torch

from benchmarks.data import ImageSet
from benchmarks.ssl.augment import Plain, View, crop_and_flip
from benchmarks.ssl.config import Config, ConfigError
from benchmarks.ssl.evaluate import labelled
from benchmarks.ssl.probe import Split


@dataclass(frozen=True)
class Splits:
    """All in memory, on the device, as bytes; and what makes them the network's input."""

    train: Split  # unlabelled images too, last
    bank: Split  # the labelled ones of them
    test: Split
    plain: Plain
    view: View
    probe_view: View
    channels: int

    @property
    def side(self) -> int:
        """Of the network's input."""
        return self.plain.side


def split(config: Config, images: ImageSet, device: torch.device) -> Splits:
    """As config.data says; ConfigError where the set is too small for it, or for the batch.

    A hold-out takes the place of the test images. It comes after the images trained on where there
    are enough, else it is the last of the labelled ones, which are then not trained on.
    """
    data = config.data
    count = int(labelled(images.train_images, images.train_labels)[1].shape[0])
    if data.holdout >= count:
        raise ConfigError(f"data.holdout: {data.holdout} of {count} labelled training images")
    start = min(data.train_count or count, count - data.holdout)
    held = slice(start, start + data.holdout)
    kept = torch.ones(len(images.train_images), dtype=torch.bool)
    kept[held] = False
    available = int(kept.sum())
    if data.train_count and data.train_count > available:
        raise ConfigError(
            f"data.train_count: {data.train_count:,} asked for, {images.name} has {available:,}"
            + (f" beside {data.holdout:,} held out" if data.holdout else "")
        )
    kept_rows = kept.nonzero().flatten()[: data.train_count or available]
    train = Split(images.train_images[kept_rows], images.train_labels[kept_rows])
    if data.holdout:
        test = Split(images.train_images[held], images.train_labels[held])
    else:
        test = Split(images.test_images, images.test_labels)
    if data.test_count and data.test_count > len(test.images):
        raise ConfigError(f"data.test_count: {data.test_count:,} of {len(test.images):,}")
    limit = data.test_count or len(test.images)
    test = Split(test.images[:limit], test.labels[:limit])
    bank = Split(*labelled(train.images, train.labels))
    _enough(config, len(train.images), len(bank.images))

    channels = train.images.shape[1]
    plain = Plain.of(train.images, data.side).to(device)
    if plain.side != train.images.shape[-1] and not config.augment.crop:
        raise ConfigError("augment.crop: false leaves images at their size, data.side is another")
    train, bank, test = (
        Split(part.images.to(device), part.labels.to(device)) for part in (train, bank, test)
    )
    return Splits(
        train,
        bank,
        test,
        plain,
        View(plain, config.augment, channels).to(device),
        View(plain, crop_and_flip(config.augment), channels).to(device),
        channels,
    )


def _enough(config: Config, train: int, bank: int) -> None:
    """Images for a batch, a queue and the kNN's neighbours."""
    if config.batch > train:
        raise ConfigError(f"batch: {config.batch} is more than the {train:,} training images")
    queue = config.build_method().queue_rows
    if queue > train:
        raise ConfigError(
            f"method.queue_rows: {queue:,} keys are more than the {train:,} training images: the "
            "queue would hold each image as a negative of itself"
        )
    if config.evaluation.neighbours > bank:
        raise ConfigError(
            f"evaluation.neighbours: {config.evaluation.neighbours} of {bank:,} labelled images"
        )
