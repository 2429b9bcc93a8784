"""Run by tests/test_processes.py in a process of its own, which forks and spawns others: before it
has used several threads, and after. Prints what each of them computed, as JSON."""

import hashlib
import json
import multiprocessing
from collections.abc import Callable
from multiprocessing.connection import Connection

import torch
from torch import Tensor
from torch.utils.data import DataLoader, Dataset

import wssl_fast as wf

JOBS: tuple[tuple[Callable[[Tensor], Tensor], tuple[int, int]], ...] = (
    (wf.wasserstein_uniformity, (96, 300)),
    (wf.wasserstein_uniformity, (300, 96)),
    (wf.nn.WassersteinUniformityLoss(0.5, precision="double"), (96, 300)),
    (wf.uniformity, (300, 96)),
    (wf.effective_rank, (96, 300)),
)
TIMEOUT = 120
THREADS = (1, 2)


def digest(threads: int, seed: int = 5) -> str:
    """Of the bits of every value and gradient on that many threads."""
    torch.set_num_threads(threads)
    found = hashlib.sha256()
    generator = torch.Generator().manual_seed(seed)
    for loss, shape in JOBS:
        z = torch.randn(shape, generator=generator).requires_grad_()
        value = loss(z)
        value.backward()
        assert z.grad is not None
        found.update(value.detach().numpy().tobytes())
        found.update(z.grad.numpy().tobytes())
    return found.hexdigest()


class Digests(Dataset[str]):
    """Computed by the worker that is asked, on the threads that PyTorch leaves it: one."""

    def __len__(self) -> int:
        return 2

    def __getitem__(self, index: int) -> str:
        return digest(torch.get_num_threads())


def _answer(connection: Connection, threads: list[int]) -> None:
    connection.send([digest(count) for count in threads])


def in_child(method: str, threads: list[int]) -> list[str] | str:
    """What a child by `method` computes on each number of threads, or that it hangs."""
    context = multiprocessing.get_context(method)
    here, there = context.Pipe()
    child = context.Process(target=_answer, args=(there, threads))
    child.start()
    try:
        return here.recv() if here.poll(TIMEOUT) else "hangs"
    finally:
        child.kill()
        child.join()


def main() -> None:
    torch.set_num_threads(1)  # PyTorch starts its pool when it is first asked for two
    print(
        json.dumps(
            {
                "forked before": in_child("fork", [2]),
                "here": [digest(count) for count in THREADS],
                "forked after": in_child("fork", [1]),
                "loader": list(DataLoader(Digests(), batch_size=None, num_workers=2)),
                "spawned": in_child("spawn", list(THREADS)),
            }
        )
    )


if __name__ == "__main__":
    main()
