"""Part (c): the two training runs as one table."""

from benchmarks.data import ImageSet
from benchmarks.demo.tables import Table
from benchmarks.ssl_small import Recipe, RunReport


def table(runs: dict[str, RunReport], images: ImageSet) -> Table:
    """One row an epoch, the arms' figures side by side."""
    alone, beside = runs.values()
    rows = []
    for a, b in zip(alone.epochs, beside.epochs, strict=True):
        rows.append(
            [
                str(a.epoch),
                *(f"{report.knn_accuracy:.1f}" for report in (a, b)),
                *(f"{report.w2:.3f}" for report in (a, b)),
                *(f"{report.uniformity:.2f}" for report in (a, b)),
                *(f"{report.effective_rank:.0f}" for report in (a, b)),
                *(f"{report.seconds:.1f}" for report in (a, b)),
            ]
        )
    recipe = beside.recipe
    bank = min(recipe.train_count, len(images.train_images))
    tested = min(recipe.test_count, len(images.test_images))
    header = ["epoch"]
    for figure in ("kNN %", "W2", "L_U", "rank", "s"):
        header += [figure, "+W2"]
    return Table(
        title=f"{images.name}: Barlow Twins alone, and with W2 beside it",
        header=header,
        rows=rows,
        note=f"Images: {images}. A ResNet of width {recipe.width} and a {recipe.projector_dim}-"
        f"dimensional projector, {recipe.epochs} epochs of {bank:,} images in batches of "
        f"{recipe.batch_size}; same seed, weights, batches and augmentations. +W2 is the arm with "
        f"W2 (weight {_weights(recipe)}). Measured on "
        f"{tested:,} un-augmented test images: kNN (k = {recipe.neighbours(bank)}) on features, "
        f"the rest on embeddings; rank is the effective rank; s is the epoch's training time. As "
        f"many points drawn uniformly have W2 = {beside.w2_floor:.3f}.",
    )


def _weights(recipe: Recipe) -> str:
    start, end = recipe.w2_weight_start, recipe.w2_weight_end
    return f"{start:g}" if start == end else f"{start:g} to {end:g}, linear over the epochs"
