"""The losses wssl_fast is measured against, each written as its source writes it.

Every W2 form takes raw rows z (n x m), normalises them itself and returns a scalar, so that all
of them, and the package's own loss, are called alike and differentiated alike:

    W2^2 = |mu|^2 + 1 + tr S - 2 tr(S^(1/2)) / sqrt(m),    S the unit rows' population covariance.

Each has its best settings, named where it is defined. Registries, by provider:

    W2_FORMS     z (n, m) -> W2;  keywords squared, normalize
    ROOTS        A (k, k), symmetric positive semi-definite -> A^(-1/2)
    SSL_LOSSES   z (n, m) -> the loss; of two views, its halves
    FRECHET      x (p, m), y (q, m) -> W2^2 between their Gaussians
"""

from collections.abc import Callable
from functools import partial

from torch import Tensor

import wssl_fast as wf
from benchmarks.peers.calls import Loss, two_views, value_and_gradient
from benchmarks.peers.covariance import eigvalsh_w2, literal_w2, svdvals_w2
from benchmarks.peers.frechet import eigh_frechet, pot_frechet, torchmetrics_frechet
from benchmarks.peers.polar import (
    LOWEST_OF_ROOTS,
    MUON,
    muon_w2,
    polar_express_steps,
    polar_express_w2,
    polar_factor,
)
from benchmarks.peers.roots import (
    CUBIC,
    ISQRT_STEPS,
    coupled_roots,
    eigh_inverse_root,
    isqrt_cov_w2,
    pade_inverse_root,
    pade_root,
    pade_w2,
)
from benchmarks.peers.ssl import (
    barlow_twins,
    coding_rate,
    pdist_uniformity,
    sigreg,
    simclr,
    vicreg,
)

W2_FORMS: dict[str, Loss] = {
    "paper's eigh": literal_w2,
    "eigvalsh": eigvalsh_w2,
    "svdvals": svdvals_w2,
    "Pade": pade_w2,
    "iSQRT-COV": isqrt_cov_w2,
    "Polar Express": polar_express_w2,
    "Muon": muon_w2,
}

ROOTS: dict[str, Callable[[Tensor], Tensor]] = {
    "wssl_fast, eigh": partial(wf.matrix_inv_sqrt, solver="eigh"),
    "wssl_fast, newton_schulz": partial(wf.matrix_inv_sqrt, solver="newton_schulz"),
    "eigh": eigh_inverse_root,
    "Pade": pade_inverse_root,
    "iSQRT-COV": lambda a: coupled_roots(a, [CUBIC] * ISQRT_STEPS)[1],
    "Polar Express": lambda a: coupled_roots(a, polar_express_steps(LOWEST_OF_ROOTS))[1],
    "Muon": lambda a: coupled_roots(a, MUON)[1],
}

SSL_LOSSES: dict[str, Loss] = {
    "Barlow Twins": two_views(barlow_twins),
    "VICReg": two_views(vicreg),
    "SimCLR": two_views(simclr),
    "SIGReg": sigreg,
    "coding rate": coding_rate,
    "L_U, pdist": pdist_uniformity,
}

FRECHET: dict[str, Callable[[Tensor, Tensor], Tensor]] = {
    "wssl_fast": wf.frechet_distance,
    "POT": pot_frechet,
    "torchmetrics": torchmetrics_frechet,
    "eigh sqrtm": eigh_frechet,
}

__all__ = [
    "CUBIC",
    "FRECHET",
    "MUON",
    "ROOTS",
    "SSL_LOSSES",
    "W2_FORMS",
    "Loss",
    "barlow_twins",
    "coding_rate",
    "coupled_roots",
    "eigh_frechet",
    "eigh_inverse_root",
    "eigvalsh_w2",
    "isqrt_cov_w2",
    "literal_w2",
    "muon_w2",
    "pade_inverse_root",
    "pade_root",
    "pade_w2",
    "pdist_uniformity",
    "polar_express_steps",
    "polar_express_w2",
    "polar_factor",
    "pot_frechet",
    "sigreg",
    "simclr",
    "svdvals_w2",
    "torchmetrics_frechet",
    "two_views",
    "value_and_gradient",
    "vicreg",
]
