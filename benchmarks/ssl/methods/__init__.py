"""The methods, one file each, by the names that configurations use."""

from benchmarks.ssl.methods.barlow import BarlowTwins
from benchmarks.ssl.methods.base import Method, Views
from benchmarks.ssl.methods.byol import BYOL
from benchmarks.ssl.methods.mocov2 import MoCoV2, info_nce
from benchmarks.ssl.methods.simclr import SimCLR
from benchmarks.ssl.methods.vicreg import VICReg
from benchmarks.ssl.methods.zerocl import ZeroCL

METHODS: dict[str, type[Method]] = {
    "simclr": SimCLR,
    "mocov2": MoCoV2,
    "byol": BYOL,
    "barlow": BarlowTwins,
    "zerocl": ZeroCL,
    "vicreg": VICReg,
}

__all__ = [
    "BYOL",
    "METHODS",
    "BarlowTwins",
    "Method",
    "MoCoV2",
    "SimCLR",
    "VICReg",
    "Views",
    "ZeroCL",
    "info_nce",
]
