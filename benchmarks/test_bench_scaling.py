"""Times against m at fixed n, and against n at fixed m: the exponents are in the summary."""

import pytest

from benchmarks import scaling
from benchmarks.suites import OURS


@pytest.mark.parametrize("grows", ["m", "n"])
def test_scaling(curves, quick: bool, grows: str) -> None:
    axes = scaling.QUICK_AXES if quick else scaling.AXES
    (axis,) = [axis for axis in axes if axis.grows == grows]
    for point in curves(axis).points:
        assert point.timings[OURS].wrong is None
        assert point.timings[OURS].samples
