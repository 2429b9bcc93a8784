"""The CUDA kernel: on the device where there is one and the module was built, else emulated."""

from collections.abc import Iterator

import pytest
import torch

from tests.cuda import emulated
from wssl_fast.backends import cuda


@pytest.fixture
def a_device() -> Iterator[cuda.Device]:
    """The device that backends/cuda.py runs on. An emulated one has two multiprocessors."""
    if torch.cuda.is_available() and cuda.available():
        yield cuda.device(torch.cuda.current_device())
    elif torch.cuda.is_available():
        pytest.skip("csrc/cuda was not built, and the emulator cannot read CUDA tensors")
    elif why := emulated.why_not():
        pytest.skip(why)
    else:
        with emulated.device(blocks=2) as found:
            yield found


@pytest.fixture
def an_emulated_device() -> Iterator[cuda.Device]:
    """The same, emulated even where there is a real one."""
    if why := emulated.why_not():
        pytest.skip(why)
    with emulated.device(blocks=2) as found:
        yield found


@pytest.fixture
def planning() -> Iterator[None]:
    """backends/cuda.py with a module that can plan, built from the sources as they are: no device
    is touched. Without a compiler the installed one has to do."""
    if not emulated.why_not():
        with emulated.device():
            yield
    elif cuda.available():
        yield
    else:
        pytest.skip(emulated.why_not())
