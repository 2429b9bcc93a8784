"""Views: ranges, repeatability, what colours and greys get, the plain image."""

import pytest
import torch
from torch.nn import functional as F

from benchmarks.data import pixels
from benchmarks.ssl.augment import Plain, View, crop_and_flip
from benchmarks.ssl.config import load
from benchmarks.ssl.seeds import mixed, order, seed_for

PAPER = load("byol").augment


def images(channels: int, side: int = 32, count: int = 12) -> torch.Tensor:
    generator = torch.Generator().manual_seed(0)
    coarse = torch.rand(count, channels, 6, 6, generator=generator)
    smooth = F.interpolate(coarse, size=side, mode="bilinear")
    return (255 * smooth).to(torch.uint8)


def in_unit_range(view: torch.Tensor, plain: Plain) -> torch.Tensor:
    return view * plain.deviation + plain.mean


def test_plain_is_normalised_over_the_training_images() -> None:
    given = images(3)
    plain = Plain.of(given, None)
    x = plain(given).double()
    # float32 sums: 1e-5 is far above their rounding and far below any mistake
    torch.testing.assert_close(x.mean((0, 2, 3)), torch.zeros(3).double(), rtol=0, atol=1e-5)
    torch.testing.assert_close(x.std((0, 2, 3)), torch.ones(3).double(), rtol=1e-3, atol=0)
    assert x.is_contiguous(memory_format=torch.channels_last)
    assert Plain.of(given, 16)(given).shape == (12, 3, 16, 16)


@pytest.mark.parametrize("channels", [1, 3])
def test_views_are_images(channels: int) -> None:
    given = images(channels)
    plain = Plain.of(given, None)
    view = View(plain, PAPER, channels)
    seed_for(0, "test")
    first, second = view(given), view(given)
    assert first.shape == given.shape
    for x in (first, second):
        back = in_unit_range(x, plain)
        assert back.min() > -1e-5
        assert back.max() < 1 + 1e-5
    assert not torch.equal(first, second)
    seed_for(0, "test")
    assert torch.equal(view(given), first)


def test_grey_images_get_no_colours() -> None:
    names = [type(step).__name__ for step in View(Plain.of(images(1), None), PAPER, 1).steps]
    assert "RandomGrayscale" not in names
    assert names[-2:] == ["RandomGaussianBlur", "RandomSolarize"]
    names = [type(step).__name__ for step in View(Plain.of(images(3), None), PAPER, 3).steps]
    assert "RandomGrayscale" in names


def test_solarisation_inverts_what_is_bright() -> None:
    given = images(1)
    plain = Plain.of(given, None)
    off = {"crop": False, "flip": 0.0, "jitter": 0.0, "grey": 0.0, "blur": 0.0}
    always = View(plain, PAPER.model_copy(update=off | {"solarise": 1.0}), 1)
    x = pixels(given)
    expected = torch.where(x >= 0.5, 1 - x, x)
    torch.testing.assert_close(in_unit_range(always(given), plain), expected, rtol=0, atol=1e-5)


def test_a_crop_of_everything_is_the_image() -> None:
    """Corner pixels stay corner pixels: the sampling adds no shift."""
    given = images(1)
    plain = Plain.of(given, None)
    settings = crop_and_flip(PAPER).model_copy(update={"flip": 0.0, "crop_scale": (1.0, 1.0)})
    found = in_unit_range(View(plain, settings, 1)(given), plain)
    whole = [torch.allclose(a, b, atol=1e-4) for a, b in zip(found, pixels(given), strict=True)]
    # a draw of the aspect ratio may leave a pixel out; most draws of a square image do not fit
    assert sum(whole) >= len(whole) // 2


def test_views_of_another_size_need_a_crop() -> None:
    given = images(3, side=96)
    plain = Plain.of(given, 32)
    assert View(plain, PAPER, 3)(given).shape == (12, 3, 32, 32)
    with pytest.raises(ValueError, match="need a crop"):
        View(plain, PAPER.model_copy(update={"crop": False}), 3)(given)


def test_seeds_differ_in_everything() -> None:
    found = {mixed(seed, name, step) for seed in (0, 1) for name in ("a", "b") for step in (0, 1)}
    assert len(found) == 8
    assert all(0 <= value < 2**63 for value in found)
    assert sorted(order(10, 0, 3).tolist()) == list(range(10))
    assert order(100, 0, 3).tolist() != order(100, 0, 4).tolist()
