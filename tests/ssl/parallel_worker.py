"""What tests/ssl/test_parallel.py runs in two processes and in one."""

import json
import sys
from pathlib import Path
from typing import Any

import torch

from benchmarks.data import load_digits
from benchmarks.ssl import parallel
from benchmarks.ssl.methods import METHODS, Views
from benchmarks.ssl.parallel import World
from benchmarks.ssl.runs import RunFolder
from benchmarks.ssl.train import Training, run
from tests.ssl.conftest import tiny

CELLS = [*(f"{method} w2" for method in METHODS), "barlow lu", "byol lu", "byol none"]
STEPS = 2
PLAIN = {"augment__crop": False, "augment__jitter": 0.0, "augment__blur": 0.0}
PLAIN |= {"augment__solarise": 0.0}


def cell(name: str, world: World) -> tuple[list[float], list[float]]:
    """Norms of the trained tensors after some steps in float64, and the steps' losses."""
    config = tiny(*name.split(), optimizer__name="sgd", optimizer__lr=0.05)
    training = Training(config, load_digits(), torch.device("cpu"), world)
    generator = torch.Generator().manual_seed(0)
    losses = []
    for number in range(STEPS):
        images = torch.randn(2, config.batch, 1, 16, 16, generator=generator)
        share = config.batch // world.size
        rows = slice(world.rank * share, (world.rank + 1) * share)
        parts = training.step(Views(images[0, rows], images[1, rows]), 0.3, number)
        mean = torch.stack(parts)
        if world.size > 1:
            torch.distributed.all_reduce(mean)
        losses += (mean / world.size).tolist()
    state = training.networks.state_dict()
    return [x.double().norm().item() for x in state.values()], losses


def results(folder: Path, world: World) -> dict[str, Any]:
    """Of this process, in float64: rounding explains no difference then."""
    torch.set_default_dtype(torch.float64)
    try:
        return _results(folder, world)
    finally:
        torch.set_default_dtype(torch.float32)


def _results(folder: Path, world: World) -> dict[str, Any]:
    found: dict[str, Any] = {"parameters": {}, "losses": {}}
    for name in CELLS:
        found["parameters"][name], found["losses"][name] = cell(name, world)
    if world.size > 1:
        x = torch.tensor([float(world.rank + 1)], requires_grad=True)
        rows = parallel.gather(x)
        ((world.rank + 1) * (rows * torch.tensor([1.0, 2.0])).sum()).backward()
        found |= {"gathered": rows.tolist(), "gradient": x.grad.item()}
        found["any"] = parallel.any_process(world.rank == 1, torch.device("cpu"))
    config = tiny("byol", "w2", epochs=2, optimizer__name="sgd", optimizer__lr=0.05, **PLAIN)
    out = RunFolder(folder / f"run{world.rank if world.size == 1 else ''}")
    run(config, out, images=load_digits(), world=world)
    found["rows"] = out.rows() if world.main else []
    return found


def one_process(folder: Path) -> dict[str, Any]:
    """The same without others."""
    return results(folder, World())


if __name__ == "__main__":
    torch.set_num_threads(1)
    here = Path(sys.argv[1])
    own = parallel.join("cpu")
    (here / f"{own.rank}.json").write_text(json.dumps(results(here, own)))
    parallel.finish(0)
