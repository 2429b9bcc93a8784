"""`Moments`: mean and covariance of a stream of rows, and every metric that needs no more."""

import math
import os
from typing import Any, Self

import torch
from torch import Tensor

from wssl_fast import _checks as checks
from wssl_fast import functional
from wssl_fast._files import replacing
from wssl_fast.metrics import _spectral, _state
from wssl_fast.metrics._calls import kept, outside_graphs
from wssl_fast.ops._arithmetic import plain_arithmetic

PRECISIONS = ("double", "highest")
FORMAT = "wssl_fast.moments"
VERSION = "1"
_PARTS = ("count", "norm_sum", "mean", "second_moment")
_SETTINGS = [(normalize, precision) for normalize in ("True", "False") for precision in PRECISIONS]


class Moments:
    r"""Count, mean and covariance of a stream of embeddings, accumulated in float64.

    .. math:: n, \qquad \mu = \tfrac1n \sum_i x_i, \qquad
              M = \sum_i (x_i - \mu)(x_i - \mu)^T = n \Sigma

    with x_i the rows, scaled to length 1 first by default, as in W2. The rows may come in batches
    of any sizes, on any number of machines: `update` adds rows, `merge` adds another `Moments`, and
    the result does not depend on how the rows were split but for rounding in float64. Memory is
    m^2 + m + 2 float64 numbers, and as much again during an update, twice that where it has more
    than 8,192 rows. Nothing is differentiable:
    these are metrics; for a loss see :func:`wssl_fast.wasserstein_uniformity`.

    Args:
        normalize: scale rows to unit length first; a row of zeros stays zero. False takes them as
            given, as :func:`wssl_fast.frechet_distance` and RankMe's authors do.
        precision: `double`: products in float64, which tell directions down to 2e-7 of the largest
            singular value from rounding. `highest`: products of up to 8,192 rows in float32 and
            their sums in float64, at about half the cost; directions below 1e-3 of the largest may
            be lost, and count as 0. A stream is read once, so no `auto` can repeat a pass.
            Products of float64 rows are in float64 all the same.

    Rows are float64, float32, float16 or bfloat16, any strides, on one device, where the state
    lives. NaN or inf in a row makes every metric NaN from then on; so do norms beyond 1e150 with
    `normalize=False`, whose squares leave float64's range.

    Errors: `ValueError` for a wrong shape, another width, another device, a merge of different
    `normalize`, or a metric of no rows; `TypeError` for a dtype that is not floating and for
    tensors that are not plain and dense (of a DTensor pass `to_local()`); `RuntimeError` for an
    update or a merge inside of a torch.func transform.

    Source: Chan, Golub, LeVeque 1979, eq. (2.1).

    Example:
        >>> import torch, wssl_fast as wf
        >>> z = torch.eye(4).repeat(2, 1)
        >>> moments = wf.metrics.Moments().update(z[:3]).update(z[3:])
        >>> moments
        Moments(8 rows of 4, normalize=True, precision='double')
        >>> moments.wasserstein_uniformity(squared=True)
        tensor(0.5000, dtype=torch.float64)
        >>> (moments + wf.metrics.Moments().update(-z)).wasserstein_uniformity()
        tensor(0., dtype=torch.float64)
    """

    def __init__(self, *, normalize: bool = True, precision: str = "double") -> None:
        self._normalize = checks.flag("normalize", normalize)
        self._precision = checks.choice("precision", precision, PRECISIONS)
        self._state: Tensor | None = None
        self._found: dict[bool, Tensor] = {}  # eigenvalues, centred or not, of the state as it is

    @property
    def normalize(self) -> bool:
        """Whether rows are scaled to unit length."""
        return self._normalize

    @property
    def precision(self) -> str:
        """Of the least precise rows taken in, `double` or `highest`."""
        return self._precision

    @property
    def count(self) -> int:
        """Rows so far."""
        return 0 if self._state is None else int(self._state[0])

    @property
    def dim(self) -> int | None:
        """Columns m, None before the first row."""
        return None if self._state is None else len(_state.views(self._state).mean)

    @property
    def mean(self) -> Tensor:
        """mu, float64 (m,)."""
        return self._views().mean.clone()

    @property
    def covariance(self) -> Tensor:
        """Population covariance (1/n), float64 (m, m), exactly symmetric."""
        v = self._views()
        c = (v.scatter / v.rows).tril_()
        return c + c.tril(-1).mT  # a product by PyTorch is symmetric to its rounding

    @outside_graphs
    def update(self, z: Tensor) -> Self:
        """Adds rows z (n, m), n >= 1. Returns itself.

        Costs one symmetric product a block of 8,192 rows, n m^2 flops, and a sweep over m^2 numbers
        for each block or smaller batch. What fails or is interrupted adds nothing.
        """
        z = checks.rows("z", checks.plain("z", z)).detach()
        if self._state is None:
            if z.dim() != 2:
                raise ValueError(f"z must have shape (n, m), got {tuple(z.shape)}")
            state = _state.empty(z.shape[1], z.device)
        else:
            state = self._state
            checks.columns("z", z, len(_state.views(state).mean), "the rows so far")
            if z.device != state.device:
                raise ValueError(f"z must be on {state.device}, as the rows so far, got {z.device}")
        with kept(), plain_arithmetic(z.device.type):
            state = _state.added(state, z, self._normalize, self._precision)
        self._found = {}
        self._state = state
        return self

    @outside_graphs
    def merge(self, other: "Moments") -> Self:
        """Adds the rows of `other`, which is not changed. Returns itself.

        Associative and commutative but for rounding; `Moments` of no rows are neutral. Of two
        precisions the result has the lesser.
        """
        _same_rows("merge", self, other)
        if other._state is not None:
            checks.plain("other", other._state)
            states = [other._state]
            if self._state is not None:
                states = [self._state, other._state.to(self._state.device)]
            with kept():
                state = _state.merged(states)
            self._found = {}
            if other._precision == "highest":
                self._precision = "highest"
            self._state = state
        return self

    def copy(self) -> "Moments":
        """A copy with memory of its own."""
        return Moments(normalize=self._normalize, precision=self._precision).merge(self)

    def __add__(self, other: object) -> "Moments":
        if not isinstance(other, Moments):
            return NotImplemented
        return self.copy().merge(other)

    def __radd__(self, other: object) -> "Moments":
        return self.copy() if other == 0 else NotImplemented  # sum() starts at 0

    def __iadd__(self, other: object) -> Self:
        return self.merge(other) if isinstance(other, Moments) else NotImplemented

    def wasserstein_uniformity(self, *, squared: bool = False) -> Tensor:
        r"""W2 of the rows so far: see :func:`wssl_fast.wasserstein_uniformity`. float64 ().

        .. math:: W_2^2 = |\mu|^2 + \sum_i \big(\sqrt{\lambda_i} - 1/\sqrt m\big)^2
        """
        value = _spectral.w2_squared(self._eigenvalues(centred=True), self._views().mean)
        return value if squared else value.sqrt()

    def covariance_spectrum(self) -> Tensor:
        """The min(n, m) leading eigenvalues of the covariance, descending, float64; rounding noise
        as 0."""
        return self._eigenvalues(centred=True)[: self._rank()].clone()

    def effective_rank(self) -> Tensor:
        """exp(entropy of the covariance's spectrum): see :func:`wssl_fast.effective_rank`. ()"""
        return _spectral.effective_rank(self._eigenvalues(centred=True))

    def rankme(self) -> Tensor:
        """exp(entropy of the singular values of the rows, not centred): see
        :func:`wssl_fast.rankme`. Its authors take rows as given, `normalize=False`. ()"""
        return _spectral.rankme(self._eigenvalues(centred=False)[: self._rank()])

    def frechet_distance(self, other: "Moments", *, squared: bool = True) -> Tensor:
        """W2 (squared by default) between the Gaussians of two streams: see
        :func:`wssl_fast.frechet_distance`, which takes rows as given. float64 ()."""
        _same_rows("compare", self, other)
        a, b = self._views(), other._views()
        with torch.no_grad():
            return functional.gaussian_w2(
                a.mean,
                a.scatter / a.rows,
                b.mean.to(a.mean.device),
                (b.scatter / b.rows).to(a.mean.device),
                squared=squared,
            )

    def mean_norm(self) -> Tensor:
        """Mean length of the rows before any scaling, float64 ()."""
        v = self._views()
        return v.norm_sum / v.rows

    def save(self, path: str | os.PathLike[str]) -> None:
        """Writes a safetensors file: tensors `count`, `norm_sum`, `mean`, `second_moment` (n times
        the covariance), and the settings as metadata. Written whole or not at all."""
        from safetensors.torch import save_file

        v = self._views()
        tensors = {
            "count": v.rows,
            "norm_sum": v.norm_sum,
            "mean": v.mean,
            "second_moment": v.scatter,
        }
        metadata = {
            "format": FORMAT,
            "version": VERSION,
            "normalize": str(self._normalize),
            "precision": self._precision,
        }
        with replacing(path) as part:
            save_file({name: t.cpu().clone() for name, t in tensors.items()}, part, metadata)

    @classmethod
    def load(cls, path: str | os.PathLike[str]) -> "Moments":
        """Reads what `save` wrote, onto the CPU. `ValueError` names a file that is damaged or
        something else, and the part that cannot be right."""
        from safetensors import SafetensorError, safe_open

        with open(path, "rb"):  # a missing file is named by the system's own error
            pass
        try:
            with safe_open(os.fspath(path), framework="pt") as file:
                found = file.metadata() or {}
                if found.get("format") != FORMAT or found.get("version") != VERSION:
                    raise ValueError(
                        f"{path} must be a file of {FORMAT}, version {VERSION}; its metadata says "
                        f"{found.get('format')}, version {found.get('version')}"
                    )
                parts = [file.get_tensor(name) for name in _PARTS]
        except SafetensorError as error:
            raise ValueError(f"{path} is not a whole safetensors file: {error}") from error
        m = parts[2].numel()
        shapes = [tuple(part.shape) for part in parts]
        settings = (found.get("normalize"), found.get("precision"))
        if shapes != [(), (), (m,), (m, m)] or settings not in _SETTINGS:
            raise ValueError(
                f"{path} is damaged: count, norm_sum, mean and second_moment have shapes {shapes}, "
                f"normalize and precision are {settings}"
            )
        if fault := _fault(parts):
            raise ValueError(f"{path} is damaged: {fault}")
        moments = cls(normalize=settings[0] == "True", precision=str(settings[1]))
        moments._state = torch.cat([part.flatten() for part in parts])
        return moments

    def __repr__(self) -> str:
        rows = "no rows" if self._state is None else f"{self.count} rows of {self.dim}"
        return f"Moments({rows}, normalize={self._normalize}, precision={self._precision!r})"

    def __getstate__(self) -> dict[str, Any]:
        return self.__dict__ | {"_found": {}}  # a process that gets these finds its own

    def _views(self) -> _state.Views:
        if self._state is None:
            raise ValueError("these moments hold no rows yet: call update(z) first")
        return _state.views(self._state)

    def _rank(self) -> int:
        return min(self.count, len(self._views().mean))

    def _eigenvalues(self, centred: bool) -> Tensor:
        if centred not in self._found:
            v = self._views()
            dtype = torch.float64 if self._precision == "double" else torch.float32
            with kept():
                c = v.scatter / v.rows
                if not centred:
                    c.addr_(v.mean, v.mean)
                self._found[centred] = _spectral.eigenvalues(c, dtype, v.mean if centred else None)
        return self._found[centred]


def _fault(parts: list[Tensor]) -> str:
    """What no update and no merge gives in count, norm_sum, mean and second_moment, "" if nothing
    is. NaN is right in all but the count: rows that hold one give it."""
    for name, part in zip(_PARTS, parts, strict=True):
        if part.dtype != torch.float64:
            return f"{name} must be float64, got {part.dtype}"
    count, norm_sum, mean, scatter = parts
    if not math.isfinite(count) or count < 1 or count % 1 != 0:
        return f"count must be a whole number >= 1, got {float(count)}"
    if norm_sum < 0:
        return f"norm_sum must be >= 0, got {float(norm_sum)}"
    if not len(mean):
        return "mean must have at least 1 column"
    squares = scatter.diagonal()
    if bool((squares < 0).any()):
        return f"second_moment must have squares on its diagonal, got {float(squares.min())}"
    # a product by PyTorch is symmetric to its rounding, 6e-8 in float32
    if bool(((scatter - scatter.T).abs() > 1e-6 * squares.max()).any()):
        return "second_moment must be symmetric"
    return ""


def _same_rows(verb: str, a: Moments, b: object) -> None:
    """Errors unless both hold rows of one kind and width."""
    if not isinstance(b, Moments):
        raise TypeError(f"other must be wssl_fast.metrics.Moments, got {type(b).__name__}")
    if a.normalize != b.normalize:
        raise ValueError(
            f"cannot {verb} moments of rows with normalize={a.normalize} and of rows with "
            f"normalize={b.normalize}"
        )
    if a.dim is not None and b.dim is not None and a.dim != b.dim:
        raise ValueError(f"cannot {verb} moments of {a.dim} and of {b.dim} columns")
