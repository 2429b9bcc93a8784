"""benchmarks.gpu.compositions against float64, on the CPU."""

import pytest
import torch
from torch.nn import functional as F

from benchmarks.batches import healthy
from benchmarks.demo.truth import cosine
from benchmarks.gpu import providers as p
from benchmarks.gpu.compositions import composed_w2, muon_w2
from benchmarks.peers import value_and_gradient
from wssl_fast import reference

SHAPES = [(48, 80), (37, 129), (96, 40)]  # Gram, odd, covariance


@pytest.mark.parametrize(("n", "m"), SHAPES)
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
def test_composition_is_right(n: int, m: int, dtype: torch.dtype) -> None:
    z = healthy(n, m).to(dtype)
    provider = p.BY_NAME[p.COMPOSED]
    scale = provider.scale(dtype)
    found = p.errors(provider, p.w2_truth(z), p.value_and_gradient(composed_w2, z, scale), scale)
    assert p.wrong(provider, found, z) is None
    assert p.value_only(composed_w2, z)[0] == p.value_and_gradient(composed_w2, z, scale)[0]


@pytest.mark.parametrize(("n", "m"), SHAPES)
def test_composition_in_tf32_restores_the_setting(n: int, m: int) -> None:
    before = torch.get_float32_matmul_precision()
    z = healthy(n, m)
    value, gradient = value_and_gradient(lambda z: composed_w2(z, fast=True), z)
    assert torch.get_float32_matmul_precision() == before
    exact_value, exact = value_and_gradient(composed_w2, z)  # TF32 means nothing on a CPU
    torch.testing.assert_close(value, exact_value)
    torch.testing.assert_close(gradient, exact)


@pytest.mark.parametrize(("n", "m"), SHAPES[:2])
def test_composition_compiles_without_a_graph_break(n: int, m: int) -> None:
    compiled = torch.compile(composed_w2, fullgraph=True, dynamic=False, backend="aot_eager")
    z = healthy(n, m)
    for found, expected in zip(
        value_and_gradient(compiled, z), value_and_gradient(composed_w2, z), strict=True
    ):
        torch.testing.assert_close(found, expected)


@pytest.mark.parametrize(("n", "m"), SHAPES)
def test_muon_is_roughly_right(n: int, m: int) -> None:
    z = healthy(n, m)
    value, gradient = value_and_gradient(muon_w2, z)
    # singular values between 0.7 and 1.2, by design
    assert abs(value.item() - reference.wasserstein_uniformity(z).item()) < 0.3
    assert cosine(gradient, reference.wasserstein_uniformity_grad(z)) > 0.8
    along = (gradient * F.normalize(z, dim=1)).sum(1)
    assert along.abs().max() < 1e-5 * gradient.norm(dim=1).max() * m**0.5
