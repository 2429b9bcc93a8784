"""L_U, forward and backward, beside torch.pdist."""

import pytest

from benchmarks.conftest import CLOCK

FAMILY = "L_U"


@pytest.mark.benchmark(timer=CLOCK)
def test_uniformity(replay, group, provider: str) -> None:
    replay(group, provider)
