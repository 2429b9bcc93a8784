"""The shift that Newton-Schulz is given in the loss, and its correction."""

import torch

from wssl_fast.backends.eager.roots import shifted_inverse_sqrt


def test_the_shift_is_taken_out_to_first_order() -> None:
    """(1 + x)^(-1/2) (1 + x/(2 (1 + x))) = 1 - 3/8 x^2 + O(x^3), x = shift / lambda; without the
    correction the error is x/2."""
    lam = torch.tensor([1.0, 0.3, 0.1], dtype=torch.float64)
    shift = 1e-3
    q = shifted_inverse_sqrt(torch.diag(lam)[None], torch.full((1, 1, 1), shift).double())[0]
    x = shift / lam
    assert ((q.diagonal() * lam.sqrt() - 1).abs() <= x**2 / 2).all()


def test_a_null_and_a_slightly_negative_direction_stay_bounded() -> None:
    shift = 1e-6
    lam = torch.tensor([1.0, 0.0, -shift / 2], dtype=torch.float64)
    q = shifted_inverse_sqrt(torch.diag(lam)[None], torch.full((1, 1, 1), shift).double())[0]
    # q (1 + shift q^2 / 2): 1.5 shift^(-1/2) at 0, and at -shift/2, where q^2 = 2/shift, 2 q
    bound = torch.tensor([1.0, 1.5, 2 * 2**0.5], dtype=torch.float64) * shift**-0.5
    assert (q.diagonal() <= bound * (1 + 1e-6)).all()
    assert (q.diagonal() > 0).all()
