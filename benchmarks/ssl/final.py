"""Rows of evaluations: during training, and of a finished run."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import wssl_fast as wf
from benchmarks import machine
from benchmarks.ssl import seeds
from benchmarks.ssl.evaluate import embed, features_of, geometry, knn_accuracy, log_spectrum
from benchmarks.ssl.probe import linear_probe
from benchmarks.ssl.progress import Reporter

if TYPE_CHECKING:
    from benchmarks.ssl.train import Training


def evaluation_row(training: Training) -> dict[str, Any]:
    """kNN on features, geometry of test embeddings, alignment of two views of the test images."""
    config, splits, networks = training.config, training.splits, training.networks
    bank = features_of(networks.backbone, splits.bank.images, splits.plain)
    features, embeddings = embed(networks.online, splits.test.images, splits.plain)
    knn = knn_accuracy(
        bank, splits.bank.labels, features, splits.test.labels, config.evaluation.neighbours
    )
    seeds.seed_for(config.seed, "alignment")
    z_a, z_b = (embed(networks.online, splits.test.images, splits.view)[1] for _ in range(2))
    return {
        "knn": knn,
        **geometry(embeddings).row(),
        "alignment": wf.alignment(z_a, z_b).item(),
    }


def final_row(
    training: Training, reporter: Reporter, between: Callable[[], None]
) -> dict[str, Any]:
    """Everything that is measured once training has ended, and what was trained.

    between: called after each epoch of the probe; may raise to stop.
    """
    config, splits, networks = training.config, training.splits, training.networks
    row = {
        "kind": "final",
        "epoch": config.epochs,
        "epochs": config.epochs,
        "method": config.method_name,
        "uniformity_kind": config.uniformity.kind,
        "seed": config.seed,
        "dataset": config.data.dataset,
        "backbone": config.network.backbone,
        "dim": config.network.dim,
        "batch": config.batch,
        "images": len(splits.train.images),
        "tested": len(splits.test.images),
        "preset": config.preset,
        "recipe": config.recipe(),
        "weight_start": config.uniformity.weight(0, config.epochs),
        "weight_end": config.uniformity.weight(config.epochs, config.epochs),
        **evaluation_row(training),
    }
    _, embeddings = embed(networks.online, splits.test.images, splits.plain)
    row["spectrum"] = [round(value, 4) for value in log_spectrum(embeddings)]
    settings = config.evaluation.probe
    row |= {"acc1": None, "acc5": None}
    if settings.epochs:

        def on_epoch(epoch: int, epochs: int) -> None:
            reporter.probe(epoch, epochs)
            between()

        row |= linear_probe(
            networks.backbone,
            splits.bank,
            splits.test,
            settings,
            plain=splits.plain,
            augmented=splits.probe_view,
            seed=config.seed,
            on_epoch=on_epoch,
        ).row()
    reporter.row(row)
    return row | {
        "hardware": machine.hardware(training.device.type),
        "versions": machine.versions(),
        "commit": machine.commit(),
    }
