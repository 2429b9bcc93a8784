"""A GPU's one rule without a GPU: tensors of the device and of the CPU do not meet.

    TRITON_INTERPRET=1 pytest -p tests.triton.second_device tests/triton

runs tests on a device of its own, in CPU memory, on which Triton's interpreter works. Operators of
PyTorch refuse arguments from both sides, as on CUDA, and kernels refuse tensors of the CPU.
"""

import sys
from collections.abc import Iterator
from typing import Any

import pytest
import torch
from torch._C import DispatchKey
from torch.utils._python_dispatch import TorchDispatchMode, _disable_current_modes
from torch.utils._pytree import tree_leaves, tree_map

from tests import kernels
from wssl_fast.backends.triton import launch as triton_launch
from wssl_fast.backends.triton import uniformity, w2  # noqa: F401  (whatever launches)

DEVICE = torch.device("lazy", 0)  # a name that PyTorch knows and has no kernels for


class There(torch.Tensor):
    """A tensor of the second device."""

    memory: torch.Tensor
    __torch_function__ = torch._C._disabled_torch_function_impl

    @staticmethod
    def __new__(cls, memory: torch.Tensor) -> "There":
        found: There = torch.Tensor._make_wrapper_subclass(
            cls,
            memory.shape,
            strides=memory.stride(),
            storage_offset=memory.storage_offset(),
            dtype=memory.dtype,
            device=DEVICE,
        )
        found.memory = memory
        return found

    def tolist(self) -> Any:
        return self.memory.tolist()

    @classmethod
    def __torch_dispatch__(cls, function: Any, *_: Any, **__: Any) -> Any:
        raise RuntimeError(f"{function} outside of a test")


def memory_of(x: Any) -> Any:
    return x.memory if isinstance(x, There) else x


class Apart(TorchDispatchMode):
    """Every operator inside: where its arguments lie, there its results do."""

    def __torch_dispatch__(
        self, function: Any, types: Any, args: Any = (), keywords: Any = None
    ) -> Any:
        keywords = dict(keywords or {})
        name = function._schema.name.split("::")[1]
        if function.namespace == "wssl_fast":
            with self:
                return function._op_dk(DispatchKey.CPU, *args, **keywords)
        tensors = [x for x in tree_leaves((args, keywords)) if isinstance(x, torch.Tensor)]
        there = any(isinstance(x, There) for x in tensors)
        if there and name not in ("_to_copy", "copy_"):
            here = [x for x in tensors if not isinstance(x, There) and x.dim() > 0]
            assert not here, f"{function} of tensors on two devices"
        if keywords.get("device") is not None:
            there = keywords["device"].type == DEVICE.type
            keywords["device"] = torch.device("cpu")
        out = function(*tree_map(memory_of, args), **tree_map(memory_of, keywords))
        if name.endswith("_") and tensors:  # in place
            return args[0]
        return tree_map(lambda x: There(x) if there and type(x) is torch.Tensor else x, out)


def launch(kernel: Any, grid: tuple[int, ...], *args: Any, **options: Any) -> None:
    """launch.launch there."""
    if all(run for _, run in triton_launch._records):
        for x in args:
            assert isinstance(x, There) or not isinstance(x, torch.Tensor), "a tensor of the CPU"
    with _disable_current_modes():
        launch_here(kernel, grid, *map(memory_of, args), **options)


def tensor(data: object, *, device: Any = None, **keywords: Any) -> torch.Tensor:
    """torch.tensor, which asks the device itself for memory and no mode."""
    found = tensor_here(data, **keywords)
    return found if device is None else found.to(device)


def autocast(device: str = "cuda") -> bool:
    return device != DEVICE.type and autocast_here(device)


tensor_here, autocast_here = torch.tensor, torch.is_autocast_enabled
torch.tensor, torch.is_autocast_enabled = tensor, autocast
launch_here = triton_launch.launch
for module in list(sys.modules.values()):
    if module is not None and vars(module).get("launch") is launch_here:
        module.launch = launch  # type: ignore[attr-defined]
kernels.DEVICE = str(DEVICE)


def pytest_collection_modifyitems(items: list[Any]) -> None:
    for module in {item.module for item in items}:
        if hasattr(module, "DEVICE"):
            module.DEVICE = type(module.DEVICE)(str(DEVICE))


@pytest.fixture(autouse=True)
def _apart() -> Iterator[None]:
    with Apart():
        yield
