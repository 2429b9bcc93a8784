"""`RowSample`: uniform, whatever the batches; and merging."""

import numpy as np
import pytest
import torch

import wssl_fast as wf
from wssl_fast.metrics import Moments, RowSample
from wssl_fast.metrics.sample import row_keys

CPU = torch.device("cpu")


def splitmix64(state: int) -> int:
    """The generator as published, on Python's integers."""
    word = (1 << 64) - 1
    z = (state + 0x9E3779B97F4A7C15) & word
    z = ((z ^ (z >> 30)) * 0xBF58476D1CE4E5B9) & word
    z = ((z ^ (z >> 27)) * 0x94D049BB133111EB) & word
    return z ^ (z >> 31)


def test_keys_are_splitmix64() -> None:
    # seed 0, stream 0: the state of mixed(mixed(0) + 0) = 0; the first outputs from state 0
    golden = 0x9E3779B97F4A7C15
    want = [(splitmix64(i * golden % 2**64) >> 11) * 2.0**-53 for i in range(50)]
    assert row_keys(0, 0, 0, 50, CPU).tolist() == want
    assert want[0] == (0xE220A8397B1DCDAF >> 11) * 2.0**-53  # the published first number
    assert row_keys(0, 0, 7, 5, CPU).tolist() == want[7:12]


def test_keys_of_other_seeds_and_streams_differ() -> None:
    seen = [row_keys(seed, stream, 0, 64, CPU) for seed in (0, 1, -1) for stream in (0, 1, 2)]
    together = torch.cat(seen)
    assert len(together.unique()) == len(together)
    assert bool(((together >= 0) & (together < 1)).all())


def test_the_sample_does_not_depend_on_the_batches() -> None:
    z = torch.arange(1000.0)[:, None].expand(-1, 3)
    whole = RowSample(50, seed=3).update(z)
    pieces = RowSample(50, seed=3)
    for part in z.split([1, 0, 7, 300, 500, 192]):
        pieces.update(part)
    assert torch.equal(whole.rows, pieces.rows)
    assert whole.seen == pieces.seen == 1000
    assert len(whole.rows.unique(dim=0)) == 50


def test_every_row_is_as_likely() -> None:
    """4,000 draws of 1 of 8 rows, in two streams merged: each row 500 times, give or take four
    standard deviations of a binomial, 84."""
    z = torch.arange(8.0)[:, None]
    counts = torch.zeros(8)
    for seed in range(4000):
        parts = [RowSample(1, seed=seed, stream=i).update(z[4 * i : 4 * i + 4]) for i in (0, 1)]
        counts[int(parts[0].merge(parts[1]).rows)] += 1
    assert (counts - 500).abs().max() <= 4 * (4000 / 8 * 7 / 8) ** 0.5


def test_merging_is_associative_and_takes_the_largest_keys() -> None:
    def parts() -> list[RowSample]:
        return [
            RowSample(6, stream=i).update(torch.arange(5.0)[:, None] + 10 * i) for i in range(3)
        ]

    a, b, c = parts()
    left = a.merge(b).merge(c)
    a, b, c = parts()
    right = a.merge(b.merge(c))
    assert torch.equal(left.rows, right.rows)
    assert (left.seen, len(left.rows)) == (15, 6)
    keys = torch.cat([row_keys(0, i, 0, 5, CPU) for i in range(3)])
    rows = torch.cat([torch.arange(5.0) + 10 * i for i in range(3)])
    assert torch.equal(left.rows[:, 0], rows[keys.argsort(descending=True)[:6]])


def test_all_rows_below_the_capacity_and_l_u_is_exact() -> None:
    z = torch.randn(30, 5)
    sample = RowSample(30).update(z[:10]).update(z[10:])
    assert float(sample.uniformity()) == pytest.approx(float(wf.uniformity(z)), rel=1e-6)
    raw = float(sample.uniformity(t=1.0, normalize=False))
    assert raw == pytest.approx(float(wf.uniformity(z, t=1.0, normalize=False)), rel=1e-6)


def test_an_update_that_fails_adds_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    z = torch.randn(30, 5)
    sample, want = RowSample(10), RowSample(10)

    def failing(*unused: object, **options: object) -> None:
        raise KeyboardInterrupt

    for part in z.split(12):
        with monkeypatch.context() as patch:
            patch.setattr(torch.Tensor, "argsort", failing)
            with pytest.raises(KeyboardInterrupt):
                sample.update(part)
        assert sample.seen == want.seen
        sample.update(part), want.update(part)
        assert torch.equal(sample.rows, want.rows)


def test_errors() -> None:
    with pytest.raises(ValueError, match="capacity must be >= 1, got 0"):
        RowSample(0)
    with pytest.raises(TypeError, match="seed must be an integer, got float"):
        RowSample(4, seed=0.5)  # type: ignore[arg-type]
    with pytest.raises(TypeError, match="capacity must be an integer, got float"):
        RowSample(4.0)  # type: ignore[arg-type]
    sample = RowSample(np.int64(4), seed=np.uint64(2**63), stream=np.int8(-1))
    assert (sample.capacity, sample.seed, sample.stream) == (4, 2**63, -1)
    for other in (Moments(), None, 3):
        with pytest.raises(TypeError, match=rf"RowSample, got {type(other).__name__}"):
            sample.merge(other)  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="no rows yet"):
        _ = sample.rows
    sample.update(torch.randn(2, 3))
    with pytest.raises(ValueError, match=r"\(n, 3\), the width of the rows kept, got \(2, 4\)"):
        sample.update(torch.randn(2, 4))
    with pytest.raises(TypeError, match="same dtype"):
        sample.update(torch.randn(2, 3).double())
    with pytest.raises(ValueError, match=r"shape \(n, m\)"):
        sample.update(torch.randn(3))
    with pytest.raises(ValueError, match="same capacity to be merged, got 4 and 5"):
        sample.merge(RowSample(5))
    assert sample.seen == 2
