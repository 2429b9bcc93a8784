"""Frechet distance of two batches beside its peers, forward."""

import pytest

from benchmarks.conftest import CLOCK

FAMILY = "Frechet"


@pytest.mark.benchmark(timer=CLOCK)
def test_frechet_distance(replay, group, provider: str) -> None:
    replay(group, provider)
