"""scikit-learn's digits: small, and there wherever scikit-learn is."""

import torch
from torch.nn import functional as F

from benchmarks.data.images import ImageSet


def load_digits(side: int = 16, test_count: int = 360) -> ImageSet:
    """scikit-learn's 1,797 digits of 8x8, enlarged to side x side so that crops keep some detail.

    The last `test_count` are the test set: the file is in the order of its writers, so the test
    set's writers are (all but one) unseen.
    """
    from sklearn.datasets import load_digits as sklearn_digits

    bunch = sklearn_digits()
    images = torch.from_numpy(bunch.images).float().unsqueeze(1) * (255 / 16)  # levels are 0..16
    images = F.interpolate(images, size=(side, side), mode="bilinear", align_corners=False)
    images = images.round().clamp(0, 255).to(torch.uint8)
    labels = torch.from_numpy(bunch.target).long()
    return ImageSet(
        name="digits",
        source="scikit-learn (8x8, enlarged)",
        train_images=images[:-test_count],
        train_labels=labels[:-test_count],
        test_images=images[-test_count:],
        test_labels=labels[-test_count:],
    )
