"""Metrics of embeddings that come in pieces: batch by batch, file by file, process by process.

`Moments` and `RowSample` need torch alone. `WassersteinUniformity`, `Uniformity`, `EffectiveRank`
and `FrechetEmbeddingDistance` are torchmetrics' `Metric`s and need that package.
"""

from typing import TYPE_CHECKING, Any

from wssl_fast.metrics.moments import Moments
from wssl_fast.metrics.sample import RowSample
from wssl_fast.metrics.uniform import uniform_spectrum, w2_floor, w2_of_uniform

if TYPE_CHECKING:
    from wssl_fast.metrics.modules import (
        EffectiveRank,
        FrechetEmbeddingDistance,
        Uniformity,
        WassersteinUniformity,
    )

__all__ = [
    "EffectiveRank",
    "FrechetEmbeddingDistance",
    "Moments",
    "RowSample",
    "Uniformity",
    "WassersteinUniformity",
    "uniform_spectrum",
    "w2_floor",
    "w2_of_uniform",
]

_MODULES = ("EffectiveRank", "FrechetEmbeddingDistance", "Uniformity", "WassersteinUniformity")


def __getattr__(name: str) -> Any:
    if name not in _MODULES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    try:
        from wssl_fast.metrics import modules
    except ModuleNotFoundError as error:
        if error.name is None or error.name.split(".")[0] != "torchmetrics":
            raise
        raise ImportError(
            f"wssl_fast.metrics.{name} needs torchmetrics: pip install 'wssl-fast[metrics]'. "
            "wssl_fast.metrics.Moments works without it."
        ) from error
    return getattr(modules, name)


def __dir__() -> list[str]:
    return sorted(__all__)
