"""How many graphs torch.compile makes: of batches that change their size, of settings that change
their value. A count is a promise: PyTorch stops at the ninth graph of a function."""

from collections.abc import Callable, Iterable
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch._dynamo.utils import counters

import wssl_fast as wf
from tests.test_compile import FUNCTIONS

M = 8
EPOCH = (12, 12, 10)  # n > m; the last batch is smaller
AROUND = (*EPOCH, *EPOCH, 9, 8, 7, 3)  # and on to n <= m

MODULES: dict[str, Callable[[], nn.Module]] = {
    "WassersteinUniformityLoss": wf.nn.WassersteinUniformityLoss,
    "UniformityLoss": wf.nn.UniformityLoss,
    "AlignmentLoss": wf.nn.AlignmentLoss,
    "FrechetLoss": wf.nn.FrechetLoss,
}


def two_views(loss: nn.Module) -> Callable[[Tensor], Tensor]:
    def call(z: Tensor) -> Tensor:
        value: Tensor = loss(z, z.roll(1, 0) * 0.5)
        return value

    return call


ONCE = ("newton_schulz", "squared", "loss")  # paths of a function that is there already
CASES: dict[str, Callable[[Tensor], Tensor]] = {
    **{name: call for name, call in FUNCTIONS.items() if name not in ONCE},
    **{name: two_views(make()) for name, make in MODULES.items()},
}
OTHER_FORMULATION = {
    "wasserstein_uniformity": 8,
    "WassersteinUniformityLoss": 3,  # of both views together
    "frechet_distance": 8,
    "FrechetLoss": 8,
}
"""From which size of AROUND on it is another graph; elsewhere the operator decides by itself."""


class Step(nn.Module):
    """What is compiled in training: layers, losses, one number."""

    def __init__(self, loss: Callable[[Tensor], Tensor]) -> None:
        super().__init__()
        self.layer = nn.Linear(6, M)
        self.loss = loss

    def forward(self, x: Tensor) -> Tensor:
        z = self.layer(x)
        return 0.1 * z.square().mean() + self.loss(z)


def graphs() -> int:
    """Made since the last reset."""
    return int(counters["stats"]["unique_graphs"])


def compiled(call: Callable[..., Any], **how: Any) -> Callable[..., Any]:
    """backend aot_eager: forward and backward traced, without code generation, whose rounding is
    not this package's."""
    torch._dynamo.reset()
    counters.clear()
    result: Callable[..., Any] = torch.compile(call, fullgraph=True, backend="aot_eager", **how)
    return result


def counts(step: Step, sizes: Iterable[int], **how: Any) -> list[int]:
    """Graphs after each batch; its value and gradients are those of an eager step."""
    call, weights = compiled(step, **how), list(step.parameters())
    found = []
    for n in sizes:
        x = torch.randn(n, 6)
        value, expected = call(x), step(x)
        torch.testing.assert_close(value, expected, rtol=0, atol=0)
        grads = torch.autograd.grad(value, weights)
        for grad, want in zip(grads, torch.autograd.grad(expected, weights), strict=True):
            torch.testing.assert_close(grad, want, rtol=0, atol=0)
        found.append(graphs())
    return found


def expected(name: str, static: int) -> list[int]:
    """Graphs after each batch of AROUND."""
    turn = OTHER_FORMULATION.get(name, 0)
    seen = [1 if i < 2 else 1 + static for i in range(len(AROUND))]
    return [count + (n <= turn) for count, n in zip(seen, AROUND, strict=True)]


@pytest.mark.parametrize("name", CASES)
def test_a_static_graph_a_dynamic_one_and_one_for_the_other_formulation(name: str) -> None:
    assert counts(Step(CASES[name]), AROUND) == expected(name, static=1)


@pytest.mark.parametrize("name", ["wasserstein_uniformity", "uniformity"])
def test_dynamic_from_the_start(name: str) -> None:
    assert counts(Step(CASES[name]), AROUND, dynamic=True) == expected(name, static=0)


def test_both_views_switch_where_their_rows_together_do() -> None:
    sizes = (6, 5, 4, 3)  # 12, 10, 8 and 6 rows
    step = Step(lambda z: wf.nn.WassersteinUniformityLoss()(z, 2 * z + 1))
    assert counts(step, sizes) == [1, 2, 3, 3]


def test_a_single_row_is_a_graph_of_its_own() -> None:
    """PyTorch specialises sizes 0 and 1."""
    assert counts(Step(wf.wasserstein_uniformity), (7, 5, 1, 1, 4)) == [1, 2, 3, 3, 3]


def test_marked_dynamic() -> None:
    call = compiled(wf.wasserstein_uniformity)
    for n in (12, 10, 50):
        z = torch.randn(n, M)
        torch._dynamo.mark_dynamic(z, 0, min=M + 1, max=512)
        assert torch.equal(call(z), wf.wasserstein_uniformity(z))
    assert graphs() == 1


def test_batches_of_problems() -> None:
    call = compiled(wf.wasserstein_uniformity)
    for shape in ((2, 12), (3, 12), (4, 10), (5, 9)):
        z = torch.randn(*shape, M)
        assert torch.equal(call(z), wf.wasserstein_uniformity(z))
    assert graphs() <= 3  # static, b dynamic, n dynamic too


# settings


@pytest.mark.parametrize(
    ("name", "kind"), [*((name, int) for name in MODULES), ("WassersteinUniformityLoss", float)]
)
def test_a_weight_that_falls_in_every_epoch(name: str, kind: type) -> None:
    """30 to 0, as the authors do with MoCo v2: a graph for 30, and one for all others."""
    loss: Any = MODULES[name]()
    step = Step(two_views(loss))
    call = compiled(step)
    for epoch in range(12):
        loss.weight = kind(30 * (11 - epoch) / 11)
        x = torch.randn(12, 6)
        value, expected = call(x), step(x)
        torch.testing.assert_close(value, expected)
        value.backward()
    assert loss.weight == 0.0
    assert graphs() == 2


def test_a_weight_outside_of_the_loss() -> None:
    """A tensor is never part of a graph; with dynamic=False every number is."""
    loss = wf.nn.WassersteinUniformityLoss()
    call = compiled(lambda z, weight: weight * loss(z), dynamic=False)
    z = torch.randn(12, M)
    for weight in torch.linspace(30, 0, 12):
        assert torch.equal(call(z, weight), weight * loss(z))
    assert graphs() == 1


SETTINGS: dict[str, Callable[[Tensor, float], Tensor]] = {
    "eps": lambda z, value: wf.wasserstein_uniformity(z, eps=value),
    "t": lambda z, value: wf.uniformity(z, t=value),
    "alpha": lambda z, value: wf.alignment(z, z.flip(0), alpha=value),
}


@pytest.mark.parametrize("name", SETTINGS)
def test_other_settings_are_part_of_the_graph(name: str) -> None:
    """A graph for each value. (A second one was an error: math.isfinite of an unknown number.)"""
    call = compiled(SETTINGS[name])
    z = torch.randn(12, M)
    for count, value in enumerate((0.5, 1.0, 0.5), start=1):
        assert torch.equal(call(z, value), SETTINGS[name](z, value))
        assert graphs() == min(count, 2)


def test_a_wrong_setting_is_an_error_when_compiled_too() -> None:
    call = torch.compile(SETTINGS["eps"], backend="aot_eager")  # the error breaks the graph
    z = torch.randn(12, M)
    for value in (0.5, 1.0):
        call(z, value)
    for value in (-1.0, float("nan"), float("inf")):
        with pytest.raises(ValueError, match="eps must be finite and >= 0"):
            call(z, value)


# export, code generation


@pytest.mark.parametrize("strict", [True, False])
def test_export_within_a_formulation(strict: bool) -> None:
    step = Step(wf.nn.WassersteinUniformityLoss())
    n = torch.export.Dim("n", min=M + 1, max=512)
    program = torch.export.export(
        step, (torch.randn(12, 6),), dynamic_shapes={"x": {0: n}}, strict=strict
    )
    for rows in (9, 20):
        x = torch.randn(rows, 6)
        assert torch.equal(program.module()(x), step(x))


@pytest.mark.parametrize(
    "call", [wf.wasserstein_uniformity, wf.uniformity, wf.effective_rank, wf.covariance_spectrum]
)
def test_a_graph_captured_without_a_gradient_says_so(call: Callable[..., Tensor]) -> None:
    class Call(nn.Module):
        def forward(self, z: Tensor) -> Tensor:
            return call(z).sum()

    z, leaf = torch.randn(12, 6), torch.randn(12, 6).requires_grad_()
    without = torch.export.export(Call(), (z,)).module()
    with pytest.raises(RuntimeError, match="Capture it with inputs that do"):
        without(leaf).backward()
    torch.export.export(Call(), (z.clone().requires_grad_(),)).module()(leaf).backward()
    got, leaf.grad = leaf.grad, None
    Call()(leaf).backward()
    assert got is not None
    assert leaf.grad is not None
    assert torch.equal(got, leaf.grad)


def test_export_across_the_formulations_is_an_error() -> None:
    step = Step(wf.nn.WassersteinUniformityLoss())
    n = torch.export.Dim("n", min=2, max=512)
    with pytest.raises(Exception, match=r"9 <= .*size\(\)\[0\]"):
        torch.export.export(step, (torch.randn(12, 6),), dynamic_shapes={"x": {0: n}})


def test_generated_code_around_the_loss() -> None:
    """The default compiler: a projector, two batch sizes, the step of an optimizer."""
    projector = nn.Sequential(nn.Linear(6, 16), nn.BatchNorm1d(16), nn.ReLU(), nn.Linear(16, M))
    step = nn.Sequential(projector, wf.nn.WassersteinUniformityLoss(0.5))
    call = torch.compile(step, fullgraph=True, dynamic=True)
    optimizer = torch.optim.SGD(step.parameters(), lr=0.1)
    for n in (24, 20):
        x = torch.randn(n, 6)
        want = torch.autograd.grad(step(x), list(step.parameters()))
        optimizer.zero_grad()
        value = call(x)
        value.backward()
        torch.testing.assert_close(value, step(x), rtol=1e-5, atol=1e-6)
        for parameter, grad in zip(step.parameters(), want, strict=True):
            # a few roundings of float32, through a batch norm
            torch.testing.assert_close(parameter.grad, grad, rtol=1e-4, atol=1e-6)
        optimizer.step()
