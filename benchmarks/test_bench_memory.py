"""Peak memory above the input and its gradient at 512 x 32768, in fresh processes."""

import pytest

from benchmarks.memory import losses


@pytest.mark.parametrize("provider", [name for name in losses() if name != "Barlow Twins"])
def test_peak_memory(peak_bytes, provider: str) -> None:
    assert peak_bytes(provider) >= 0
