"""LARS, the groups of parameters, and the learning rate's warm-up and cosine."""

import math
from collections.abc import Callable, Iterable
from typing import Any

import torch
from torch import Tensor, nn

from benchmarks.ssl.config import Optimizer


class LARS(torch.optim.Optimizer):
    """Layer-wise adaptive rate scaling (You, Gitman, Ginsburg 2017, algorithm 1).

    For a tensor w with gradient g: g <- g + weight_decay w, g <- eta |w| / |g| g (1 where a norm is
    0), v <- momentum v + g, w <- w - lr v. Tensors of one dimension (biases, normalisation) get
    neither decay nor adaptation, as in Barlow Twins' code (facebookresearch/barlowtwins, main.py).
    """

    def __init__(
        self,
        params: Iterable[Any],
        lr: float,
        *,
        momentum: float = 0.9,
        weight_decay: float = 0.0,
        eta: float = 0.02,
    ) -> None:
        defaults = {"lr": lr, "momentum": momentum, "weight_decay": weight_decay, "eta": eta}
        super().__init__(params, defaults)

    @torch.no_grad()
    def step(self, closure: Callable[[], float] | None = None) -> float | None:
        """One update of every parameter that has a gradient."""
        loss = None
        if closure is not None:
            with torch.enable_grad():
                loss = closure()
        for group in self.param_groups:
            for w in group["params"]:
                if w.grad is None:
                    continue
                g: Tensor = w.grad
                if w.ndim > 1:
                    g = g.add(w, alpha=group["weight_decay"])
                    norm, size = torch.linalg.vector_norm(w), torch.linalg.vector_norm(g)
                    both = (norm > 0) & (size > 0)  # no .item(): the host does not wait
                    g = g * torch.where(both, group["eta"] * norm / size, torch.ones_like(norm))
                state = self.state[w]
                if not state:
                    state["velocity"] = torch.zeros_like(w)
                state["velocity"].mul_(group["momentum"]).add_(g)
                w.add_(state["velocity"], alpha=-group["lr"])
        return loss


def build_optimizer(
    settings: Optimizer, parameters: Iterable[nn.Parameter]
) -> torch.optim.Optimizer:
    """Two groups, each with its `base_lr`: what has more than one dimension, and the rest."""
    weights, others = [], []
    for parameter in parameters:
        (weights if parameter.ndim > 1 else others).append(parameter)
    decay = settings.weight_decay
    groups = [
        {"params": weights, "base_lr": settings.lr, "weight_decay": decay},
        {"params": others, "base_lr": settings.lr_bias, "weight_decay": 0.0},
    ]
    if settings.name == "lars":
        return LARS(groups, lr=0.0, momentum=settings.momentum, eta=settings.eta)
    if settings.name == "sgd":
        return torch.optim.SGD(groups, lr=0.0, momentum=settings.momentum)
    return torch.optim.AdamW(groups, lr=0.0, betas=(settings.momentum, 0.999))


def set_rate(optimizer: torch.optim.Optimizer, factor: float) -> None:
    """Every group's rate is `factor` times its own."""
    for group in optimizer.param_groups:
        group["lr"] = factor * group["base_lr"]


def rate_factor(step: int, steps: int, warmup: int, final: float) -> float:
    """Linear from 0 over `warmup` steps, then a cosine from 1 to `final` at `steps`.

    Barlow Twins' code, which the W2 paper's takes over: the first step has rate 0.
    """
    if step < warmup:
        return step / warmup
    share = (step - warmup) / max(steps - warmup, 1)
    q = (1 + math.cos(math.pi * share)) / 2
    return q + final * (1 - q)
