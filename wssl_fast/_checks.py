"""Argument checks shared by the public functions: each error names the argument, what was given
and what is expected."""

import numbers
import operator
import sys
from typing import Any

import torch
from torch import Tensor

FLOATING = (torch.float64, torch.float32, torch.float16, torch.bfloat16)
SOLVERS = ("auto", "eigh", "newton_schulz")
PRECISIONS = ("auto", "double", "highest", "high", "medium")
LARGEST = sys.float_info.max  # PyTorch 2.6 does not compile the expression


def floating(name: str, x: object) -> Tensor:
    if not isinstance(x, Tensor):
        raise TypeError(f"{name} must be a torch.Tensor, got {type(x).__name__}")
    if x.layout != torch.strided or x.is_nested:
        kind = "nested" if x.is_nested else str(x.layout).removeprefix("torch.").strip("_")
        advice = "" if x.is_nested else f": pass {name}.to_dense()"
        raise TypeError(f"{name} must be a dense tensor, got a {kind} one{advice}")
    if x.dtype not in FLOATING:
        raise TypeError(
            f"{name} must have dtype float64, float32, float16 or bfloat16, got {x.dtype}"
        )
    return x


def plain(name: str, x: object) -> Tensor:
    """A tensor for what runs outside of operators: dense, and nothing around it that a dispatcher
    would have to unwrap."""
    t = floating(name, x)
    if type(t).__torch_dispatch__ is not Tensor.__torch_dispatch__:
        raise TypeError(
            f"{name} must be a plain tensor, got {type(t).__name__}: pass the tensor inside of it, "
            f"of a DTensor {name}.to_local() or {name}.full_tensor()"
        )
    if torch._C._are_functorch_transforms_active():
        raise RuntimeError(
            f"{name} has no numbers to look at inside of a torch.func transform (grad, vjp, vmap): "
            "make this call outside of it"
        )
    return t


def rows(name: str, x: object, minimum_rows: int = 1) -> Tensor:
    """A batch of embeddings (..., n, m) with n >= minimum_rows and m >= 1."""
    t = floating(name, x)
    if t.dim() < 2:
        raise ValueError(
            f"{name} must have shape (..., n, m): rows are embeddings; got shape {tuple(t.shape)}"
        )
    n, m = t.shape[-2:]
    if n < minimum_rows or m < 1:
        raise ValueError(
            f"{name} must have at least {minimum_rows} row(s) and 1 column in its last two "
            f"dimensions (n, m), got shape {tuple(t.shape)}"
        )
    return t


def columns(name: str, z: Tensor, m: int, owner: str) -> None:
    """Rows z (n, m) to be added to those of `owner`."""
    if z.dim() != 2 or z.shape[1] != m:
        raise ValueError(
            f"{name} must have shape (n, {m}), the width of {owner}, got {tuple(z.shape)}"
        )


def same_shape(name: str, x: Tensor, other_name: str, other: Tensor) -> None:
    if x.shape != other.shape:
        raise ValueError(
            f"{name} and {other_name} must have the same shape, got {tuple(x.shape)} and "
            f"{tuple(other.shape)}"
        )
    same_kind(name, x, other_name, other)


def same_kind(name: str, x: Tensor, other_name: str, other: Tensor) -> None:
    if x.dtype != other.dtype:
        raise TypeError(
            f"{name} and {other_name} must have the same dtype, got {x.dtype} and {other.dtype}"
        )
    if x.device != other.device:
        raise ValueError(
            f"{name} and {other_name} must be on the same device, got {x.device} and {other.device}"
        )


def square(name: str, x: object) -> Tensor:
    t = floating(name, x)
    if t.dim() < 2 or t.shape[-1] != t.shape[-2] or t.shape[-1] < 1:
        raise ValueError(f"{name} must have shape (..., k, k) with k >= 1, got {tuple(t.shape)}")
    return t


def number(name: str, value: object, *, minimum: float, exclusive: bool = False) -> float:
    # a tuple: PyTorch 2.6 cannot compile int | float
    if isinstance(value, bool) or not isinstance(value, (int, float)):
        if isinstance(value, bool) or not isinstance(value, numbers.Real):
            raise TypeError(f"{name} must be a number, got {type(value).__name__}")
        value = float(value)  # of NumPy
    below = value <= minimum if exclusive else value < minimum
    if below or not value <= LARGEST:  # math.isfinite is opaque to torch.compile
        relation = ">" if exclusive else ">="
        raise ValueError(f"{name} must be finite and {relation} {minimum:g}, got {value}")
    return float(value)


def flag(name: str, value: object) -> bool:
    if not isinstance(value, bool):
        if type(value).__module__ != "numpy" or type(value).__name__ not in ("bool", "bool_"):
            raise TypeError(f"{name} must be True or False, got {value!r}")
        value = bool(value)
    return value


def integer(name: str, value: Any, *, minimum: int | None = None) -> int:
    """An int, or what stands for one, as NumPy's integers do."""
    try:
        found = operator.index(value)
    except TypeError:
        found = None
    if found is None or isinstance(value, bool):
        raise TypeError(f"{name} must be an integer, got {type(value).__name__}")
    if minimum is not None and found < minimum:
        raise ValueError(f"{name} must be >= {minimum}, got {found}")
    return found


def choice(name: str, value: object, allowed: tuple[str, ...]) -> str:
    if not isinstance(value, str):
        raise TypeError(f"{name} must be a string, got {type(value).__name__}")
    if value not in allowed:
        raise ValueError(f"{name} must be one of {', '.join(allowed)}; got {value!r}")
    return value
