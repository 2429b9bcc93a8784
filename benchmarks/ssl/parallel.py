"""Several processes as one: rows gathered, batch statistics shared, gradients averaged.

The convention: a step's objective is the mean over processes of what each returns as its loss. The
collectives below are differentiable, their backward sums over processes, and
DistributedDataParallel averages parameters' gradients: together they give that objective's
gradient, cross terms included. A loss of the gathered rows is the same on every process, so the
gradient is the one of a single process on the concatenated batch.

Batch normalisation: on CUDA PyTorch's SyncBatchNorm, elsewhere, where there is none,
`GlobalBatchNorm`. Statistics are those of the global batch either way.
"""

import inspect
import os
import sys
from dataclasses import dataclass
from datetime import timedelta
from typing import Any, NoReturn

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm

from benchmarks.ssl.methods import Views

PATIENCE = timedelta(hours=2)  # the other processes wait while the first one evaluates


@dataclass(frozen=True)
class World:
    """This process among all of a run."""

    rank: int = 0
    size: int = 1
    local_rank: int = 0

    @property
    def main(self) -> bool:
        """The process that evaluates, writes and prints."""
        return self.rank == 0


def join(device: str) -> World:
    """The world that torchrun described in the environment; a process by itself without it."""
    size = int(os.environ.get("WORLD_SIZE", "1"))
    if size == 1:
        return World()
    local_rank = int(os.environ.get("LOCAL_RANK", "0"))
    if device == "cuda":
        torch.cuda.set_device(local_rank)
    backend = "nccl" if device == "cuda" else "gloo"
    dist.init_process_group(backend, timeout=PATIENCE)
    return World(dist.get_rank(), dist.get_world_size(), local_rank)


def leave() -> None:
    """Afterwards a process is by itself."""
    if dist.is_initialized():
        dist.destroy_process_group()


def finish(code: int) -> NoReturn:
    """Ends the program with this exit code.

    With several processes at once, without winding Python up: DistributedDataParallel keeps Gloo's
    threads alive past `leave`, and PyTorch 2.13 aborts now and then (a quarter of short programs
    on 2 cores) when one of them asks for an interpreter that is gone.
    """
    if int(os.environ.get("WORLD_SIZE", "1")) > 1:
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(code)
    sys.exit(code)


def spread() -> bool:
    """Is there another process?"""
    return dist.is_initialized() and dist.get_world_size() > 1


class _Gather(torch.autograd.Function):
    """(n, ...) of each process -> (size n, ...), in the order of ranks."""

    @staticmethod
    def forward(ctx: Any, x: Tensor) -> Tensor:
        parts = [torch.empty_like(x) for _ in range(dist.get_world_size())]
        dist.all_gather(parts, x.contiguous())
        return torch.cat(parts)

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> Tensor:
        gradient = gradient.contiguous()  # the sum is written into it
        gradient = gradient.clone()
        dist.all_reduce(gradient)
        return gradient.chunk(dist.get_world_size())[dist.get_rank()]


class _Total(torch.autograd.Function):
    """Sum over processes; so is the gradient."""

    @staticmethod
    def forward(ctx: Any, x: Tensor) -> Tensor:
        x = x.clone()
        dist.all_reduce(x)
        return x

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> Tensor:
        gradient = gradient.clone()
        dist.all_reduce(gradient)
        return gradient


def gather(x: Tensor) -> Tensor:
    """Rows of every process (equally many), differentiable; x itself where there is one process."""
    if not spread():
        return x
    return _Gather.apply(x) if x.requires_grad else _Gather.forward(None, x)


def gather_views(views: Views | None) -> Views | None:
    """Both views' rows of every process."""
    return None if views is None else Views(*(gather(view) for view in views))


def any_process(flag: bool, device: torch.device) -> bool:
    """Whether any process says so: all of them hear the same answer."""
    if not spread():
        return flag
    found = torch.tensor(float(flag), device=device)
    dist.all_reduce(found, dist.ReduceOp.MAX)
    return bool(found.item())


class GlobalBatchNorm(nn.Module):
    """Batch normalisation whose statistics are those of every process's rows.

    Same parameters, buffers and names as the module that it stands for.
    """

    def __init__(self, like: _BatchNorm) -> None:
        super().__init__()
        self.eps, self.momentum = like.eps, like.momentum
        self.weight, self.bias = like.weight, like.bias
        for name in ("running_mean", "running_var", "num_batches_tracked"):
            self.register_buffer(name, getattr(like, name))

    def forward(self, x: Tensor) -> Tensor:
        shape = (1, -1) + (1,) * (x.ndim - 2)
        if self.training:
            dims = [0, *range(2, x.ndim)]
            count = x.numel() // x.shape[1] * dist.get_world_size()
            mean = _Total.apply(x.sum(dims)) / count
            centred = x - mean.reshape(shape)
            variance = _Total.apply(centred.square().sum(dims)) / count
            with torch.no_grad():
                self.num_batches_tracked += 1
                self.running_mean.lerp_(mean, self.momentum)
                self.running_var.lerp_(variance * (count / (count - 1)), self.momentum)
        else:
            centred, variance = x - self.running_mean.reshape(shape), self.running_var
        scale = (variance + self.eps).rsqrt() * self.weight
        return centred * scale.reshape(shape) + self.bias.reshape(shape)


def share_statistics(module: nn.Module, device: torch.device) -> nn.Module:
    """The module with its batch normalisation over all processes, if there are others."""
    if not spread():
        return module
    if device.type == "cuda":
        return nn.SyncBatchNorm.convert_sync_batchnorm(module)
    for name, child in module.named_children():
        if isinstance(child, _BatchNorm):
            setattr(module, name, GlobalBatchNorm(child))
        else:
            share_statistics(child, device)
    return module


def average_gradients(module: nn.Module, device: torch.device) -> nn.Module:
    """The module to call in training: backward averages its gradients over processes."""
    if not spread():
        return module
    ddp = nn.parallel.DistributedDataParallel
    known = inspect.signature(ddp.__init__).parameters  # the name changed in PyTorch 2.13
    each_step = "forward_sync_buffers" if "forward_sync_buffers" in known else "broadcast_buffers"
    ids = [device.index] if device.type == "cuda" else None
    return ddp(module, device_ids=ids, **{each_step: False})  # buffers are equal as it is
