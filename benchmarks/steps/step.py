"""One optimiser step: both views forward, loss, backward, SGD with momentum, target and queue.

Hidden layers of projector and predictor are 2,048 wide at every dimension (the paper's width), so
that a projector of 16,384 outputs does not swamp the step with two layers of 16,384 x 16,384.
"""

import copy
from collections.abc import Callable
from dataclasses import dataclass
from typing import NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from benchmarks.networks import predictor, projector, resnet18, small_resnet
from benchmarks.peers import Loss
from benchmarks.steps.methods import Method, Views

HIDDEN = 2048
SMALL_WIDTH = 16  # of benchmarks.ssl_small's recipe
VIEW_NOISE = 0.3  # what a view adds to its image
# no figure hangs on these: every step starts from the same weights
LEARNING_RATE, MOMENTUM, WEIGHT_DECAY = 1e-4, 0.9, 1e-4


@dataclass(frozen=True)
class Encoder:
    """A backbone by name, and the images that it takes."""

    name: str
    build: Callable[[], nn.Module]
    features: int
    channels: int
    side: int
    text: str  # for the page


ENCODERS: dict[str, Encoder] = {
    encoder.name: encoder
    for encoder in (
        Encoder(
            "small",
            lambda: small_resnet(SMALL_WIDTH),
            *(8 * SMALL_WIDTH, 1, 28),
            f"ResNet of one block a stage and width {SMALL_WIDTH}, grey images of 28 x 28",
        ),
        Encoder("resnet18", resnet18, 512, 3, 32, "ResNet-18, colour images of 32 x 32"),
    )
}


def synthetic_views(encoder: Encoder, batch: int, seed: int = 0) -> Views:
    """Smooth random patterns, (batch, channels, side, side), with other noise in each view."""
    generator = torch.Generator().manual_seed(seed)
    coarse = torch.randn(batch, encoder.channels, 7, 7, generator=generator)
    images = F.interpolate(coarse, size=encoder.side, mode="bilinear")
    noisy = [images + VIEW_NOISE * torch.randn(images.shape, generator=generator) for _ in range(2)]
    return Views(*(view.to(memory_format=torch.channels_last) for view in noisy))


class Outputs(NamedTuple):
    """Of one forward pass of both views, (n, dim) each."""

    embedded: Views  # the online projector's: what W2 takes
    online: Views  # what the loss compares: predictions where there is a predictor
    target: Views | None


class Networks(nn.Module):
    """Online encoder and projector, and what the method needs: predictor, target, queue."""

    def __init__(self, method: Method, encoder: Encoder, dim: int, hidden: int = HIDDEN) -> None:
        super().__init__()
        self.method = method
        backbone = encoder.build().to(memory_format=torch.channels_last)
        self.online = nn.Sequential(backbone, projector(encoder.features, hidden, dim))
        self.predictor = predictor(dim, hidden) if method.predictor else nn.Identity()
        self.target: nn.Module | None = None
        if method.ema_decay is not None:
            self.target = copy.deepcopy(self.online).requires_grad_(False)
        rows = method.queue_rows
        self.register_buffer("queue", F.normalize(torch.randn(rows, dim)) if rows else None)
        self.queue: Tensor | None  # (K, dim) unit rows
        self.queue_head = 0  # the oldest row, next to be replaced

    def trainable(self) -> list[nn.Parameter]:
        """Everything but the target."""
        return [parameter for parameter in self.parameters() if parameter.requires_grad]

    def forward(self, images: Views) -> Outputs:
        embedded = Views(*(self.online(view) for view in images))
        online = Views(*(self.predictor(z) for z in embedded))
        target = None
        if self.target is not None:
            with torch.no_grad():
                target = Views(*(self.target(view) for view in images))
        return Outputs(embedded, online, target)

    @torch.no_grad()
    def after_step(self, target: Views | None) -> None:
        """target <- tau target + (1 - tau) online; the batch's keys replace the queue's oldest."""
        if self.target is None or target is None:
            return
        assert self.method.ema_decay is not None
        pairs = zip(self.target.parameters(), self.online.parameters(), strict=True)
        for slow, fast in pairs:
            slow.lerp_(fast, 1 - self.method.ema_decay)
        if self.queue is not None:
            keys = F.normalize(torch.cat(target), dim=1)
            if len(self.queue) % len(keys):
                raise ValueError(
                    f"a queue of {len(self.queue)} rows takes no batches of {len(keys)} keys: "
                    "the one must be a multiple of the other"
                )
            self.queue[self.queue_head : self.queue_head + len(keys)] = keys
            self.queue_head = (self.queue_head + len(keys)) % len(self.queue)


class Step:
    """A step that can be taken again and again from the same state: weights, momentum, queue.

    The weights are the initial ones, the momentum is one step old.
    """

    def __init__(self, networks: Networks, images: Views) -> None:
        self.networks, self.images, self.method = networks.train(), images, networks.method
        self.optimizer = torch.optim.SGD(
            networks.trainable(), lr=LEARNING_RATE, momentum=MOMENTUM, weight_decay=WEIGHT_DECAY
        )
        self._state = [*networks.state_dict().values()]
        self._saved = [tensor.clone() for tensor in self._state]
        self._saved_head = networks.queue_head
        self.run(None)  # makes the momentum
        momenta = [state["momentum_buffer"] for state in self.optimizer.state.values()]
        self._state += momenta
        self._saved += [momentum.clone() for momentum in momenta]
        self.restore()

    @torch.no_grad()
    def restore(self) -> None:
        """The state that every step starts from."""
        for tensor, saved in zip(self._state, self._saved, strict=True):
            tensor.copy_(saved)
        self.networks.queue_head = self._saved_head

    def loss(self, w2: Loss | None) -> tuple[Tensor, Outputs]:
        """The method's loss, plus weight * w2 of both views' embeddings, concatenated."""
        outputs = self.networks(self.images)
        loss = self.method.loss(outputs.online, outputs.target, self.networks.queue)
        if w2 is not None:
            loss = loss + self.method.w2_weight * w2(torch.cat(outputs.embedded))
        return loss, outputs

    def run(self, w2: Loss | None) -> Tensor:
        """One step; returns the loss before it. Gradients stay until the next."""
        self.optimizer.zero_grad(set_to_none=True)
        loss, outputs = self.loss(w2)
        loss.backward()
        self.optimizer.step()
        self.networks.after_step(outputs.target)
        return loss.detach()

    @torch.no_grad()
    def outputs(self) -> Outputs:
        """What the networks return at the saved state."""
        self.restore()
        outputs = self.networks(self.images)
        self.restore()  # batch statistics moved
        return outputs


def build(
    method: Method, encoder: Encoder, dim: int, batch: int, device: str, seed: int = 0
) -> Step:
    """Networks and images of one seed on a device; draws from PyTorch's generator."""
    torch.manual_seed(seed)
    networks = Networks(method, encoder, dim).to(device)
    images = synthetic_views(encoder, batch, seed)
    return Step(networks, Views(*(view.to(device) for view in images)))
