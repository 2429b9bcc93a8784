"""Table 2 of the W2 paper (Fang et al., ICLR 2024): ResNet-18, 500 epochs, one seed."""

from typing import NamedTuple


class Published(NamedTuple):
    """One row for one data set: accuracies in percent."""

    acc1: float
    acc5: float
    w2: float
    uniformity: float
    alignment: float


TABLE: dict[str, dict[tuple[str, str], Published]] = {
    "cifar10": {
        ("simclr", "none"): Published(89.85, 99.78, 1.04, -3.75, 0.47),
        ("mocov2", "none"): Published(90.65, 99.81, 1.06, -3.75, 0.51),
        ("mocov2", "lu"): Published(90.98, 99.67, 0.98, -3.82, 0.53),
        ("mocov2", "w2"): Published(91.41, 99.68, 0.33, -3.84, 0.63),
        ("byol", "none"): Published(89.53, 99.71, 1.21, -2.99, 0.31),
        ("byol", "lu"): Published(90.09, 99.75, 1.09, -3.66, 0.40),
        ("byol", "w2"): Published(90.31, 99.77, 0.38, -3.90, 0.65),
        ("barlow", "none"): Published(91.16, 99.80, 0.22, -3.91, 0.75),
        ("barlow", "lu"): Published(91.38, 99.77, 0.21, -3.92, 0.76),
        ("barlow", "w2"): Published(91.43, 99.78, 0.19, -3.92, 0.76),
        ("zerocl", "none"): Published(91.35, 99.74, 0.15, -3.94, 0.70),
        ("zerocl", "lu"): Published(91.28, 99.74, 0.15, -3.94, 0.72),
        ("zerocl", "w2"): Published(91.42, 99.82, 0.14, -3.94, 0.71),
    },
    "cifar100": {
        ("simclr", "none"): Published(63.43, 88.97, 1.05, -3.75, 0.50),
        ("mocov2", "none"): Published(60.27, 86.29, 1.07, -3.60, 0.46),
        ("mocov2", "lu"): Published(61.21, 87.32, 0.98, -3.81, 0.52),
        ("mocov2", "w2"): Published(63.68, 88.48, 0.28, -3.86, 0.66),
        ("byol", "none"): Published(63.66, 88.81, 1.20, -2.87, 0.33),
        ("byol", "lu"): Published(62.68, 88.44, 1.08, -3.70, 0.51),
        ("byol", "w2"): Published(65.16, 89.25, 0.36, -3.91, 0.69),
        ("barlow", "none"): Published(68.19, 90.64, 0.23, -3.91, 0.75),
        ("barlow", "lu"): Published(68.41, 90.99, 0.22, -3.91, 0.76),
        ("barlow", "w2"): Published(68.47, 90.64, 0.19, -3.91, 0.79),
        ("zerocl", "none"): Published(68.50, 90.97, 0.15, -3.93, 0.75),
        ("zerocl", "lu"): Published(68.44, 90.91, 0.15, -3.93, 0.74),
        ("zerocl", "w2"): Published(68.55, 91.02, 0.14, -3.94, 0.76),
    },
}
