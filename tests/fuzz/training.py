"""Losses as a training script uses them: several of one batch, changed in place, added, kept for a
second backward, recomputed, under autocast. The gradient must be the sum of those of single calls,
which the other cases hold against float64."""

import random
from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor
from torch.utils.checkpoint import checkpoint

import wssl_fast as wf
from tests.fuzz import inputs
from tests.fuzz.cases import PRECISIONS, Case
from tests.fuzz.verdict import Verdict, smallest

W2 = ("squared", "eps", "solver", "precision")
CALLS: dict[str, Callable[[Case, Tensor, Tensor], Tensor]] = {
    "wasserstein_uniformity": lambda c, x, y: wf.wasserstein_uniformity(
        x, normalize=c.normalize, **_options(c, W2)
    ),
    "both views": lambda c, x, y: wf.wasserstein_uniformity(
        torch.cat([x, y], -2), normalize=c.normalize, **_options(c, W2)
    ),
    "uniformity": lambda c, x, y: wf.uniformity(x, t=c.t, normalize=c.normalize),
    "alignment": lambda c, x, y: wf.alignment(x, y, alpha=c.alpha, normalize=c.normalize),
    "frechet_distance": lambda c, x, y: wf.frechet_distance(x, y, **_options(c, W2)),
    "batch_covariance": lambda c, x, y: wf.batch_covariance(x, normalize=c.normalize)[1].mean(
        (-1, -2)
    ),
    "effective_rank": lambda c, x, y: wf.effective_rank(x),
}
WAYS = ("plain", "in place", "by name", "recomputed", "autocast", "offloaded", "seen before")


@dataclass(frozen=True)
class Term:
    """weight * loss, summed over the problems of a batch."""

    name: str
    case: Case
    weight: float
    way: str

    def value(self, x: Tensor, y: Tensor) -> Tensor:
        return CALLS[self.name](self.case, x, y)

    def used(self, x: Tensor, y: Tensor) -> Tensor:
        """The weighed loss, the way that this script goes about it."""
        if self.way == "recomputed":
            found: Any = checkpoint(self.value, x, y, use_reentrant=False)
            return self.weight * found
        if self.way == "seen before":
            with torch.no_grad():
                self.value(x, y)
        with self._around():
            loss = self.value(x, y)
        if self.way == "in place":
            loss *= self.weight
            return loss
        if self.way == "by name":
            return loss.mul_(self.weight).add_(1.0)
        return self.weight * loss

    def _around(self) -> AbstractContextManager[Any]:
        if self.way == "autocast":
            half = torch.float16 if self.case.dtype == "float16" else torch.bfloat16
            return torch.autocast("cpu", half)
        if self.way == "offloaded":
            return torch.autograd.graph.save_on_cpu()
        return nullcontext()


def _options(case: Case, names: tuple[str, ...]) -> dict[str, Any]:
    return {name: getattr(case, name) for name in names}


def terms(case: Case, rng: random.Random) -> list[Term]:
    found, names = [], list(CALLS)
    if case.n < 2:
        names.remove("uniformity")
    for _ in range(rng.randint(1, 4)):
        own = replace(
            case,
            squared=rng.random() < 0.5,
            normalize=rng.random() < 0.7,
            solver=rng.choice(("auto", "eigh", "newton_schulz")),
            precision=rng.choice(list(PRECISIONS)),
            eps=rng.choice((0.0, 0.0, 1e-6)),
            t=rng.choice((2.0, 0.5)),
            alpha=rng.choice((2.0, 1.0, 3.0)),
        )
        found.append(
            Term(rng.choice(names), own, rng.choice((1.0, 0.5, 3.0, -0.25)), rng.choice(WAYS))
        )
    return found


def check(verdict: Verdict, case: Case) -> None:
    rng = random.Random(case.seed)
    both = [inputs.batch_of_rows(case, case.n, stream) for stream in range(2)]
    views = [inputs.laid_out(t, case.layout)[0] for t in both]
    drawn = terms(case, rng)
    alone = [_alone(term, views) for term in drawn]
    want, size = _sum(alone)

    leaves = [v.detach().requires_grad_() for v in views]
    x, y = (leaf.view_as(leaf) for leaf in leaves)
    if rng.random() < 0.3:
        x.register_hook(lambda gradient: gradient)
    losses = [term.used(x, y) for term in drawn]
    total = torch.zeros_like(losses[0])
    for loss in losses:
        if rng.random() < 0.5:
            total += loss
        else:
            total = total + loss
    total = total.sum()
    # save_on_cpu keeps CPU tensors themselves, and what goes through hooks has no version to check
    checked = all(term.way != "offloaded" for term in drawn)
    if rng.random() < 0.15 and checked:
        with torch.no_grad():  # between forward and backward: an error, or no other gradient
            x.copy_(x.clone()) if rng.random() < 0.5 else x.mul_(2)
        try:
            total.backward()
        except RuntimeError as error:
            verdict.that("inplace" in str(error), f"changed rows: {error}")
            return
        found = [leaf.grad for leaf in leaves]
    else:
        found = _backward(verdict, total, leaves, rng)
    _compared(verdict, leaves, found, want, size)


def _alone(term: Term, views: list[Tensor]) -> list[Tensor]:
    """The gradients of one call by itself, weighed: where terms cancel inside of a gradient, what
    they leave is no multiple of that weight."""
    leaves = [v.detach().requires_grad_() for v in views]
    loss = term.value(*leaves)
    upstream = torch.full_like(loss, term.weight)
    found = torch.autograd.grad(loss, leaves, upstream, allow_unused=True)
    pairs = zip(found, leaves, strict=True)
    return [torch.zeros_like(leaf) if g is None else g for g, leaf in pairs]


def _sum(alone: list[list[Tensor]]) -> tuple[list[Tensor], list[Tensor]]:
    """In float64; and what its roundings are relative to."""
    stacks = [torch.stack(each).double() for each in zip(*alone, strict=True)]
    return [s.sum(0) for s in stacks], [s.abs().sum(0) for s in stacks]


def _backward(
    verdict: Verdict, total: Tensor, leaves: list[Tensor], rng: random.Random
) -> list[Tensor | None]:
    way = rng.choice(("backward", "grad", "twice"))
    if way == "grad":
        return list(torch.autograd.grad(total, leaves, allow_unused=True))
    total.backward(retain_graph=way == "twice")
    if way == "twice":
        first = [leaf.grad for leaf in leaves]
        for leaf in leaves:
            leaf.grad = None
        total.backward()
        for a, leaf in zip(first, leaves, strict=True):
            if a is not None and leaf.grad is not None:
                same = torch.equal(a.nan_to_num(), leaf.grad.nan_to_num())
                verdict.that(same, "a second backward has another gradient")
    return [leaf.grad for leaf in leaves]


def _compared(
    verdict: Verdict, leaves: list[Tensor], got: list[Tensor | None], want: list[Tensor],
    size: list[Tensor],
) -> None:  # fmt: skip
    """Each entry is rounded when it is weighed and when it is added, four terms at most; partial
    sums beyond the dtype are infinite."""
    for leaf, found, true, weight in zip(leaves, got, want, size, strict=True):
        unit = torch.finfo(leaf.dtype).eps
        allowed = 8 * unit * weight + 8 * smallest(leaf.dtype)
        held = weight < 0.1 * torch.finfo(leaf.dtype).max
        found = torch.zeros_like(leaf) if found is None else found
        verdict.that(found.dtype == leaf.dtype, "a gradient of another dtype")
        error = ((found.double() - true).abs() / allowed)[held]
        if error.numel():
            verdict.bound("sum of gradients", error.max().item(), 1.0)
