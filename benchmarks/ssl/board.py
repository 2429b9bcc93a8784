"""TensorBoard's event files, where tensorboard is installed."""

from pathlib import Path
from typing import Any


class Board:
    """Scalars of every row under <run>/tensorboard; does nothing, and says why, without it.

    epoch: where the run goes on; what was written of later epochs is hidden.
    """

    def __init__(self, folder: Path, epoch: int = 0) -> None:
        self.missing: str | None = None
        self._writer: Any = None
        try:
            from torch.utils.tensorboard import SummaryWriter
        except ImportError:
            self.missing = "tensorboard is not installed: no event files (metrics.jsonl has all)"
        else:
            self._writer = SummaryWriter(str(folder / "tensorboard"), purge_step=epoch + 1)

    def add(self, row: dict[str, Any]) -> None:
        """Every number of the row, by epoch."""
        if self._writer is None:
            return
        for name, value in row.items():
            if isinstance(value, int | float) and name != "epoch":
                self._writer.add_scalar(f"{row['kind']}/{name}", value, row["epoch"])

    def close(self) -> None:
        """Flush what was added."""
        if self._writer is not None:
            self._writer.close()
