"""Which backend computes: asked for by name, or `auto`.

    eager    PyTorch calls, with csrc/cpu on a CPU where it is built: any device
    triton   Triton kernels: CUDA tensors; CPU tensors in Triton's interpreter (TRITON_INTERPRET=1)
    cuda     the same with the float32-grade k x k problem of W2 by csrc/cuda, one CUDA launch

`auto` takes triton for CUDA tensors where Triton 3.6 or newer is installed, else eager; within
triton it takes csrc/cuda for the sizes that backends/cuda.py prefers. A backend that was asked for
by name and cannot run is an error that says what is missing.
"""

import importlib.util
import os
import re
from collections.abc import Iterator
from contextlib import contextmanager
from functools import cache

import torch

from wssl_fast.backends import cuda

BACKENDS = ("auto", "eager", "triton", "cuda")
OLDEST_TRITON = (3, 6)
_requested = [os.environ.get("WSSL_FAST_BACKEND", "auto")]


def requested() -> str:
    """The backend asked for with `use` or the environment variable WSSL_FAST_BACKEND."""
    return _requested[-1]


@contextmanager
def use(name: str) -> Iterator[None]:
    """Operators called inside run on the named backend, their backward too.

    For the whole process: threads share the choice.

    >>> import wssl_fast as wf
    >>> with use("eager"):
    ...     wf.wasserstein_uniformity(torch.ones(8, 4))
    tensor(1.4142)
    """
    if name not in BACKENDS:
        raise ValueError(f"backend: {name!r} given, one of {', '.join(BACKENDS)} expected")
    _requested.append(name)
    try:
        yield
    finally:
        _requested.pop()


@cache
def why_no_triton() -> str:
    """Why Triton's kernels cannot be used at all; empty when they can."""
    if importlib.util.find_spec("triton") is None:
        return "Triton is not installed (pip install 'wssl-fast[gpu]', Linux)"
    try:
        import triton  # by its own word: what PyTorch brings goes by other names
    except ImportError as error:  # 3.2, of PyTorch 2.6, needs setuptools and does not say so
        return f"Triton is installed and cannot be imported ({error})"
    oldest = ".".join(map(str, OLDEST_TRITON))
    if tuple(map(int, re.findall(r"\d+", triton.__version__)[:2])) < OLDEST_TRITON:
        return f"Triton {triton.__version__} is installed; these kernels need {oldest} or newer"
    return ""


def resolve(name: str, device: torch.device) -> str:
    """`eager`, `triton` or `cuda`: what runs tensors on `device` when `name` is asked for.

    Raises:
        RuntimeError: `triton` or `cuda` was asked for by name and cannot run there.
        ValueError: the environment variable names no backend.
    """
    if name not in BACKENDS:
        raise ValueError(
            f"WSSL_FAST_BACKEND: {name!r} given, one of {', '.join(BACKENDS)} expected"
        )
    if name == "eager" or (name == "auto" and device.type != "cuda"):
        return "eager"
    missing = why_no_triton()
    if not missing and device.type != "cuda" and not _interpreting():
        missing = (
            f"its kernels take CUDA tensors, {device.type} given (set TRITON_INTERPRET=1 before "
            "the first use to run them in Triton's interpreter)"
        )
    if not missing and name == "cuda":
        missing = cuda.why_missing()
    if not missing:
        return "cuda" if name == "cuda" else "triton"
    if name == "auto":
        return "eager"
    raise RuntimeError(f"backend {name} was asked for by name: {missing}")


def _interpreting() -> bool:
    from wssl_fast.backends.triton.launch import interpreting

    return interpreting()
