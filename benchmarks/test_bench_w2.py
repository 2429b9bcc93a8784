"""W2, forward and forward + backward, beside its peers, the losses it joins, and its floor."""

import pytest

from benchmarks.conftest import CLOCK

FAMILY = "W2"


@pytest.mark.benchmark(timer=CLOCK)
def test_w2(replay, group, provider: str) -> None:
    replay(group, provider)
