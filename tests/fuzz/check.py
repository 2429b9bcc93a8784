"""What must hold of every function: the truth, no NaN, no mutation, the same bits again, problems
of a batch apart from each other."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from functools import partial
from itertools import product
from typing import Any, NamedTuple

import torch
from torch import Tensor

import wssl_fast as wf
from tests.fuzz import (
    inputs,
    oracles_gaussians,
    oracles_pairs,
    oracles_spectra,
    oracles_w2,
    streams,
    training,
    wrong_arguments,
)
from tests.fuzz.cases import Case
from tests.fuzz.verdict import Verdict, smallest
from wssl_fast.backends import native

Tensors = tuple[Tensor, ...]


class Problem(NamedTuple):
    """One of a batch."""

    inputs: Tensors
    outputs: Tensors
    upstream: Tensors
    grads: Tensors


@dataclass(frozen=True)
class Function:
    """How a public function is called and judged.

    Attributes:
        inputs: contiguous tensors of a case.
        call: (case, tensors) -> outputs.
        judge: (verdict, case, one problem).
        scale_free: whether rows times a power of two give the same value.
        local: whether a NaN spreads over its whole problem, as everywhere but in a covariance.
    """

    inputs: Callable[[Case], Tensors]
    call: Callable[[Case, Tensors], Tensors]
    judge: Callable[[Verdict, Case, Problem], None]
    scale_free: bool = False
    spreads: bool = True


def check(case: Case) -> Verdict:
    """Everything that is to hold of one case."""
    verdict = Verdict()
    with backend(case.backend):
        if case.function == "wrong_arguments":
            wrong_arguments.check(verdict, case.seed)
        elif case.function == "streams":
            streams.check(verdict, case)
        elif case.function == "training":
            training.check(verdict, case)
        else:
            _check(verdict, case, FUNCTIONS[case.function])
    return verdict


def by_line(line: str) -> tuple[list[str], dict[str, float]]:
    """The same of its line, in a process of the pool."""
    torch.set_num_threads(1)
    verdict = check(Case.parse(line))
    return verdict.failures, verdict.ratios


@contextmanager
def backend(name: str) -> Iterator[None]:
    """csrc/cpu where it is built, or PyTorch calls alone."""
    found = native._module
    if name == "plain":
        native._module = None
    try:
        yield
    finally:
        native._module = found


def _check(verdict: Verdict, case: Case, function: Function) -> None:
    given = function.inputs(case)
    if case.function in ("uniformity", "losses") and case.n < 2:
        return wrong_arguments.refused(verdict, lambda: wf.uniformity(given[0]))
    pairs = [inputs.laid_out(t, _layout(case, t)) for t in given]
    views, bases = tuple(p[0] for p in pairs), [p[1] for p in pairs]
    before = [base.clone() for base in bases]
    run = partial(_run, case, function)
    outputs, upstream, grads = run(views)
    same = [torch.equal(_bits(a), _bits(b)) for a, b in zip(bases, before, strict=True)]
    verdict.that(all(same), "an input was changed")
    _shapes(verdict, case, views, outputs, grads)

    again, _, grads_again = run(views)
    same = [torch.equal(_bits(a), _bits(b)) for a, b in zip(outputs, again, strict=True)]
    same += [torch.equal(_bits(a), _bits(b)) for a, b in zip(grads, grads_again, strict=True)]
    verdict.that(all(same), "not the same bits again")

    for index in product(*map(range, case.batch)):
        one = Problem(*(tuple(t[index] for t in ts) for ts in (views, outputs, upstream, grads)))
        function.judge(verdict, case, one)
        folded = case.layout != "rows" and len(case.batch) > 1  # by a copy, of other strides
        if index and not folded and not case.function.startswith("matrix"):  # one bmm for all
            alone, _, grads_alone = _run(case, function, one.inputs, one.upstream)
            # a library's product may round differently where its operands are not aligned
            placed = case.backend == "compiled" or case.n * case.m % 16 == 0
            pairs = zip(one.outputs, alone, strict=True) if placed else ()
            same = [_equal(a, b) for a, b in pairs]
            aligned = min(case.n, case.m) % 4 == 0
            pairs = zip(one.grads, grads_alone, strict=True) if aligned else ()
            same += [_equal(a, b) for a, b in pairs]
            verdict.that(all(same), f"problem {index} of a batch is not what it is alone")
    if function.scale_free and case.normalize and _may_double(given):
        _doubled(verdict, case, function, given)
    if case.function == "wasserstein_uniformity" and case.seed % 4 == 0 and not case.batch:
        order = torch.randperm(case.n, generator=torch.Generator().manual_seed(case.seed))
        shuffled = views[0][order]
        (value,), _, _ = run((shuffled,))
        oracles_w2.value(verdict, case, shuffled, value, "value of permuted rows")
    if case.bad:
        _spoiled(verdict, case, function, given, outputs, grads, upstream)


def _layout(case: Case, t: Tensor) -> str:
    """Vectors, as means are, stay as they are."""
    return case.layout if t.dim() == len(case.batch) + 2 else "rows"


def _run(
    case: Case, function: Function, tensors: Tensors, upstream: Tensors | None = None
) -> tuple[Tensors, Tensors, Tensors]:
    """Outputs, what is sent back into them, and the gradients."""
    leaves = tuple(t.detach().requires_grad_() for t in tensors)
    outputs = function.call(case, leaves)
    if upstream is None:
        upstream = tuple(_upstream(case, o) for o in outputs)
    grads = torch.autograd.grad(outputs, leaves, upstream)
    return tuple(o.detach() for o in outputs), upstream, grads


def _upstream(case: Case, output: Tensor) -> Tensor:
    matrices = case.function.startswith("matrix") or case.function == "batch_covariance"
    if not matrices:
        return torch.ones_like(output)
    generator = torch.Generator().manual_seed(case.seed)
    return torch.randn(output.shape, generator=generator, dtype=torch.float64).to(output.dtype)


def _equal(a: Tensor, b: Tensor) -> bool:
    """The same numbers; sums of infinite losses may be NaN, in both."""
    return torch.equal(a.isnan(), b.isnan()) and torch.equal(a.nan_to_num(0.0), b.nan_to_num(0.0))


def _bits(t: Tensor) -> Tensor:
    return t.detach().contiguous().flatten().view(torch.uint8)


def _shapes(verdict: Verdict, case: Case, views: Tensors, outputs: Tensors, grads: Tensors) -> None:
    want = torch.float64 if case.dtype == "float64" else torch.float32
    verdict.that(all(o.dtype == want for o in outputs), f"results are not {want}")
    right = [g.dtype == v.dtype and g.shape == v.shape for g, v in zip(grads, views, strict=True)]
    verdict.that(all(right), "a gradient is not like its input")
    verdict.that(all(o.shape[: len(case.batch)] == case.batch for o in outputs), "batch shape")


def _may_double(given: Tensors) -> bool:
    """Whether float32 holds all squares, and the dtype all entries, before and after."""
    for t in given:
        largest, least = 1e8, max(1e-8, 8 * torch.finfo(t.dtype).tiny)
        largest = min(largest, torch.finfo(t.dtype).max / 8)
        size = t[t != 0].double().abs()
        if size.numel() and not bool((size.min() > least) & (size.max() < largest)):
            return False
    return True


def _doubled(verdict: Verdict, case: Case, function: Function, given: Tensors) -> None:
    """Powers of two change no bit of a unit row."""
    plain = replace(case, layout="rows")
    values, _, grads = _run(plain, function, given)
    doubled, _, doubled_grads = _run(plain, function, tuple(t * 4 for t in given))
    same = all(torch.equal(a, b) for a, b in zip(values, doubled, strict=True))
    verdict.that(same, "four times the rows have another value")
    if case.dtype in ("float64", "float32"):
        # entries that are subnormal, or become it; of L_U the kernels of n pairs, multiplied by 4 t
        force = 4 * case.t * case.n if case.function == "uniformity" else 0.0
        lost = (4 + force) * smallest(grads[0].dtype)
        pairs = zip(grads, doubled_grads, strict=True)
        same = all(bool(((a - b * 4).abs() <= lost).all()) for a, b in pairs)
        verdict.that(same, "four times the rows have another gradient than a quarter")


def _spoiled(
    verdict: Verdict, case: Case, function: Function, given: Tensors, outputs: Tensors,
    grads: Tensors, upstream: Tensors,
) -> None:  # fmt: skip
    """NaN or infinity in the first problem makes that one NaN, in value and gradient."""
    first = (0,) * len(case.batch)
    spoiled = [t.clone() for t in given]
    victim = spoiled[case.seed % len(spoiled)][first]
    victim.view(-1)[0] = float(case.bad)
    if case.function.startswith("matrix") or (case.function == "gaussian_w2" and victim.dim() > 1):
        victim.copy_(torch.triu(victim) + torch.triu(victim, 1).mT)
    views = tuple(inputs.laid_out(t, _layout(case, t))[0] for t in spoiled)
    bad_outputs, _, bad_grads = _run(case, function, views, upstream)
    for good, bad in zip((*outputs, *grads), (*bad_outputs, *bad_grads), strict=True):
        if function.spreads:
            verdict.that(bool(bad[first].isnan().all()), f"{case.bad} in, and not NaN out")
        rest = torch.ones(case.batch, dtype=torch.bool)
        rest[first] = False
        verdict.that(_equal(good[rest], bad[rest]), f"{case.bad} reached another problem")


def _rows(case: Case) -> Tensors:
    return (inputs.batch_of_rows(case, case.n, 0),)


def _paired(case: Case) -> Tensors:
    """Two views of a batch: a second one near the first, or far from it."""
    x = inputs.batch_of_rows(case, case.n, 0)
    y = inputs.batch_of_rows(case, case.n, 1)
    near = 10.0 ** -(case.seed % 9)
    return x, (x.double() + near * (y.double() - x.double())).to(x.dtype)


def _two_batches(case: Case) -> Tensors:
    return inputs.batch_of_rows(case, case.n, 0), inputs.batch_of_rows(case, case.other, 1)


def _matrices(case: Case) -> Tensors:
    return (inputs.batch_of_matrices(case, 0),)


def _moments(case: Case) -> Tensors:
    """Means and covariances of two Gaussians, of one where `normalize`."""
    half = replace(case, scale=0)
    found: list[Tensor] = []
    for stream in range(1 if case.normalize else 2):
        a = inputs.batch_of_matrices(case, 2 * stream)
        mean = inputs.batch_of_rows(half, 1, 2 * stream + 1)[..., 0, :].double()
        mean = mean * 10.0 ** (case.scale / 2)
        limit = torch.finfo(a.dtype).max * inputs.HEADROOM
        found += [mean.clamp(-limit, limit).to(a.dtype), a]
    return tuple(found)


def _pick(case: Case, *names: str) -> dict[str, Any]:
    return {name: getattr(case, name) for name in names}


def _call(name: str, *options: str) -> Callable[[Case, Tensors], Tensors]:
    def call(case: Case, tensors: Tensors) -> Tensors:
        output = getattr(wf, name)(*tensors, **_pick(case, *options))
        return output if isinstance(output, tuple) else (output,)

    return call


def _losses(case: Case, tensors: Tensors) -> Tensors:
    """The modules' sum over both views."""
    a, b = tensors
    how = _pick(case, "squared", "eps", "solver", "precision")
    normalize = {"normalize": case.normalize}
    return (
        wf.nn.WassersteinUniformityLoss(0.5, **how)(a, b)
        + wf.nn.UniformityLoss(weight=2.0, **normalize)(a, b)
        + wf.nn.AlignmentLoss(weight=0.25, **normalize)(a, b)
        + wf.nn.FrechetLoss(0.125, **how)(a, b),
    )


def _judge_losses(verdict: Verdict, case: Case, one: Problem) -> None:
    """The modules are their functions: the same sum by hand, to the bit."""
    a, b = (t.detach().requires_grad_() for t in one.inputs)  # else no vectors, and other bits
    how = _pick(case, "squared", "eps", "solver", "precision")
    normalize = {"normalize": case.normalize}
    views = 0.5 * (wf.uniformity(a, **normalize) + wf.uniformity(b, **normalize))
    want = (
        0.5 * wf.wasserstein_uniformity(torch.cat([a, b]), **how)
        + 2.0 * views
        + 0.25 * wf.alignment(a, b, **normalize)
        + 0.125 * wf.frechet_distance(a, b, **how)
    )
    # a library's product may round differently where its operands are not aligned
    if not case.batch or case.n * case.m % 16 == 0:
        verdict.that(_equal(want, one.outputs[0]), "a loss is not its function")


def _judge_w2(verdict: Verdict, case: Case, one: Problem) -> None:
    oracles_w2.value(verdict, case, one.inputs[0], one.outputs[0])
    oracles_w2.gradient(verdict, case, one.inputs[0], one.grads[0])


def _judge_pair(oracle: Callable[..., None]) -> Callable[[Verdict, Case, Problem], None]:
    return lambda verdict, case, one: oracle(verdict, case, one.inputs, one.outputs[0], one.grads)


def _judge_one(oracle: Callable[..., None]) -> Callable[[Verdict, Case, Problem], None]:
    return lambda verdict, case, one: oracle(
        verdict, case, one.inputs[0], one.outputs[0], one.grads[0]
    )


def _judge_sent_back(oracle: Callable[..., None]) -> Callable[[Verdict, Case, Problem], None]:
    return lambda verdict, case, one: oracle(
        verdict, case, one.inputs[0], one.outputs[0], one.upstream[0], one.grads[0]
    )


def _judge_covariance(verdict: Verdict, case: Case, one: Problem) -> None:
    oracles_gaussians.covariance(
        verdict, case, one.inputs[0], one.outputs, one.upstream, one.grads[0]
    )


W2 = ("normalize", "squared", "eps", "solver", "precision")
ROOT = ("solver", "precision")
FUNCTIONS = {
    "wasserstein_uniformity": Function(
        _rows, _call("wasserstein_uniformity", *W2), _judge_w2, scale_free=True
    ),
    "uniformity": Function(
        _rows,
        _call("uniformity", "t", "normalize"),
        _judge_one(oracles_pairs.uniformity),
        scale_free=True,
    ),
    "alignment": Function(
        _paired,
        _call("alignment", "alpha", "normalize"),
        _judge_pair(oracles_pairs.alignment),
        scale_free=True,
    ),
    "frechet_distance": Function(
        _two_batches,
        _call("frechet_distance", "squared", "eps", "solver", "precision"),
        _judge_pair(oracles_gaussians.frechet),
    ),
    "batch_covariance": Function(
        _rows,
        _call("batch_covariance", "normalize"),
        _judge_covariance,
        scale_free=True,
        spreads=False,
    ),
    "gaussian_w2": Function(
        _moments, _call("gaussian_w2", "squared"), _judge_pair(oracles_gaussians.gaussian)
    ),
    "matrix_sqrt": Function(
        _matrices, _call("matrix_sqrt", *ROOT), _judge_sent_back(oracles_spectra.root)
    ),
    "matrix_inv_sqrt": Function(
        _matrices, _call("matrix_inv_sqrt", *ROOT), _judge_sent_back(oracles_spectra.root)
    ),
    "effective_rank": Function(_rows, _call("effective_rank"), _judge_one(oracles_spectra.rank)),
    "rankme": Function(_rows, _call("rankme"), _judge_one(oracles_spectra.rank)),
    "covariance_spectrum": Function(
        _rows, _call("covariance_spectrum"), _judge_sent_back(oracles_spectra.spectrum)
    ),
    "losses": Function(_paired, _losses, _judge_losses),
}
