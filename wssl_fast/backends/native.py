"""The compiled CPU kernels (csrc/, module ``wssl_fast._cpu``) as functions of tensors.

Internal: callers pass CPU tensors of the documented shapes; what is checked here is what would
otherwise be read or written out of bounds. Inputs may be strided; nothing is copied to make them
contiguous, but a view that negates (``z.conj().imag``) is copied. Every function runs on
``torch.get_num_threads()`` threads and is bitwise deterministic for a fixed number of them
(`symmetric_product` and `exp_block` for any number).

``isa`` picks an instruction set of `instruction_sets` by name; "" is the widest.
"""

from importlib import import_module
from types import ModuleType

# torch first: it loads its own libgomp.so.1, and the module, linked against that name, then uses
# the same copy. The other order gives the process two thread pools.
import torch
from torch import Tensor

_module: ModuleType | None = None
_import_error = ""
try:
    _module = import_module("wssl_fast._cpu")
except ImportError as error:
    _import_error = str(error)

_DTYPES = {torch.float32: 0, torch.float64: 1, torch.bfloat16: 2, torch.float16: 3}
_COMPUTE_DTYPES = (torch.float32, torch.float64)


def available() -> bool:
    """Whether the compiled module is there."""
    return _module is not None


def why_missing() -> str:
    """What is missing, what that costs and how to get it; empty if nothing is."""
    if available():
        return ""
    return (
        f"the compiled part wssl_fast._cpu cannot be loaded ({_import_error}): symmetric products "
        "cost a full GEMM, and row-wise passes and the pairwise exponential take several sweeps "
        "over memory. Install a C++17 compiler with OpenMP (Debian/Ubuntu: apt install g++) and "
        "run `pip install` again; WSSL_FAST_NATIVE=1 makes it fail loudly."
    )


def instruction_sets() -> list[str]:
    """Instruction sets this processor can run, narrowest first; the last one is used."""
    return list(_load().instruction_sets())


def symmetric_product(
    x: Tensor,
    *,
    covariance: bool = False,
    scale: Tensor | None = None,
    mean: Tensor | None = None,
    dtype: torch.dtype = torch.float32,
    out: Tensor | None = None,
    isa: str = "",
) -> Tensor:
    """Y Yᵀ (n x n), or Yᵀ Y (m x m) with ``covariance``, of Y = diag(scale) x - 1 meanᵀ.

    ``x``: (n, m), any floating dtype; ``scale``: (n,) and ``mean``: (m,), float64, each optional.
    Y is evaluated in float64 and rounded to ``dtype`` (float32 or float64), the dtype of the sums
    and of the result. Costs half a GEMM; no (n, m) temporary. The result is exactly symmetric.
    """
    n, m = _matrix("x", x)
    x = _in_memory(x)
    size = m if covariance else n
    if dtype not in _COMPUTE_DTYPES:
        raise TypeError(f"dtype must be float32 or float64, not {dtype}")
    if out is None:
        out = torch.empty(size, size, dtype=dtype, device=x.device)
    _dense("out", out, (size, size), dtype)
    _load().symmetric_product(
        *_describe("x", x),
        covariance,
        _vector("scale", scale, n),
        _vector("mean", mean, m),
        _address("out", out),
        _DTYPES[dtype],
        torch.get_num_threads(),
        isa,
    )
    return out


def row_pass(x: Tensor, *, isa: str = "") -> tuple[Tensor, Tensor]:
    """``1 / |x_i|`` (n,) and the mean of the unit rows (m,), both float64, in one read of ``x``.

    The inverse norm of a zero row is 0, of a row with NaN or infinity NaN.
    """
    n, m = _matrix("x", x)
    x = _in_memory(x)
    inv_norm = torch.empty(n, dtype=torch.float64, device=x.device)
    mean = torch.empty(m, dtype=torch.float64, device=x.device)
    _load().row_pass(
        *_describe("x", x),
        _address("inv_norm", inv_norm),
        _address("mean", mean),
        torch.get_num_threads(),
        isa,
    )
    return inv_norm, mean


def tangent_epilogue_(
    t: Tensor,
    z: Tensor,
    *,
    a: Tensor,
    inv: Tensor,
    shift: Tensor | None = None,
    c: float = 1.0,
    isa: str = "",
) -> Tensor:
    """In place over ``t`` (n, m): ``c inv_i (P_i - <P_i, x_i> x_i)``, P = diag(a) t - 1 shiftᵀ.

    x = diag(inv) z. ``t``: contiguous float32 or float64; ``a``, ``inv``: (n,) and ``shift``: (m,),
    float64. Evaluated in float64, rounded once. Rows with ``inv`` 0 become 0.
    """
    n, m = _matrix("z", z)
    z = _in_memory(z)
    _dense("t", t, (n, m), t.dtype)
    _load().tangent_epilogue(
        _address("t", t),
        _DTYPES[t.dtype],
        *_describe("z", z),
        _vector("a", a, n),
        _vector("inv", inv, n),
        _vector("shift", shift, m),
        c,
        torch.get_num_threads(),
        isa,
    )
    return t


def exp_block_(
    k: Tensor,
    *,
    s: float,
    shift: float = 0.0,
    row: Tensor | None = None,
    col: Tensor | None = None,
    strictly_lower: bool = False,
    isa: str = "",
) -> float:
    """In place over ``k`` (a, b): ``exp(s k_ij + row_i + col_j + shift)``; returns the sum.

    ``k``: float32 or float64 with unit column stride; ``row``: (a,), ``col``: (b,), float64.
    ``strictly_lower`` sets entries with j >= i to 0. The sum is taken in float64.
    """
    a, b = _matrix("k", k)
    if k.dtype not in _COMPUTE_DTYPES or (b > 1 and k.stride(1) != 1):
        raise ValueError(
            f"k must be float32 or float64 with unit column stride, not {k.dtype}, {k.stride()}"
        )
    total: float = _load().exp_block(
        _address("k", k),
        _DTYPES[k.dtype],
        a,
        b,
        k.stride(0),
        s,
        _vector("row", row, a),
        _vector("col", col, b),
        shift,
        strictly_lower,
        torch.get_num_threads(),
        isa,
    )
    return total


def _load() -> ModuleType:
    if _module is None:
        raise RuntimeError(why_missing())
    return _module


def _matrix(name: str, x: Tensor) -> tuple[int, int]:
    if x.ndim != 2 or x.device.type != "cpu" or x.dtype not in _DTYPES or x.numel() == 0:
        raise ValueError(
            f"{name} must be a non-empty floating CPU matrix, "
            f"not {x.dtype} {tuple(x.shape)} on {x.device}"
        )
    return x.shape[0], x.shape[1]


def _in_memory(x: Tensor) -> Tensor:
    """x, or a copy where memory holds its numbers with the other sign, or not at all."""
    return torch.zeros_like(x) if x._is_zerotensor() else x.resolve_neg()


def _address(name: str, x: Tensor) -> int:
    address = x.data_ptr()
    if x.is_neg() or (address == 0 and x.numel()):
        raise ValueError(
            f"{name} must have its numbers in memory, which this {type(x).__name__} has not"
        )
    return address


def _describe(name: str, x: Tensor) -> tuple[int, int, int, int, int, int]:
    return _address(name, x), _DTYPES[x.dtype], x.shape[0], x.shape[1], x.stride(0), x.stride(1)


def _dense(name: str, x: Tensor, shape: tuple[int, int], dtype: torch.dtype) -> None:
    good = x.device.type == "cpu" and x.is_contiguous() and tuple(x.shape) == shape
    if not good or x.dtype != dtype or dtype not in _COMPUTE_DTYPES:
        raise ValueError(
            f"{name} must be a contiguous float32 or float64 CPU matrix of shape {shape}, "
            f"not {x.dtype} {tuple(x.shape)} with strides {x.stride()} on {x.device}"
        )


def _vector(name: str, v: Tensor | None, size: int) -> int:
    """Address of a float64 vector, 0 for None."""
    if v is None:
        return 0
    good = v.device.type == "cpu" and v.is_contiguous() and tuple(v.shape) == (size,)
    if not good or v.dtype != torch.float64:
        raise ValueError(
            f"{name} must be a contiguous float64 CPU vector of {size}, "
            f"not {v.dtype} {tuple(v.shape)} on {v.device}"
        )
    return _address(name, v)
