"""The metrics as torchmetrics' `Metric`s: accumulated over batches, merged across processes.

Common to all: `update` takes embeddings (n, m) of any floating dtype and accumulates in float64
(`Uniformity` keeps rows in float32); `compute` gives a float32 scalar and is not differentiable.
Every state is one tensor of a fixed size, so a process that saw no batch joins a sync like any
other; a sync gathers the states, and every process merges them in order of rank and gets the same
bits. States keep their dtype under `.half()`, `.to(torch.bfloat16)` and the like. Keyword arguments
of `torchmetrics.Metric` are passed on.
"""

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor
from torchmetrics import Metric

from wssl_fast import _checks as checks
from wssl_fast import functional
from wssl_fast.metrics import _spectral, _state
from wssl_fast.metrics._calls import kept, outside_graphs
from wssl_fast.metrics.moments import PRECISIONS
from wssl_fast.metrics.sample import row_keys
from wssl_fast.ops._arithmetic import plain_arithmetic


class _EmbeddingMetric(Metric):
    """Checks, states that keep their dtype, and a plot."""

    full_state_update = False
    is_differentiable = False

    def __init__(self, num_features: int, normalize: bool, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.num_features = checks.integer("num_features", num_features, minimum=1)
        self.normalize = checks.flag("normalize", normalize)

    def _rows(self, z: Tensor) -> Tensor:
        z = checks.rows("z", checks.plain("z", z)).detach()
        checks.columns("z", z, self.num_features, "num_features")
        return z

    def plot(self, val: Any = None, ax: Any = None) -> Any:
        """A value, or several as a curve: see torchmetrics' `Metric.plot`. Needs matplotlib."""
        return self._plot(val, ax)

    def _apply(self, fn: Callable[[Tensor], Tensor], exclude_state: Sequence[str] = "") -> Any:
        # moves states to another device; a float64 sum squeezed into bfloat16 would be no sum
        names = list(self._defaults)
        out = super()._apply(fn, exclude_state=names)
        device = fn(torch.empty(0, device=self.device)).device
        for name in names:
            self._defaults[name] = self._defaults[name].to(device)  # type: ignore[union-attr]
            setattr(self, name, getattr(self, name).to(device))
        return out

    def set_dtype(self, dst_type: Any) -> "_EmbeddingMetric":
        """Changes nothing: states are float64, sampled rows float32."""
        return self


class _MomentMetric(_EmbeddingMetric):
    """Metrics of mean and covariance."""

    settings: Tensor
    """What makes other moments of the same rows. Without it, a MetricCollection takes metrics whose
    moments agree after their first batch for one, whatever their settings."""
    moments_0: Tensor
    moments_1: Tensor

    def __init__(
        self,
        num_features: int,
        normalize: bool,
        precision: str,
        states: int,
        *settings: bool,
        **kwargs: Any,
    ) -> None:
        super().__init__(num_features, normalize, **kwargs)
        self.precision = checks.choice("precision", precision, PRECISIONS)
        own = [self.normalize, PRECISIONS.index(self.precision), *settings]
        # the first state, so that a merge of what differs fails before it changes anything
        self.add_state("settings", torch.tensor(own, dtype=torch.int64), dist_reduce_fx=_agreed)
        for i in range(states):
            default = _state.empty(self.num_features)
            self.add_state(f"moments_{i}", default, dist_reduce_fx=_state.merged)

    def _load_from_state_dict(self, state_dict: dict[str, Any], prefix: str, *rest: Any) -> None:
        found = state_dict.get(f"{prefix}settings")
        if found is not None:
            _agreed(torch.stack([self.settings, found.to(self.settings)]))
        super()._load_from_state_dict(state_dict, prefix, *rest)

    def _add(self, z: Tensor, i: int) -> None:
        z = self._rows(z)
        name = f"moments_{i}"
        with kept(), plain_arithmetic(z.device.type):
            setattr(
                self, name, _state.added(getattr(self, name), z, self.normalize, self.precision)
            )

    def _moments(self, i: int, of: str = "") -> _state.Views:
        v = _state.views(getattr(self, f"moments_{i}"))
        if int(v.rows) == 0:
            raise ValueError(f"{type(self).__name__} has seen no {of}rows yet: call update first")
        return v

    def _eigenvalues(self, v: _state.Views) -> Tensor:
        dtype = torch.float64 if self.precision == "double" else torch.float32
        return _spectral.eigenvalues(v.scatter / v.rows, dtype, v.mean)


class WassersteinUniformity(_MomentMetric):
    """W2 of all rows seen: see :func:`wssl_fast.wasserstein_uniformity`.

    Args:
        num_features: columns m of the embeddings.
        normalize, precision: see :class:`wssl_fast.metrics.Moments`.
        squared: W2 squared.

    Example:
        >>> import torch, wssl_fast as wf
        >>> metric = wf.metrics.WassersteinUniformity(4)
        >>> for batch in torch.eye(4).repeat(2, 1).split(3):
        ...     metric.update(batch)
        >>> metric.compute()
        tensor(0.7071)
    """

    higher_is_better = False
    plot_lower_bound = 0.0

    def __init__(
        self,
        num_features: int,
        *,
        normalize: bool = True,
        squared: bool = False,
        precision: str = "double",
        **kwargs: Any,
    ) -> None:
        super().__init__(num_features, normalize, precision, 1, **kwargs)
        self.squared = checks.flag("squared", squared)

    @outside_graphs
    def update(self, z: Tensor) -> None:
        """Adds rows z (n, m)."""
        self._add(z, 0)

    @outside_graphs
    def compute(self) -> Tensor:
        """(), of the rows of every process."""
        v = self._moments(0)
        value = _spectral.w2_squared(self._eigenvalues(v), v.mean)
        return (value if self.squared else value.sqrt()).float()


class EffectiveRank(_MomentMetric):
    """Effective rank of the covariance of all rows seen: see :func:`wssl_fast.effective_rank`.

    Args:
        num_features: columns m of the embeddings.
        normalize: scale rows to unit length first; not, by default, as in the function.
        precision: see :class:`wssl_fast.metrics.Moments`.

    Example:
        >>> import torch, wssl_fast as wf
        >>> metric = wf.metrics.EffectiveRank(3)
        >>> metric.update(torch.eye(3))
        >>> metric.update(-torch.eye(3))
        >>> metric.compute()
        tensor(3.)
    """

    higher_is_better = True
    plot_lower_bound = 0.0

    def __init__(
        self,
        num_features: int,
        *,
        normalize: bool = False,
        precision: str = "double",
        **kwargs: Any,
    ) -> None:
        super().__init__(num_features, normalize, precision, 1, **kwargs)

    @outside_graphs
    def update(self, z: Tensor) -> None:
        """Adds rows z (n, m)."""
        self._add(z, 0)

    @outside_graphs
    def compute(self) -> Tensor:
        """(), of the rows of every process."""
        return _spectral.effective_rank(self._eigenvalues(self._moments(0))).float()


class FrechetEmbeddingDistance(_MomentMetric):
    """Frechet distance between two sets of embeddings: see :func:`wssl_fast.frechet_distance`.

    `update(z, real)` as torchmetrics' `FrechetInceptionDistance`, for embeddings of any encoder.

    Args:
        num_features: columns m of the embeddings.
        normalize: scale rows to unit length first; not, by default, as in the function.
        squared: W2 squared, as in FID.
        reset_real_features: whether `reset` forgets the real rows too.
        precision: see :class:`wssl_fast.metrics.Moments`.

    Example:
        >>> import torch, wssl_fast as wf
        >>> metric = wf.metrics.FrechetEmbeddingDistance(8)
        >>> x = torch.randn(16, 8, generator=torch.Generator().manual_seed(0))
        >>> metric.update(x, real=True)
        >>> metric.update(x + 2, real=False)
        >>> metric.compute()
        tensor(32.)
    """

    higher_is_better = False
    plot_lower_bound = 0.0

    def __init__(
        self,
        num_features: int,
        *,
        normalize: bool = False,
        squared: bool = True,
        reset_real_features: bool = True,
        precision: str = "double",
        **kwargs: Any,
    ) -> None:
        super().__init__(num_features, normalize, precision, 2, reset_real_features, **kwargs)
        self.squared = checks.flag("squared", squared)
        self.reset_real_features = checks.flag("reset_real_features", reset_real_features)

    @outside_graphs
    def update(self, z: Tensor, real: bool) -> None:
        """Adds rows z (n, m) to the real ones or to the others."""
        self._add(z, 0 if real else 1)

    def forward(self, z: Tensor, real: bool) -> None:
        """`update`: a batch of one kind has no distance of its own."""
        self.update(z, real)

    @outside_graphs
    def compute(self) -> Tensor:
        """(), of the rows of every process."""
        a, b = self._moments(0, "real "), self._moments(1, "other ")
        with torch.no_grad():
            return functional.gaussian_w2(
                a.mean, a.scatter / a.rows, b.mean, b.scatter / b.rows, squared=self.squared
            ).float()

    def reset(self) -> None:
        """Forgets the rows; the real ones only with `reset_real_features`."""
        kept = None if self.reset_real_features else self.moments_0
        super().reset()
        if kept is not None:
            self.moments_0 = kept


class Uniformity(_EmbeddingMetric):
    """L_U of Wang & Isola over a uniform sample of all rows seen: see :func:`wssl_fast.uniformity`.

    L_U is a mean over pairs of rows, so rows have to be kept: all of them up to `capacity`, and a
    pseudo-random sample of that size of a longer stream (:class:`wssl_fast.metrics.RowSample`),
    over all processes together. Memory is capacity (m + 1) float32 numbers.

    Args:
        num_features: columns m of the embeddings.
        t, normalize: see :func:`wssl_fast.uniformity`.
        capacity: rows to keep, at least 2.
        seed: of the sample; processes of one group get streams of their own. Metrics of one
            process that are to be merged by `merge_state` need different seeds. A metric restored
            from a `state_dict` goes on where that one stopped.

    Example:
        >>> import torch, wssl_fast as wf
        >>> metric = wf.metrics.Uniformity(2)
        >>> metric.update(torch.tensor([[3.0, 0.0], [-1.0, 0.0]]))
        >>> metric.compute()
        tensor(-8.)
    """

    higher_is_better = False
    plot_upper_bound = 0.0
    seen: Tensor
    sample: Tensor

    def __init__(
        self,
        num_features: int,
        *,
        t: float = 2.0,
        normalize: bool = True,
        capacity: int = 4096,
        seed: int = 0,
        **kwargs: Any,
    ) -> None:
        super().__init__(num_features, normalize, **kwargs)
        self.t = checks.number("t", t, minimum=0.0, exclusive=True)
        self.capacity = checks.integer("capacity", capacity, minimum=2)
        self.seed = checks.integer("seed", seed)
        # rows of this process, never reset: positions in its stream of keys
        self.add_state("seen", torch.tensor(0), dist_reduce_fx="max")
        # a key, then the row; an empty place has the key -1
        default = torch.full((self.capacity, 1 + self.num_features), -1.0)
        self.add_state("sample", default, dist_reduce_fx=_largest_keys)

    @outside_graphs
    def update(self, z: Tensor) -> None:
        """Offers rows z (n, m) to the sample."""
        z = self._rows(z).float()
        keys = row_keys(self.seed, _process(), int(self.seen), len(z), z.device).float()
        above = keys > self.sample[-1, 0]
        offered = torch.cat([keys[above, None], z[above]], dim=1)
        sample = _largest(torch.cat([self.sample, offered]), self.capacity)
        self.seen = self.seen + len(z)  # first: keys may be skipped, not used twice
        self.sample = sample

    @outside_graphs
    def compute(self) -> Tensor:
        """(), of the sample over every process."""
        rows = self.sample[self.sample[:, 0] >= 0, 1:]
        if len(rows) < 2:
            raise ValueError(f"L_U is a mean over pairs: 2 rows are needed, got {len(rows)}")
        with torch.no_grad():
            return functional.uniformity(rows, t=self.t, normalize=self.normalize)

    def reset(self) -> None:
        """Forgets the sample; its next rows get keys that none has had."""
        seen = self.seen
        super().reset()
        self.seen = seen


def _agreed(settings: Tensor) -> Tensor:
    """The settings of each of several metrics, (w, k) -> (k,)."""
    if bool((settings != settings[0]).any()):
        raise ValueError(
            "metrics that are merged, synced or restored must agree in normalize, precision and "
            "reset_real_features"
        )
    return settings[0].clone()


def _process() -> int:
    """Rank in the default group, 0 without one."""
    distributed = torch.distributed
    return distributed.get_rank() if distributed.is_initialized() else 0


def _largest(sample: Tensor, capacity: int) -> Tensor:
    """The rows with the largest keys, descending. (k, 1 + m) -> (capacity, 1 + m)"""
    return sample[sample[:, 0].argsort(descending=True, stable=True)[:capacity]]


def _largest_keys(samples: Tensor) -> Tensor:
    """One sample of several (w, capacity, 1 + m)."""
    return _largest(samples.flatten(0, 1), samples.shape[1])
