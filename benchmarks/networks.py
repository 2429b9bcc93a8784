"""Networks that the training runs and the training steps share: encoders, projector, predictor."""

from collections.abc import Callable
from dataclasses import dataclass

from torch import Tensor, nn
from torch.nn import functional as F


class Block(nn.Module):
    """Two 3x3 convolutions with a shortcut (ResNet's basic block)."""

    def __init__(self, channels_in: int, channels_out: int, stride: int) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(channels_in, channels_out, 3, stride, 1, bias=False)
        self.norm1 = nn.BatchNorm2d(channels_out)
        self.conv2 = nn.Conv2d(channels_out, channels_out, 3, 1, 1, bias=False)
        self.norm2 = nn.BatchNorm2d(channels_out)
        self.shortcut: nn.Module = nn.Identity()
        if stride != 1 or channels_in != channels_out:
            self.shortcut = nn.Sequential(
                nn.Conv2d(channels_in, channels_out, 1, stride, bias=False),
                nn.BatchNorm2d(channels_out),
            )

    def forward(self, x: Tensor) -> Tensor:
        y = F.relu(self.norm1(self.conv1(x)))
        return F.relu(self.norm2(self.conv2(y)) + self.shortcut(x))


def small_resnet(width: int, channels: int = 1) -> nn.Sequential:
    """ResNet of one block a stage: images (n, channels, side, side) -> features (n, 8 width)."""
    return nn.Sequential(
        nn.Conv2d(channels, width, 3, 2, 1, bias=False),  # stride 2: a quarter of the time
        nn.BatchNorm2d(width),
        nn.ReLU(),
        Block(width, width, 1),
        Block(width, 2 * width, 2),
        Block(2 * width, 4 * width, 2),
        Block(4 * width, 8 * width, 2),
        nn.AdaptiveAvgPool2d(1),
        nn.Flatten(),
    )


def resnet18(channels: int = 3) -> nn.Sequential:
    """ResNet-18 for 32x32: images (n, channels, 32, 32) -> features (n, 512).

    He et al. 2016, table 1, with the W2 paper's changes for CIFAR: first convolution 3x3, stride 1,
    padding 2, no max-pooling, and every block's last scale starting at 0.
    """
    layers: list[nn.Module] = [
        nn.Conv2d(channels, 64, 3, 1, 2, bias=False),
        nn.BatchNorm2d(64),
        nn.ReLU(),
    ]
    width = 64
    for out, stride in ((64, 1), (128, 2), (256, 2), (512, 2)):
        layers += [Block(width, out, stride), Block(out, out, 1)]
        width = out
    for layer in layers:
        if isinstance(layer, Block):
            nn.init.zeros_(layer.norm2.weight)
    return nn.Sequential(*layers, nn.AdaptiveAvgPool2d(1), nn.Flatten())


@dataclass(frozen=True)
class Encoder:
    """A backbone by name, and the images that it takes."""

    name: str
    build: Callable[[], nn.Module]
    features: int
    channels: int
    side: int
    text: str  # for a page


def small_encoder(width: int = 16, channels: int = 1, side: int = 28) -> Encoder:
    """Of `small_resnet`, under the name "small"."""
    text = (
        f"ResNet of one block a stage and width {width}, {_colour(channels)} images of "
        f"{side} x {side}"
    )
    return Encoder("small", lambda: small_resnet(width, channels), 8 * width, channels, side, text)


def resnet18_encoder(channels: int = 3, side: int = 32) -> Encoder:
    """Of `resnet18`."""
    text = f"ResNet-18, {_colour(channels)} images of {side} x {side}"
    return Encoder("resnet18", lambda: resnet18(channels), 512, channels, side, text)


def _colour(channels: int) -> str:
    return "grey" if channels == 1 else "colour"


def projector(features: int, hidden: int, dim: int) -> nn.Sequential:
    """Three layers, batch normalisation and ReLU between, the last with bias: -> (n, dim)."""
    return nn.Sequential(
        nn.Linear(features, hidden, bias=False),
        nn.BatchNorm1d(hidden),
        nn.ReLU(),
        nn.Linear(hidden, hidden, bias=False),
        nn.BatchNorm1d(hidden),
        nn.ReLU(),
        nn.Linear(hidden, dim),
    )


def predictor(dim: int, hidden: int) -> nn.Sequential:
    """BYOL's two layers, (n, dim) -> (n, dim)."""
    return nn.Sequential(
        nn.Linear(dim, hidden, bias=False),
        nn.BatchNorm1d(hidden),
        nn.ReLU(),
        nn.Linear(hidden, dim),
    )
