"""The symmetric product alone, in float32 and accumulated in float64, beside torch.mm."""

import pytest

from benchmarks.conftest import CLOCK

FAMILY = "products"


@pytest.mark.benchmark(timer=CLOCK)
def test_symmetric_product(replay, group, provider: str) -> None:
    replay(group, provider)
