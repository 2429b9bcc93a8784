"""A Lightning callback that logs W2, L_U and effective rank of the whole validation set.

    python examples/lightning_callback.py

The metrics are torchmetrics, so they are accumulated over batches and merged across processes; the
callback works for any module whose `validation_step` returns embeddings, alone or as
`{"embeddings": z}`.
"""

import argparse
from collections.abc import Mapping, Sequence
from typing import Any

import lightning as L
import torch
from torch import Tensor, nn
from torch.utils.data import DataLoader, TensorDataset

import wssl_fast as wf


class CollapseMonitor(L.Callback):
    """Logs `val/w2`, `val/uniformity` and `val/effective_rank` of unit rows at each validation."""

    def __init__(self, num_features: int, capacity: int = 4096) -> None:
        self.metrics: dict[str, Any] = {
            "val/w2": wf.metrics.WassersteinUniformity(num_features),
            "val/uniformity": wf.metrics.Uniformity(num_features, capacity=capacity),
            "val/effective_rank": wf.metrics.EffectiveRank(num_features, normalize=True),
        }

    def on_validation_epoch_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        for metric in self.metrics.values():
            metric.to(pl_module.device).reset()

    def on_validation_batch_end(
        self, trainer: L.Trainer, pl_module: L.LightningModule, outputs: Any, *unused: Any
    ) -> None:
        z = outputs["embeddings"] if isinstance(outputs, Mapping) else outputs
        for metric in self.metrics.values():
            metric.update(z)

    def on_validation_epoch_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        for name, metric in self.metrics.items():
            pl_module.log(name, metric.compute())  # compute has merged the processes


class Alignment(L.LightningModule):
    """Alignment + W2 of two noisy views, as small as can be."""

    def __init__(self, features: int, dim: int, weight: float) -> None:
        super().__init__()
        self.encoder = nn.Sequential(nn.Linear(features, 64), nn.ReLU(), nn.Linear(64, dim))
        self.w2 = wf.nn.WassersteinUniformityLoss(weight=weight)

    def training_step(self, batch: list[Tensor], index: int) -> Tensor:
        (x,) = batch
        z_a, z_b = (self.encoder(x + 0.3 * torch.randn_like(x)) for _ in range(2))
        return wf.alignment(z_a, z_b) + self.w2(z_a, z_b)

    def validation_step(self, batch: list[Tensor], index: int) -> dict[str, Tensor]:
        return {"embeddings": self.encoder(batch[0])}

    def configure_optimizers(self) -> torch.optim.Optimizer:
        return torch.optim.AdamW(self.parameters(), lr=1e-3)


def main(arguments: Sequence[str] | None = None) -> dict[str, float]:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--epochs", type=int, default=5)
    parser.add_argument("--weight", type=float, default=1.0, help="of W2")
    options = parser.parse_args(arguments)
    L.seed_everything(0, verbose=False)
    train, val = (
        DataLoader(TensorDataset(torch.randn(n, 32)), batch_size=128) for n in (1024, 500)
    )
    trainer = L.Trainer(
        max_epochs=options.epochs,
        accelerator="cpu",
        devices=1,
        callbacks=[CollapseMonitor(num_features=16)],
        logger=False,
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
    )
    trainer.fit(Alignment(32, 16, options.weight), train, val)
    found = {name: float(value) for name, value in trainer.callback_metrics.items()}
    print("  ".join(f"{name} {value:.3f}" for name, value in found.items()))
    return found


if __name__ == "__main__":
    main()
