"""`Moments` and `RowSample` of a stream: rows cut, merged, saved and sent in a drawn order, with
wrong calls between, against the float64 reference of all of them."""

import copy
import pickle
import random
import tempfile
from collections.abc import Callable
from functools import partial
from pathlib import Path

import torch
from torch import Tensor

from tests.fuzz import inputs
from tests.fuzz.cases import Case
from tests.fuzz.oracles_spectra import RANKME
from tests.fuzz.verdict import Verdict
from tests.fuzz.wrong_arguments import refused
from tests.tolerances import contract_tolerance, used_rows, w2_tolerance
from wssl_fast import reference
from wssl_fast.backends.eager.numerics import NOISE
from wssl_fast.metrics import Moments, RowSample

EPS = torch.finfo(torch.float64).eps
METRICS = ("wasserstein_uniformity", "effective_rank", "rankme", "covariance_spectrum", "mean_norm")


def precision_of(case: Case) -> str:
    return "highest" if case.precision in ("highest", "high", "medium") else "double"


def check(verdict: Verdict, case: Case) -> None:
    rng = random.Random(case.seed)
    z = inputs.batch_of_rows(case, case.n, 0)
    view, base = inputs.laid_out(z, case.layout)
    before = base.clone()
    found = _program(verdict, case, view, rng)
    verdict.that(torch.equal(base.nan_to_num(), before.nan_to_num()), "an input was changed")
    z = view.detach().clone()  # as laid out: expanded rows repeat
    _judge(verdict, case, z, found)
    _apart(verdict, found, z)
    _spoiled(verdict, case, z, found, rng)
    _sampled(verdict, z, rng)


def _empty(case: Case) -> Moments:
    return Moments(normalize=case.normalize, precision=precision_of(case))


def _program(verdict: Verdict, case: Case, z: Tensor, rng: random.Random) -> Moments:
    """All rows of z, in several streams that become one."""
    team = [_empty(case) for _ in range(rng.randint(1, 3))]
    start, n = 0, len(z)
    while start < n:
        size = min(n - start, rng.choice((1, 1, 2, 7, n, rng.randint(1, n))))
        which = rng.randrange(len(team))
        team[which].update(z[start : start + size])
        start += size
        if rng.random() < 0.4:
            team[which] = _between(verdict, case, team[which], rng)
    rng.shuffle(team)
    way = rng.choice((_merged, sum, _added))
    return way(team)


def _merged(team: list[Moments]) -> Moments:
    for other in team[1:]:
        team[0].merge(other)
    return team[0]


def _added(team: list[Moments]) -> Moments:
    for other in team[1:]:
        team[0] += other
    return team[0]


def _between(verdict: Verdict, case: Case, held: Moments, rng: random.Random) -> Moments:
    """The same moments after something that must not change them."""
    state = held._state
    assert state is not None
    bits, m = state.clone(), held.dim or 0
    doings: list[Callable[[], Moments]] = [
        held.copy,
        lambda: copy.deepcopy(held),
        lambda: copy.copy(held),
        lambda: pickle.loads(pickle.dumps(held)),
        lambda: _saved(held),
        lambda: _asked(held, rng),
        lambda: _edited(held),
        lambda: held.merge(_empty(case)),
        lambda: _empty(case).merge(held),
        lambda: _refused(verdict, held, rng.choice(_wrong(case, m))),
    ]
    held = rng.choice(doings)()
    state = held._state
    assert state is not None
    verdict.that(torch.equal(state.nan_to_num(), bits.nan_to_num()), "moments changed on the way")
    return held


def _saved(held: Moments) -> Moments:
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "a.safetensors"
        held.save(path)
        return Moments.load(path)


def _asked(held: Moments, rng: random.Random) -> Moments:
    """A metric keeps eigenvalues, which the next rows make stale."""
    getattr(held, rng.choice(METRICS))()
    return held


def _edited(held: Moments) -> Moments:
    """What is handed out is the caller's."""
    for name in ("mean", "covariance"):
        getattr(held, name).fill_(7.0)
    for name in METRICS:
        getattr(held, name)().fill_(7.0)
    return held


def _wrong(case: Case, m: int) -> list[Callable[[Moments], object]]:
    other = Moments(normalize=not case.normalize).update(torch.ones(2, m))
    return [
        lambda held: held.update(torch.ones(3, m + 1)),
        lambda held: held.update(torch.ones(0, m)),
        lambda held: held.update(torch.ones(m)),
        lambda held: held.update(torch.ones(2, 3, m)),
        lambda held: held.update(torch.ones(3, m, dtype=torch.int64)),
        lambda held: held.update([[1.0] * m]),
        lambda held: held.merge(other),
        lambda held: held.merge(Moments(normalize=case.normalize).update(torch.ones(2, m + 1))),
        lambda held: held.merge(held.mean),
        lambda held: held.wasserstein_uniformity(2),
    ]


def _refused(verdict: Verdict, held: Moments, call: Callable[[Moments], object]) -> Moments:
    refused(verdict, lambda: call(held), "Moments")
    return held


def _judge(verdict: Verdict, case: Case, z: Tensor, found: Moments) -> None:
    """Mean and covariance to the rounding of centred products in float64 and of the mean that they
    are centred with, half a unit for each update, which add where rows are alike; or, of one
    float32 product, to that of float32."""
    verdict.that(found.count == len(z), f"{found.count} rows of {len(z)}")
    x, precision = used_rows(z, case.normalize), precision_of(case)
    mean, cov = reference.batch_covariance(z, normalize=case.normalize)
    size, spread = mean.norm().item(), cov.trace().sqrt().item()
    single = precision == "highest"
    rounding = (16 + len(z) / 2) * EPS * size
    allowed = 1e-12 * spread**2 + rounding * spread + rounding**2
    if single:
        allowed += contract_tolerance(torch.float32) * spread**2
    gap = (found.covariance - cov).norm().item()
    verdict.bound("covariance", gap, allowed)
    verdict.bound("mean", (found.mean - mean).norm().item(), rounding + 1e-12 * spread)
    verdict.that(torch.equal(found.covariance, found.covariance.mT), "covariance not symmetric")
    lengths = z.double().norm(dim=1).mean().item()
    verdict.bound("mean length", abs(found.mean_norm().item() - lengths), 1e-12 * lengths)

    # eigenvalues move by as much as their matrix, and by its noise level fade out under four times
    # that; W2 is a norm of |mu| and their roots
    dtype = torch.float32 if single else torch.float64
    noise = NOISE[dtype] * torch.finfo(dtype).eps * cov.norm().item()
    noise = max(noise, (1024 * EPS * size) ** 2)
    spectrum = torch.linalg.svdvals(x - mean).square() / len(z)
    got = found.covariance_spectrum()
    verdict.that(got.shape == spectrum.shape, f"spectrum of shape {tuple(got.shape)}")
    verdict.that(bool((got[1:] <= got[:-1]).all()), "spectrum is not descending")
    verdict.bound("spectrum", (got - spectrum).abs().max().item(), allowed + 4 * noise)

    want = reference.wasserstein_uniformity(z, normalize=case.normalize).item()
    bound = w2_tolerance(z, want, precision, normalize=case.normalize)
    faded = torch.where(spectrum < 4 * (noise + allowed), spectrum.clamp_min(4 * noise), 0.0)
    bound = max(bound, 1e-12 * want + rounding + faded.sum().sqrt().item())
    verdict.bound("W2", abs(found.wasserstein_uniformity().item() - want), bound)

    for name in ("effective_rank", "rankme"):
        rank = getattr(found, name)().item()
        verdict.that(0.0 <= rank <= len(spectrum) * (1 + RANKME) + RANKME, f"{name} is {rank}")
        if not single and size <= 1e3 * spread:
            true = getattr(reference, name)(x).item()
            tolerance = 1e-5 if name == "effective_rank" else RANKME
            verdict.bound(name, abs(rank - true), tolerance * max(true, 1.0))


def _apart(verdict: Verdict, found: Moments, z: Tensor) -> None:
    """More rows for one of two copies are not the other's."""
    copied = found.copy()
    want = found.wasserstein_uniformity()
    copied.update(z[:1] + 1)
    found._found.clear()
    verdict.that(torch.equal(found.wasserstein_uniformity(), want), "a copy shares its memory")


def _spoiled(verdict: Verdict, case: Case, z: Tensor, found: Moments, rng: random.Random) -> None:
    """NaN or infinity in a row is NaN in every metric from then on, and in no other moments."""
    bad = z[:1].clone()
    bad[0, rng.randrange(z.shape[1])] = rng.choice((float("nan"), float("inf")))
    spoiled = found.copy().update(bad).update(z)
    spoiled = rng.choice((spoiled, found + spoiled, spoiled + found))
    for name in METRICS:
        values = getattr(spoiled, name)()
        lost = ~values.isfinite() if name == "mean_norm" else values.isnan()  # infinite, of inf
        verdict.that(bool(lost.all()), f"{name} of a NaN is {values.flatten()[:2].tolist()}")
    verdict.that(bool(found.wasserstein_uniformity().isfinite()), "NaN reached other moments")


def _sampled(verdict: Verdict, z: Tensor, rng: random.Random) -> None:
    """The rows kept are the same however the stream is cut, and those of two streams merged either
    way. Keys are drawn by position, so that which they are depends on no row."""
    how = {"capacity": rng.choice((1, 2, 5, len(z), 400)), "seed": rng.getrandbits(70)}
    whole, cut, other = RowSample(**how), RowSample(**how), RowSample(**how, stream=1)
    whole.update(z)
    start = 0
    while start < len(z):
        size = rng.randint(0, len(z))
        cut.update(z[start : start + size])
        start += size
        if cut.seen and rng.random() < 0.3:
            wrong = torch.ones(2, z.shape[1] + 1)
            refused(verdict, partial(cut.update, wrong), "RowSample")
            cut = copy.deepcopy(cut) if rng.random() < 0.5 else pickle.loads(pickle.dumps(cut))
    verdict.that(torch.equal(whole.rows, cut.rows), "a cut stream has another sample")
    verdict.that(whole.seen == cut.seen == len(z), "rows of a sample are miscounted")
    other.update(z.flip(0))
    both = copy.deepcopy(whole).merge(other).rows
    verdict.that(
        torch.equal(both, copy.deepcopy(other).merge(cut).rows), "merging does not commute"
    )
    verdict.that(len(both) == min(how["capacity"], 2 * len(z)), "a sample has another size")
