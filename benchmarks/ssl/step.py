"""The loss of a step: the method's own, plus a weight times a uniformity loss."""

from collections.abc import Callable
from typing import NamedTuple

import torch
from torch import Tensor

import wssl_fast as wf
from benchmarks.ssl.config import Uniformity
from benchmarks.ssl.methods import Method, Views
from benchmarks.ssl.networks import Outputs
from benchmarks.ssl.parallel import gather_views


class Parts(NamedTuple):
    """Scalars of one step; total = method + weight * uniformity."""

    total: Tensor
    method: Tensor
    uniformity: Tensor  # 0 where there is none


def uniformity_loss(settings: Uniformity) -> Callable[[Tensor, Tensor], Tensor] | None:
    """Of both views' embeddings: W2 of their concatenation, L_U as the mean of both."""
    if settings.kind == "w2":
        return wf.nn.WassersteinUniformityLoss(eps=settings.ridge)
    if settings.kind == "lu":
        return wf.nn.UniformityLoss(t=settings.t)
    return None


def step_loss(
    method: Method,
    uniformity: Callable[[Tensor, Tensor], Tensor] | None,
    weight: float,
    outputs: Outputs,
    queue: Tensor | None,
) -> Parts:
    """Losses of this process's outputs, in float32, over the rows of all processes.

    A method that is a mean over rows is taken over this process's own: the mean over processes,
    which is the objective (`benchmarks.ssl.parallel`), is then the mean over all rows.
    """
    embedded, online, target = (_float32(views) for views in outputs)
    assert embedded is not None
    assert online is not None
    if method.couples_rows:
        online, target = gather_views(online), gather_views(target)
        assert online is not None
    own = method.loss(online, target, queue)
    if uniformity is None:
        return Parts(own, own, own.new_zeros(()))
    with torch.set_grad_enabled(weight > 0):  # of weight 0 the value is still of interest
        both = gather_views(embedded)
        assert both is not None
        beside = uniformity(*both)
    return Parts(own + weight * beside if weight > 0 else own, own, beside)


def _float32(views: Views | None) -> Views | None:
    """Half precision ends before the losses; float64 stays."""
    if views is None:
        return None
    return Views(*(view if view.element_size() >= 4 else view.float() for view in views))
