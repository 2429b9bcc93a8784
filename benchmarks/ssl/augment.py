"""Images as networks see them: views by the W2 paper's augmentations, and plain ones.

Batches of bytes are augmented on their device by kornia. Where that is not what the paper's code
(torchvision on PIL images, one by one) does:

* crops are sampled by bicubic `grid_sample`, corner pixel to corner pixel, without antialiasing;
* the order of brightness, contrast, saturation and hue is drawn for a batch, not for each image;
* the blur's kernel ends at two of the largest standard deviation;
* grey images get crop, flip, brightness, contrast, blur and solarisation: the rest is of colours.
"""

import math
from collections.abc import Iterable

import kornia.augmentation as ka
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from benchmarks.data import pixels
from benchmarks.ssl.config import Augment


class Plain(nn.Module):
    """Bytes (n, c, h, w) -> float32 (n, c, side, side), each channel of mean 0 and deviation 1.

    mean, deviation: of the training images' channels, in [0, 1].
    """

    def __init__(self, mean: Tensor, deviation: Tensor, side: int) -> None:
        super().__init__()
        self.side = side
        self.register_buffer("mean", mean.reshape(1, -1, 1, 1))
        self.register_buffer("deviation", deviation.reshape(1, -1, 1, 1))

    @classmethod
    def of(cls, images: Tensor, side: int | None) -> "Plain":
        """With the channels' mean and deviation over training images (n, c, h, w)."""
        count = images.numel() // images.shape[1]
        sums = [
            (x.sum((0, 2, 3)), x.square().sum((0, 2, 3)))
            for x in (pixels(chunk).double() for chunk in images.split(4096))
        ]
        first, second = (torch.stack(part).sum(0) / count for part in zip(*sums, strict=True))
        deviation = (second - first.square()).clamp_min(1e-12).sqrt()
        dtype = torch.get_default_dtype()
        return cls(first.to(dtype), deviation.to(dtype), side or images.shape[-1])

    def forward(self, images: Tensor) -> Tensor:
        x = pixels(images)
        if x.shape[-1] != self.side:
            x = F.interpolate(x, size=(self.side, self.side), mode="bicubic", antialias=True)
            x = x.clamp(0, 1)
        return self.normalised(x)

    def normalised(self, x: Tensor) -> Tensor:
        """Of values in [0, 1]; in the layout that convolutions like."""
        return ((x - self.mean) / self.deviation).contiguous(memory_format=torch.channels_last)


class View(nn.Module):
    """Bytes (n, c, h, w) -> one random view of each, normalised; draws from PyTorch's generator."""

    def __init__(self, plain: Plain, settings: Augment, channels: int) -> None:
        super().__init__()
        self.plain = plain
        self.steps = nn.Sequential(*_steps(settings, plain.side, colour=channels == 3))

    @torch.no_grad()
    def forward(self, images: Tensor) -> Tensor:
        x = self.steps(pixels(images)).clamp(0, 1)
        if x.shape[-1] != self.plain.side:
            raise ValueError(f"images of {x.shape[-1]} need a crop to become {self.plain.side}")
        return self.plain.normalised(x)


def crop_and_flip(settings: Augment) -> Augment:
    """What the linear probe's training images get."""
    return settings.model_copy(update={"jitter": 0.0, "grey": 0.0, "blur": 0.0, "solarise": 0.0})


def _steps(settings: Augment, side: int, *, colour: bool) -> Iterable[nn.Module]:
    """In the paper's order; what has probability 0 is not there."""
    if settings.crop:
        yield ka.RandomResizedCrop(
            (side, side),
            scale=settings.crop_scale,
            resample="bicubic",
            cropping_mode="resample",  # the batch at once
        )
        yield Clamp()  # bicubic overshoots
    if settings.flip:
        yield ka.RandomHorizontalFlip(p=settings.flip)
    if settings.jitter:
        of_colour = (settings.saturation, settings.hue) if colour else (0.0, 0.0)
        yield ka.ColorJitter(settings.brightness, settings.contrast, *of_colour, p=settings.jitter)
    if settings.grey and colour:
        yield ka.RandomGrayscale(p=settings.grey)
    if settings.blur:
        width = 2 * math.ceil(2 * max(settings.blur_sigma)) + 1
        yield ka.RandomGaussianBlur((width, width), settings.blur_sigma, p=settings.blur)
    if settings.solarise:
        yield ka.RandomSolarize(thresholds=(0.5, 0.5), additions=(0.0, 0.0), p=settings.solarise)


class Clamp(nn.Module):
    """To [0, 1]."""

    def forward(self, x: Tensor) -> Tensor:
        return x.clamp(0, 1)
