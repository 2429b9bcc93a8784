"""L_U, forward and backward, beside torch.pdist."""

import pytest

from benchmarks.conftest import CLOCK
from benchmarks.suites import UNIFORMITY


@pytest.mark.benchmark(group=UNIFORMITY.name, timer=CLOCK)
@pytest.mark.parametrize("provider", UNIFORMITY.providers)
def test_4096_x_1024(replay, provider: str) -> None:
    replay(UNIFORMITY, provider)
