"""Processes of a Gloo group that live through many checks, since starting them is what costs.

A check is a function of a `World`, run by every process; what it asserts is local. `outcomes`
starts the processes and returns what became of each check on each of them.
"""

import json
import os
import sys
import traceback
from dataclasses import dataclass
from datetime import timedelta
from importlib import import_module
from itertools import pairwise
from pathlib import Path

import torch
import torch.distributed as dist
import torch.multiprocessing as mp
from torch import Tensor

TIMEOUT = timedelta(seconds=120)


@dataclass(frozen=True)
class World:
    rank: int
    size: int

    @property
    def group(self) -> dist.ProcessGroup:
        return dist.group.WORLD

    def counts(self, n: int, how: str = "unequal") -> list[int]:
        """Rows of each process: `equal` as far as it goes; `unequal`, where one of four has none;
        `one`: all on the last."""
        if how == "one":
            return [0] * (self.size - 1) + [n]
        if how == "equal":
            ends = [n * rank // self.size for rank in range(self.size + 1)]
            return [b - a for a, b in pairwise(ends)]
        first = [n // 3] if self.size == 2 else [n // 2, 0, 1]
        return [*first, n - sum(first)]

    def own(self, z: Tensor, counts: list[int]) -> Tensor:
        """This process's rows of z (..., n, m)."""
        return z.split(counts, dim=-2)[self.rank].clone()

    def whole(self, z: Tensor) -> Tensor:
        """The rows of all processes, one below the other."""
        every: list[Tensor] = [z] * self.size
        dist.all_gather_object(every, z.detach())
        return torch.cat(every, dim=-2)


class Killed(BaseException):
    """Ends the process that raises it in its last check."""


def checks(module: str) -> list[str]:
    """Names of the checks of a module: its functions of a world alone."""
    functions = vars(import_module(module)).values()
    return [
        f.__name__
        for f in functions
        if getattr(f, "__module__", "") == module
        and getattr(f, "__annotations__", {}) == {"world": World, "return": None}
    ]


def outcomes(size: int, modules: list[str], folder: Path) -> dict[str, list[str]]:
    """For every check of the modules: on each process "" or a traceback."""
    mp.start_processes(  # type: ignore[no-untyped-call]
        _live, (size, modules, str(folder)), nprocs=size, join=True, start_method="spawn"
    )
    told = [json.loads((folder / f"{rank}.json").read_text()) for rank in range(size)]
    return {check: [each[check] for each in told] for check in told[0]}


def _live(rank: int, size: int, modules: list[str], folder: str) -> None:
    torch.set_num_threads(1)
    os.environ["GLOO_SOCKET_IFNAME"] = "lo0" if sys.platform == "darwin" else "lo"
    store = dist.FileStore(str(Path(folder) / "store"), size)
    dist.init_process_group("gloo", store=store, rank=rank, world_size=size, timeout=TIMEOUT)
    told: dict[str, str] = {}
    for module in modules:
        for name in checks(module):
            torch.manual_seed(0)
            try:
                getattr(import_module(module), name)(World(rank, size))
                told[name] = ""
            except Killed:
                told[name] = ""
                break
            except BaseException:
                told[name] = traceback.format_exc()
    (Path(folder) / f"{rank}.json").write_text(json.dumps(told))
    # no farewells: PyTorch 2.13 aborts now and then when a process with Gloo threads winds up
    os._exit(0)
