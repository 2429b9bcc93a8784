"""Peak memory above the input and its gradient at 512 x 32768, in fresh processes."""

import pytest

from benchmarks.memory import losses
from benchmarks.suites import OURS


@pytest.mark.parametrize("provider", [name for name in losses() if name != "Barlow Twins"])
def test_peak_memory(peak_bytes, quick: bool, provider: str) -> None:
    if quick and provider != OURS:
        pytest.skip("a quick run starts processes for the package alone")
    found = peak_bytes(provider)
    assert quick or found >= 0  # pages of the process outweigh a tiny problem
