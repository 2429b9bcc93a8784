"""One training run, by one process or by several: the same numbers.

    torchrun --standalone --nproc-per-node 2 examples/torchrun_two_processes.py
    python examples/torchrun_two_processes.py

A small network learns from two noisy views of points that lie near a few directions. With
`gather_distributed=True` the losses are those of the whole batch, whoever holds its rows, and
DistributedDataParallel's average of the gradients is the gradient one process would have. So both
commands print the same lines, up to rounding. The mean of W2 over the local batches would be
another number, as a rule a larger one: fewer rows spread less.
"""

import argparse
import os
import sys
from collections.abc import Sequence

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel

import wssl_fast as wf


def batches(steps: int, rows: int, columns: int) -> Tensor:
    """Whole batches, the same in every process: (steps, rows, columns)."""
    generator = torch.Generator().manual_seed(0)
    directions = torch.randn(4, columns, generator=generator)
    hidden = torch.randn(steps, rows, 4, generator=generator)
    return hidden @ directions + 0.3 * torch.randn(steps, rows, columns, generator=generator)


def train(device: str, rank: int, size: int, options: argparse.Namespace) -> None:
    torch.manual_seed(0)
    together = size > 1
    model = nn.Sequential(nn.Linear(32, 128), nn.ReLU(), nn.Linear(128, 64)).to(device)
    if together:
        model = DistributedDataParallel(model)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.05)
    alignment = wf.nn.AlignmentLoss(gather_distributed=together)
    spread = wf.nn.WassersteinUniformityLoss(weight=1.0, gather_distributed=together)

    first, second = batches(2 * options.steps, options.rows, 32).chunk(2)
    for step, (x, noise) in enumerate(zip(first, second, strict=True)):
        views = torch.stack([x, x + 0.05 * noise])
        # every size-th row: the parts need not be equal, and with 101 rows they are not
        z_a, z_b = model(views[:, rank::size].to(device)).unbind()
        a, w2 = alignment(z_a, z_b), spread(z_a, z_b)
        optimizer.zero_grad()
        (a + w2).backward()
        optimizer.step()
        if rank == 0 and (step % 10 == 0 or step == options.steps - 1):
            print(f"step {step:3d}  alignment {a.item():.4f}  W2 {w2.item():.4f}", flush=True)


def main(arguments: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--steps", type=int, default=60)
    parser.add_argument("--rows", type=int, default=101, help="of the whole batch")
    options = parser.parse_args(arguments)

    cuda = torch.cuda.is_available()
    device = "cuda" if cuda else "cpu"
    together = "LOCAL_RANK" in os.environ  # torchrun
    if together:
        if cuda:
            torch.cuda.set_device(int(os.environ["LOCAL_RANK"]))
        dist.init_process_group("nccl" if cuda else "gloo")
    rank = dist.get_rank() if together else 0
    size = dist.get_world_size() if together else 1

    train(device, rank, size, options)
    if together:
        dist.barrier()  # nobody leaves while others are still exchanging
        dist.destroy_process_group()
        if not cuda:
            sys.stdout.flush()
            os._exit(0)  # PyTorch 2.13 aborts now and then when Gloo's threads outlive Python


if __name__ == "__main__":
    main()
