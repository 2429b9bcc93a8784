"""Runs of seconds: the digits, a network of a few thousand weights."""

from typing import Any

import pytest
import torch

from benchmarks.data import ImageSet, load_digits
from benchmarks.ssl.config import Config, load

SMALL = {
    "batch": 16,
    "data.train_count": 64,
    "data.test_count": 32,
    "network.hidden": 16,
    "network.dim": 8,
    "evaluation.probe.epochs": 2,
}


def tiny(method: str = "barlow", kind: str = "none", **overrides: Any) -> Config:
    """The preset "tiny", smaller; overrides with two underscores for a dot."""
    settings = {**SMALL, "uniformity.kind": kind}
    if method == "mocov2":
        settings["method.queue_rows"] = 32
    settings |= {name.replace("__", "."): value for name, value in overrides.items()}
    return load(method, ["tiny"], settings)


@pytest.fixture(scope="session")
def digits() -> ImageSet:
    return load_digits()


@pytest.fixture(autouse=True)
def _one_thread() -> Any:
    """Sums in one order: equal to the last bit is then a fair demand."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)
