"""`gather_distributed` of the losses, and what surrounds a call."""

import pytest
import torch

import wssl_fast as wf
from tests.distributed.world import World


def losses_gather(world: World) -> None:
    x, y = torch.randn(2, 11, 14)
    counts = world.counts(11)
    z_a, z_b = world.own(x, counts), world.own(y, counts)
    for kind, how in (
        (wf.nn.WassersteinUniformityLoss, {"weight": 0.3, "squared": True}),
        (wf.nn.UniformityLoss, {"t": 1.5, "weight": 2.0}),
        (wf.nn.AlignmentLoss, {"alpha": 1.0, "weight": 0.5}),
    ):
        together = kind(**how, gather_distributed=True)
        assert "gather_distributed=True" in repr(together)
        alone = kind(**how)
        torch.testing.assert_close(together(z_a, z_b), alone(x, y), rtol=0, atol=2e-6)
        if kind is not wf.nn.AlignmentLoss:
            torch.testing.assert_close(together(z_a), alone(x), rtol=0, atol=2e-6)


def gradients_of_both_views(world: World) -> None:
    x, y = torch.randn(2, 11, 14)
    counts = world.counts(11)
    for loss in (wf.nn.WassersteinUniformityLoss, wf.nn.UniformityLoss, wf.nn.AlignmentLoss):
        leaves = [world.own(v, counts).requires_grad_() for v in (x, y)]
        loss(gather_distributed=True)(*leaves).backward()
        whole = [v.clone().requires_grad_() for v in (x, y)]
        loss()(*whole).backward()
        for leaf, want in zip(leaves, whole, strict=True):
            assert leaf.grad is not None
            assert want.grad is not None
            gap = world.whole(leaf.grad) / world.size - want.grad
            assert gap.norm() <= 1e-5 * want.grad.norm()


def a_compiled_function_breaks_its_graph(world: World) -> None:
    """The call runs as it is, between two graphs."""
    if world.size > 2:  # the compiler takes seconds to be imported
        return
    z = torch.randn(10, 12)
    own = world.own(z, world.counts(10)).requires_grad_()

    def loss(rows: torch.Tensor) -> torch.Tensor:
        return 2 * wf.wasserstein_uniformity(3 * rows, group=world.group)

    value = torch.compile(loss, backend="eager")(own)
    value.backward()
    assert abs(value - 2 * wf.wasserstein_uniformity(z)) <= 2e-6
    assert own.grad is not None
    torch._dynamo.reset()
    with pytest.raises(torch._dynamo.exc.Unsupported):
        torch.compile(loss, backend="eager", fullgraph=True)(own)
