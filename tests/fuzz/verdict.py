"""What a case showed: failures in words, and errors as shares of what is allowed."""

from dataclasses import dataclass, field

import torch
from torch import Tensor

NEAR = 0.1
"""A number within this share of a dtype's largest may come out as infinity or as itself."""


@dataclass
class Verdict:
    failures: list[str] = field(default_factory=list)
    ratios: dict[str, float] = field(default_factory=dict)
    """Worst error / tolerance of each kind of check."""

    def that(self, holds: bool, what: str) -> bool:
        if not holds:
            self.failures.append(what)
        return holds

    def bound(self, what: str, error: float, tolerance: float) -> bool:
        holds = error <= tolerance  # a NaN does not
        ratio = error / tolerance if tolerance > 0 else 0.0 if error == 0 else torch.inf
        ratio = ratio if ratio == ratio else torch.inf
        self.ratios[what] = max(self.ratios.get(what, 0.0), ratio)
        return self.that(holds, f"{what}: {error:.2e}, allowed {tolerance:.2e}")

    def in_range(
        self, what: str, got: Tensor, want: Tensor, noise: float = 0.0
    ) -> tuple[Tensor, Tensor]:
        """Both in float64, 0 where `want` is beyond the dtype of `got`, which must be infinite or
        about as large there, with its sign; elsewhere `got` must be finite. What is 0 but for
        `noise` may be anything within that."""
        largest = torch.finfo(got.dtype).max
        got, want = got.detach().double(), want.double()
        if noise > (1 - NEAR) * largest:
            unknown = want.abs() <= noise
            got, want = torch.where(unknown, 0.0, got), torch.where(unknown, 0.0, want)
        beyond = want.abs() > (1 - NEAR) * largest
        right = (got.abs() >= (1 - 2 * NEAR) * largest) & (got.sign() == want.sign())
        self.that(
            bool(right[beyond].all()), f"{what}: out of range, and neither large nor infinite"
        )
        wrong = ~beyond & ~got.isfinite()
        self.that(not bool(wrong.any()), f"{what}: {int(wrong.sum())} entries are not finite")
        keep = ~beyond & ~wrong
        return torch.where(keep, got, 0.0), torch.where(keep, want, 0.0)


def smallest(dtype: torch.dtype) -> float:
    """The smallest subnormal: half of it is the rounding of what underflows."""
    return torch.finfo(dtype).tiny * torch.finfo(dtype).eps
