"""What is trained: encoder and projector, and what the method needs beside them."""

import copy
from typing import NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from benchmarks.networks import Encoder, predictor, projector
from benchmarks.ssl.methods import Method, Views


class Outputs(NamedTuple):
    """Of one forward pass of both views, (n, dim) each."""

    embedded: Views  # the online projector's: what a uniformity loss takes
    online: Views  # what the loss compares: predictions where there is a predictor
    target: Views | None


class Networks(nn.Module):
    """Online encoder and projector, and what the method needs: predictor, target, queue."""

    def __init__(self, method: Method, encoder: Encoder, dim: int, hidden: int = 2048) -> None:
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
        self.queue_head = 0  # the oldest row, next to be replaced; no part of state_dict

    @property
    def backbone(self) -> nn.Module:
        """Images -> features."""
        return self.online[0]

    @property
    def projector(self) -> nn.Module:
        """Features -> embeddings."""
        return self.online[1]

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
    def after_step(self, target: Views | None, decay: float | None = None) -> None:
        """target <- tau target + (1 - tau) online; the batch's keys replace the queue's oldest.

        target: embeddings (n, dim) of the target branch, of every process's rows. decay: tau, by
        default the method's first.
        """
        if self.target is None or target is None:
            return
        decay = self.method.ema_decay if decay is None else decay
        assert decay is not None
        pairs = zip(self.target.parameters(), self.online.parameters(), strict=True)
        for slow, fast in pairs:
            slow.lerp_(fast, 1 - decay)
        if self.queue is not None:
            keys = F.normalize(torch.cat(target), dim=1)
            check_queue(len(self.queue), len(keys) // 2)
            self.queue[self.queue_head : self.queue_head + len(keys)] = keys
            self.queue_head = (self.queue_head + len(keys)) % len(self.queue)


def check_queue(rows: int, batch: int) -> None:
    """ValueError unless a queue takes whole batches, two keys an image."""
    if rows % (2 * batch):
        raise ValueError(
            f"a queue of {rows} rows takes no batches of {2 * batch} keys (two views of {batch} "
            "images): the queue must be a multiple of twice the batch"
        )
