"""L_U and alignment over processes: equal to one process and to the float64 reference."""

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel

import wssl_fast as wf
from tests.distributed.world import World
from tests.tolerances import contract_tolerance
from wssl_fast import reference

FLAGS = (True, False)
VALUE, GRADIENT = 1e-6, 1e-5  # as in checks_w2


def assert_whole(world: World, grad: Tensor | None, want: Tensor, tolerance: float) -> None:
    """Local gradients put together are `size` times the gradient of the whole batch."""
    assert grad is not None
    gap = world.whole(grad).double() / world.size - want.double()
    assert gap.norm() <= tolerance * want.norm(), f"{gap.norm() / want.norm():.1e}"


def uniformity_equals_one_process(world: World) -> None:
    for split in ("equal", "unequal", "one"):
        for normalize in FLAGS:
            for t in (2.0, 0.5):
                z = torch.randn(21, 6) * (1.0 if normalize else 0.3)
                leaf = world.own(z, world.counts(21, split)).requires_grad_()
                value = wf.uniformity(leaf, t=t, normalize=normalize, group=world.group)
                value.backward()
                whole = z.requires_grad_()
                want = wf.uniformity(whole, t=t, normalize=normalize)
                want.backward()
                assert abs(value - want) <= VALUE * max(1.0, abs(want.item()))
                assert whole.grad is not None
                assert_whole(world, leaf.grad, whole.grad, GRADIENT)


def uniformity_is_right_in_every_dtype_and_over_blocks(world: World) -> None:
    # 700 rows: more than one block of 512, and blocks that do not begin where a part does
    for n, dtype in ((700, torch.float32), (23, torch.float64), (23, torch.bfloat16)):
        for normalize in FLAGS:
            z = (0.4 * torch.randn(n, 7, dtype=torch.float64)).to(dtype)
            leaf = world.own(z, world.counts(n)).requires_grad_()
            value = wf.uniformity(leaf, normalize=normalize, group=world.group)
            value.backward()
            want = reference.uniformity(z, normalize=normalize)
            tolerance = contract_tolerance(dtype)
            assert abs(value.double() - want) <= tolerance * max(1.0, abs(want.item()))
            grad = reference.uniformity_grad(z, normalize=normalize)
            assert_whole(world, leaf.grad, grad, tolerance)


def uniformity_does_not_underflow(world: World) -> None:
    """Each part has an exponent of its own: here they differ by hundreds."""
    z = torch.randn(8, 5, dtype=torch.float64)
    z[0] = z[1] + 0.01
    for t in (50.0, 1e3):
        for normalize in FLAGS:
            leaf = world.own(z.float(), world.counts(8, "equal")).requires_grad_()
            value = wf.uniformity(leaf, t=t, normalize=normalize, group=world.group)
            value.backward()
            want = reference.uniformity(z.float(), t=t, normalize=normalize)
            # exponents of t |x_i - x_j|^2, each known to a few units of float32 of t
            assert abs(value.double() - want) <= 1e-5 * t
            assert leaf.grad is not None
            assert leaf.grad.isfinite().all()


def alignment_equals_one_process(world: World) -> None:
    for split in ("equal", "unequal", "one"):
        for normalize in FLAGS:
            for alpha in (2.0, 1.0):
                x, y = torch.randn(2, 13, 6)
                counts = world.counts(13, split)
                a, b = (world.own(v, counts).requires_grad_() for v in (x, y))
                value = wf.alignment(a, b, alpha=alpha, normalize=normalize, group=world.group)
                value.backward()
                x, y = x.requires_grad_(), y.requires_grad_()
                want = wf.alignment(x, y, alpha=alpha, normalize=normalize)
                want.backward()
                assert abs(value - want) <= VALUE * max(1.0, want.item())
                for leaf, whole in ((a, x), (b, y)):
                    assert whole.grad is not None
                    assert_whole(world, leaf.grad, whole.grad, GRADIENT)


def the_average_of_parameter_gradients(world: World) -> None:
    x, weight = torch.randn(2, 15, 9), torch.randn(6, 9)
    found = []
    for spread in FLAGS:
        layer = nn.Linear(9, 6, bias=False)
        with torch.no_grad():
            layer.weight.copy_(weight)
        model = DistributedDataParallel(layer) if spread else layer
        group = world.group if spread else None
        counts = world.counts(15)
        rows = [world.own(v, counts) if spread else v for v in x]
        z_a, z_b = model(torch.stack(rows)).unbind()
        loss = wf.alignment(z_a, z_b, group=group) + 0.5 * wf.uniformity(z_a, group=group)
        loss.backward()
        assert layer.weight.grad is not None
        found.append((loss.item(), layer.weight.grad))
    (value, grad), (want, want_grad) = found
    assert abs(value - want) <= VALUE
    assert (grad - want_grad).norm() <= GRADIENT * want_grad.norm()


def a_nan_in_one_pair_is_one_for_all(world: World) -> None:
    z = torch.randn(9, 5)
    z[-1, 0] = float("nan")
    leaf = world.own(z, world.counts(9)).requires_grad_()
    for value in (
        wf.uniformity(leaf, group=world.group),
        wf.alignment(leaf, leaf.detach().roll(1, -1), group=world.group),
    ):
        (grad,) = torch.autograd.grad(value, leaf)
        assert value.isnan()
        assert grad.isnan().all()


def pairs_in_leading_dimensions(world: World) -> None:
    x, y = torch.randn(2, 2, 3, 7, 4)
    counts = world.counts(7)
    a, b = world.own(x, counts), world.own(y, counts)
    torch.testing.assert_close(wf.uniformity(a, group=world.group), wf.uniformity(x))
    torch.testing.assert_close(wf.alignment(a, b, group=world.group), wf.alignment(x, y))


def the_same_value_on_every_process(world: World) -> None:
    x, y = torch.randn(2, 19, 6)
    a, b = (world.own(v, world.counts(19)) for v in (x, y))
    mine = (
        wf.uniformity(a, group=world.group).item(),
        wf.alignment(a, b, group=world.group).item(),
    )
    every = [mine] * world.size
    dist.all_gather_object(every, mine)
    assert every == [every[0]] * world.size
