"""A^(-1/2) alone: the k x k problem by every solver, forward."""

import pytest

from benchmarks.conftest import CLOCK

FAMILY = "solver"


@pytest.mark.benchmark(timer=CLOCK)
def test_inverse_root(replay, group, provider: str) -> None:
    replay(group, provider)
