"""One seed a test, and no memory that happens to hold zeros."""

import os
from types import ModuleType
from typing import Any

import pytest
import torch
from torch import Tensor

if not torch.cuda.is_available():  # read when Triton's kernels are first imported
    os.environ.setdefault("TRITON_INTERPRET", "1")

if "PYTEST_XDIST_WORKER" in os.environ:  # a process a core
    torch.set_num_threads(1)

import wssl_fast
from tests.tolerances import value_tolerance
from wssl_fast import reference

# plugins that put another module, or another device, in place when they are imported
collect_ignore = ["sanitize/preload.py", "triton/second_device.py"]


class Api:
    """One implementation of the public functions at one dtype; `api.rankme(z)` calls it."""

    def __init__(self, module: ModuleType, dtype: torch.dtype) -> None:
        self.module, self.dtype = module, dtype
        # a closed form is known to more digits than either; the reference is exact to rounding
        self.tolerance = 1e-12 if module is reference else value_tolerance("auto", dtype)

    def __getattr__(self, name: str) -> Any:
        function = getattr(self.module, name)

        def call(*tensors: Tensor, **keywords: Any) -> Any:
            return function(*(t.to(self.dtype) for t in tensors), **keywords)

        return call


@pytest.fixture(
    params=[
        pytest.param((reference, torch.float64), id="reference"),
        pytest.param((wssl_fast, torch.float64), id="float64"),
        pytest.param((wssl_fast, torch.float32), id="float32"),
    ]
)
def api(request: pytest.FixtureRequest) -> Api:
    """The reference and the public functions, for what holds of both."""
    return Api(*request.param)


@pytest.fixture(autouse=True)
def _seeded() -> None:
    torch.manual_seed(0)


@pytest.fixture
def poisoned(monkeypatch: pytest.MonkeyPatch) -> None:
    """Fill every floating `torch.empty*` with NaN, so that an output left unwritten shows."""

    def poison(make):  # type: ignore[no-untyped-def]
        def filled(*args, **kwargs):  # type: ignore[no-untyped-def]
            out = make(*args, **kwargs)
            return out.fill_(float("nan")) if out.is_floating_point() else out

        return filled

    for name in ("empty", "empty_like", "empty_strided"):
        monkeypatch.setattr(torch, name, poison(getattr(torch, name)))
    monkeypatch.setattr(torch.Tensor, "new_empty", poison(torch.Tensor.new_empty))
