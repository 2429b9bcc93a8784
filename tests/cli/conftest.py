from pathlib import Path

import pytest
from torch import Tensor

from tests.cli import files


@pytest.fixture
def z() -> Tensor:
    return files.rows()


@pytest.fixture
def path(z: Tensor, tmp_path: Path) -> Path:
    return files.npy(tmp_path / "a.npy", z)
