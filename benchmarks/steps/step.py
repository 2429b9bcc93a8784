"""One optimiser step: both views forward, loss, backward, SGD with momentum, target and queue.

Hidden layers of projector and predictor are 2,048 wide at every dimension (the paper's width), so
that a projector of 16,384 outputs does not swamp the step with two layers of 16,384 x 16,384.
"""

import torch
from torch import Tensor
from torch.nn import functional as F

from benchmarks.networks import Encoder, resnet18_encoder, small_encoder
from benchmarks.peers import Loss
from benchmarks.ssl.methods import Method, Views
from benchmarks.ssl.networks import Networks, Outputs

HIDDEN = 2048
VIEW_NOISE = 0.3  # what a view adds to its image
# no figure hangs on these: every step starts from the same weights
LEARNING_RATE, MOMENTUM, WEIGHT_DECAY = 1e-4, 0.9, 1e-4

ENCODERS: dict[str, Encoder] = {
    encoder.name: encoder for encoder in (small_encoder(), resnet18_encoder())
}


def synthetic_views(encoder: Encoder, batch: int, seed: int = 0) -> Views:
    """Smooth random patterns, (batch, channels, side, side), with other noise in each view."""
    generator = torch.Generator().manual_seed(seed)
    coarse = torch.randn(batch, encoder.channels, 7, 7, generator=generator)
    images = F.interpolate(coarse, size=encoder.side, mode="bilinear")
    noisy = [images + VIEW_NOISE * torch.randn(images.shape, generator=generator) for _ in range(2)]
    return Views(*(view.to(memory_format=torch.channels_last) for view in noisy))


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
    networks = Networks(method, encoder, dim, HIDDEN).to(device)
    images = synthetic_views(encoder, batch, seed)
    return Step(networks, Views(*(view.to(device) for view in images)))
