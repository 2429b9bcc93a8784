"""Wrong input: the error names the argument, what was given and what is expected."""

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch

import wssl_fast as wf

Z = torch.ones(3, 4)
ERRORS: tuple[tuple[type[Exception], str, Callable[[], object]], ...] = (
    (TypeError, r"z .*list", lambda: wf.wasserstein_uniformity([[1.0]])),  # type: ignore[arg-type]
    (TypeError, r"z .*int64", lambda: wf.wasserstein_uniformity(Z.long())),
    (TypeError, r"z .*complex64", lambda: wf.uniformity(Z.cfloat())),
    (ValueError, r"z .*\(4,\)", lambda: wf.wasserstein_uniformity(Z[0])),
    (ValueError, r"z .*\(0, 4\)", lambda: wf.wasserstein_uniformity(Z[:0])),
    (ValueError, r"z .*\(3, 0\)", lambda: wf.effective_rank(Z[:, :0])),
    (ValueError, r"z .*\(0, 4\)", lambda: wf.rankme(Z[:0])),
    (ValueError, r"z .*\(4,\)", lambda: wf.covariance_spectrum(Z[0])),
    (ValueError, r"z .*\(4,\)", lambda: wf.batch_covariance(Z[0])),
    (ValueError, r"eps .*-1", lambda: wf.wasserstein_uniformity(Z, eps=-1.0)),
    (ValueError, r"eps .*nan", lambda: wf.frechet_distance(Z, Z, eps=float("nan"))),
    (TypeError, r"eps .*str", lambda: wf.frechet_distance(Z, Z, eps="0")),  # type: ignore[arg-type]
    (ValueError, r"solver .*'svd'", lambda: wf.wasserstein_uniformity(Z, solver="svd")),
    (ValueError, r"solver .*'qr'", lambda: wf.matrix_sqrt(Z @ Z.T, solver="qr")),
    (ValueError, r"precision .*'tf32'", lambda: wf.wasserstein_uniformity(Z, precision="tf32")),
    (ValueError, r"t .*0", lambda: wf.uniformity(Z, t=0.0)),
    (ValueError, r"alpha .*0", lambda: wf.alignment(Z, Z, alpha=0.0)),
    (ValueError, r"x and y .*\(3, 2\)", lambda: wf.alignment(Z, Z[:, :2])),
    (ValueError, r"x and y .*\(3, 2\)", lambda: wf.frechet_distance(Z, Z[:, :2])),
    (TypeError, r"x and y .*float64", lambda: wf.alignment(Z, Z.double())),
    (ValueError, r"\ba .*\(3, 4\)", lambda: wf.matrix_inv_sqrt(Z)),
    (ValueError, r"cov_x .*\(3, 4\)", lambda: wf.gaussian_w2(Z[0], Z)),
    (ValueError, r"mean_x .*\(4,\)", lambda: wf.gaussian_w2(Z[0], torch.eye(3))),
    (TypeError, r"z .*sparse_coo", lambda: wf.wasserstein_uniformity(Z.to_sparse())),
    (TypeError, r"z .*sparse_csr", lambda: wf.uniformity(Z.to_sparse_csr())),
    (TypeError, r"z .*mkldnn", lambda: wf.effective_rank(Z.to_mkldnn())),
    (TypeError, r"z .*nested", lambda: wf.rankme(torch.nested.nested_tensor([Z]))),
    (TypeError, r"x .*nested", lambda: wf.alignment(torch.nested.nested_tensor([Z]), Z)),
    (ValueError, r"eps .*1000", lambda: wf.wasserstein_uniformity(Z, eps=10**400)),
    (ValueError, r"weight .*inf", lambda: wf.nn.FrechetLoss(weight=float("inf"))),
    (TypeError, r"eps .*bool", lambda: wf.wasserstein_uniformity(Z, eps=np.True_)),
    (TypeError, r"normalize .*'no'", lambda: wf.uniformity(Z, normalize="no")),  # type: ignore[arg-type]
    (TypeError, r"squared .*None", lambda: wf.frechet_distance(Z, Z, squared=None)),  # type: ignore[arg-type]
    (TypeError, r"squared .*2", lambda: wf.nn.FrechetLoss(squared=2)),  # type: ignore[arg-type]
)


@pytest.mark.parametrize(("kind", "message", "call"), ERRORS, ids=[e[1] for e in ERRORS])
def test_errors_name_the_argument(
    kind: type[Exception], message: str, call: Callable[[], object]
) -> None:
    with pytest.raises(kind, match=message):
        call()


def test_numbers_of_numpy_are_numbers() -> None:
    want = wf.wasserstein_uniformity(Z, eps=0.5, normalize=False)
    for half in (np.float16(0.5), np.float32(0.5), np.float64(0.5)):
        assert torch.equal(wf.wasserstein_uniformity(Z, eps=half, normalize=np.False_), want)
    assert wf.nn.UniformityLoss(t=np.int64(3)).t == 3.0


@pytest.mark.parametrize("make", [wf.nn.WassersteinUniformityLoss, wf.nn.UniformityLoss])
def test_a_weight_set_later_is_checked_too(make: Callable[[], Any]) -> None:
    criterion = make()
    criterion.weight = 3
    assert isinstance(criterion.weight, float)
    with pytest.raises(ValueError, match=r"weight .*-1"):
        criterion.weight = -1.0
    with pytest.raises(TypeError, match=r"weight .*Tensor"):
        criterion.weight = torch.ones(())
    assert criterion.weight == 3.0
