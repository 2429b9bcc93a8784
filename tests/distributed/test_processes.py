"""Two and four processes, each started once, run all checks of the modules below."""

import pytest
import torch.distributed as dist

from tests.distributed import world

MODULES = [
    f"tests.distributed.checks_{name}" for name in ("w2", "pairs", "losses", "traffic", "errors")
]
CHECKS = [check for module in MODULES for check in world.checks(module)]
GLOO = dist.is_available() and dist.is_gloo_available()


@pytest.fixture(scope="module", params=[2, 4], ids=["two", "four"])
def told(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> object:
    return world.outcomes(request.param, MODULES, tmp_path_factory.mktemp("processes"))


@pytest.mark.skipif(not GLOO, reason="this build of PyTorch has no Gloo")
@pytest.mark.xdist_group("processes")
@pytest.mark.parametrize("check", CHECKS)
def test_processes(told: dict[str, list[str]], check: str) -> None:
    failed = {f"rank {rank}": text for rank, text in enumerate(told[check]) if text}
    assert not failed, "\n".join(f"{rank}:\n{text}" for rank, text in failed.items())


def test_no_check_is_named_twice() -> None:
    assert len(set(CHECKS)) == len(CHECKS) > 0
