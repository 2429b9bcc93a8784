"""The emulation behind docs/split_products.md: pieces, sums, and what it says of the zoo."""

import math

import pytest
import torch

from benchmarks.studies.split_emulation import (
    ACCUMULATE,
    EPS,
    LOW,
    Scheme,
    bfloat_pieces,
    half_pieces,
    half_product,
    toward_zero,
)
from benchmarks.studies.split_products import CHOSEN, EAGER, Truth, evaluate, indefinite
from tests.tolerances import gradient_error, gradient_tolerance, unseen, value_tolerance
from tests.zoo import BY_NAME, SHAPES


def test_two_float16_pieces_keep_22_bits() -> None:
    a = torch.randn(64, 64)
    hi, lo = half_pieces(a)
    # hi is off by 2^-12 of a at most, lo by 2^-12 of that; lo's scale keeps it from underflow
    assert ((hi.double() + lo.double() / LOW - a).abs() <= 2**-23 * a.abs() + 2**-36).all()


@pytest.mark.parametrize(("count", "bits"), [(1, 8), (2, 16), (3, 24)])
def test_bfloat16_pieces_keep_8_bits_each(count: int, bits: int) -> None:
    for scale in (1e-20, 1.0, 1e15):  # no range is lost
        a = scale * torch.randn(1000)
        rest = a.double() - sum(p.double() for p in bfloat_pieces(a, count))
        assert (rest.abs() <= 2.0**-bits * a.abs()).all()


def test_toward_zero_never_grows() -> None:
    a = torch.randn(1000, dtype=torch.float64)
    cut = toward_zero(a).double()
    assert (cut.abs() <= a.abs()).all()
    assert ((a - cut).abs() <= EPS * a.abs()).all()


@pytest.mark.parametrize("add", ACCUMULATE)
def test_three_products_are_float32_grade(add: str) -> None:
    a, b = torch.randn(96, 96), torch.randn(96, 96)
    got = half_product(half_pieces(a), half_pieces(b), 3, ACCUMULATE[add])
    scale = a.double().abs() @ b.double().abs()
    # the pieces' 2^-22, and six sums of sixteen at a unit each
    assert ((got - a.double() @ b.double()).abs() <= (2**-21 + 7 * EPS) * scale).all()


def test_the_errors_are_those_of_the_tests() -> None:
    for name, shape, normalize in (("noise_1e-3", "n<m", True), ("clusters", "n>m", False)):
        z = BY_NAME[name](*SHAPES[shape])
        truth, grad = Truth(z, normalize), torch.randn_like(z)
        for above in (1e-2, 1e-3):
            want = gradient_error(grad, z, normalize=normalize, above=above, null=False)
            assert truth.error(grad, above) == pytest.approx(want)
        assert truth.unseen() == pytest.approx(unseen(z, normalize=normalize))


@pytest.mark.parametrize("scheme", [EAGER, *CHOSEN], ids=lambda s: s.name)
@pytest.mark.parametrize("name", ["gaussian", "noise_1e-4", "one_hot", "near_constant"])
def test_what_the_page_recommends_keeps_the_rules(name: str, scheme: Scheme) -> None:
    for shape in ("n<m", "n>m"):
        row = evaluate(Truth(BY_NAME[name](*SHAPES[shape]), True), scheme)
        assert row["finite"]
        assert row["excess"] <= value_tolerance("highest")
        if scheme is not EAGER:
            assert row["gradient"] <= gradient_tolerance("highest", solver="newton_schulz")


def test_saturated_planes_stay_finite_on_indefinite_matrices() -> None:
    for row in indefinite():
        if row["k"] == 64 and row["saturate"]:
            assert row["finite"], row
            assert not math.isnan(float(str(row["weight"])))
