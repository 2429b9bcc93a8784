"""What a call of any metric goes through."""

import functools
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import ParamSpec, TypeVar

import torch

P = ParamSpec("P")
R = TypeVar("R")


@contextmanager
def kept() -> Iterator[None]:
    """What is made in here outlives the call: no graph of autograd, and no tensors of
    `torch.inference_mode`, which later calls outside of it could not write to."""
    with torch.inference_mode(False), torch.no_grad():
        yield


def outside_graphs(function: Callable[P, R]) -> Callable[P, R]:
    """torch.compile breaks its graph at the call and runs it as it is.

    Between two breaks, a graph gets several views of one vector as inputs, and what it writes to
    them is lost (AOTAutograd, PyTorch 2.13).
    """
    disabled: Callable[P, R] | None = None  # one for all calls, or each is compiled anew

    def call(*args: P.args, **kwargs: P.kwargs) -> R:
        nonlocal disabled
        if disabled is None:
            if "torch._dynamo" not in sys.modules:  # it takes a second to import
                return function(*args, **kwargs)
            disabled = torch.compiler.disable(function)
        return disabled(*args, **kwargs)

    # of its own: torch.compile holds a few graphs for each code, and there are more metrics
    call.__code__ = call.__code__.replace(co_name=function.__name__)
    return functools.update_wrapper(call, function)
