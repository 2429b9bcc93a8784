"""Triton's interpreter, at half its price."""

from typing import Any

import pytest
import torch


@pytest.fixture(autouse=True, scope="session")
def _device_functions_are_not_patched_again() -> None:
    """A launch patches `triton.language` for NumPy; so does every call of a device function inside
    it, which changes nothing and takes as long as everything else."""
    if torch.cuda.is_available():
        return
    import triton.language as tl
    from triton.runtime.interpreter import InterpretedFunction, InterpreterError

    whole = InterpretedFunction.__call__

    def call(self: Any, *args: Any, **keywords: Any) -> Any:
        if any(value is tl.core for value in self.fn.__globals__.values()):
            return whole(self, *args, **keywords)  # of Triton's own library: another module
        try:
            return self.rewrite()(*args, **keywords)
        except Exception as error:
            raise InterpreterError(repr(error)) from error

    InterpretedFunction.__call__ = call
