"""W2, forward and backward, beside its peers and its floor."""

import pytest

from benchmarks.conftest import CLOCK
from benchmarks.suites import W2_MIDDLE, W2_TALL, W2_WIDE


@pytest.mark.benchmark(group=W2_MIDDLE.name, timer=CLOCK)
@pytest.mark.parametrize("provider", W2_MIDDLE.providers)
def test_512_x_8192(replay, provider: str) -> None:
    replay(W2_MIDDLE, provider)


@pytest.mark.benchmark(group=W2_WIDE.name, timer=CLOCK)
@pytest.mark.parametrize("provider", W2_WIDE.providers)
def test_256_x_32768(replay, provider: str) -> None:
    replay(W2_WIDE, provider)


@pytest.mark.benchmark(group=W2_TALL.name, timer=CLOCK)
@pytest.mark.parametrize("provider", W2_TALL.providers)
def test_4096_x_1024(replay, provider: str) -> None:
    replay(W2_TALL, provider)
