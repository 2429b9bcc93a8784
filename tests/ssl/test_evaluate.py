"""Every evaluation against a case small enough to know the answer of."""

import math

import pytest
import torch
from torch import nn
from torch.nn import functional as F

from benchmarks.batches import healthy
from benchmarks.ssl.config import load
from benchmarks.ssl.evaluate import (
    embed,
    evaluating,
    geometry,
    knn_accuracy,
    labelled,
    log_spectrum,
    top_k_accuracy,
    w2_floor,
)
from benchmarks.ssl.probe import Split, linear_probe
from wssl_fast import reference

PROBE = load("byol").evaluation.probe


def test_knn_weighs_by_the_exponential_of_the_cosine() -> None:
    """Two close neighbours of class 1 against three far ones of class 0."""
    angle = torch.tensor([0.0, 0.0, 2.0, 2.0, 2.0])  # cosines 1, 1, -0.42
    bank = 5 * torch.stack([angle.cos(), angle.sin()], 1)  # length plays no part
    labels = torch.tensor([1, 1, 0, 0, 0])
    query = torch.tensor([[0.3, 0.0]])
    assert 2 * math.e > 3 * math.exp(math.cos(2.0))
    assert knn_accuracy(bank, labels, query, torch.tensor([1]), 5) == 100.0
    more = torch.cat([bank, bank[2:].repeat(4, 1)])
    more_labels = torch.cat([labels, labels[2:].repeat(4)])
    assert knn_accuracy(more, more_labels, query, torch.tensor([1]), 17) == 0.0
    with pytest.raises(ValueError, match="neighbours must be 1 to 5"):
        knn_accuracy(bank, labels, query, torch.tensor([1]), 6)


def test_knn_over_chunks() -> None:
    bank = torch.eye(4)
    queries = torch.eye(4).repeat(600, 1)  # more than a chunk
    labels = torch.arange(4).repeat(600)
    labels[-1] = 0  # one is wrong
    right = knn_accuracy(bank, torch.arange(4), queries, labels, 1)
    assert right == pytest.approx(100 * 2399 / 2400)


def test_top_k() -> None:
    logits = torch.tensor([[3.0, 2.0, 1.0, 0.0]]).repeat(4, 1)
    labels = torch.arange(4)
    assert [top_k_accuracy(logits, labels, k) for k in (1, 2, 5)] == [25.0, 50.0, 100.0]


def test_geometry_of_axes() -> None:
    """2m points at plus and minus the axes: isotropic, W2 = 0, rank m, L_U by counting pairs."""
    m = 4
    z = torch.cat([torch.eye(m), -torch.eye(m)]) * 3.0
    found = geometry(z)
    assert found.w2 == pytest.approx(0.0, abs=1e-3)  # the root of float32 rounding
    assert found.effective_rank == pytest.approx(m, rel=1e-5)
    opposite, others = m, m * (2 * m - 1) - m
    mean = (opposite * math.exp(-8) + others * math.exp(-4)) / (opposite + others)
    assert found.uniformity == pytest.approx(math.log(mean), rel=1e-5)
    assert found.w2_floor == w2_floor(2 * m, m)


def test_geometry_is_the_references() -> None:
    z = healthy(50, 8)
    found = geometry(z)
    assert found.w2 == pytest.approx(reference.wasserstein_uniformity(z).item(), abs=1e-5)
    assert found.uniformity == pytest.approx(reference.uniformity(z).item(), abs=1e-5)


def test_floor_of_the_paper() -> None:
    """0.370 at n = 512, m = 256: of uniform points, drawn here once."""
    assert w2_floor(512, 256) == pytest.approx(0.370, abs=2e-3)  # the paper gives three digits


def test_spectrum_of_a_flat_and_a_collapsed_sample() -> None:
    z = torch.cat([torch.eye(4), -torch.eye(4)])
    assert log_spectrum(z) == pytest.approx([math.log(1 / 4)] * 4)
    line = torch.tensor([[1.0, 0.0], [-1.0, 0.0]])
    assert log_spectrum(line) == pytest.approx([0.0, math.log(1e-12)])


def test_embed_evaluates_and_restores_the_mode() -> None:
    network = nn.Sequential(nn.BatchNorm1d(3), nn.Linear(3, 2)).train()
    x = 5 + torch.randn(7, 3)
    features, embeddings = embed(network, x, batch=4)
    torch.testing.assert_close(features, x / math.sqrt(1 + 1e-5))  # running statistics: 0 and 1
    torch.testing.assert_close(embeddings, network[1](features).detach())
    assert network.training
    assert not features.requires_grad
    with pytest.raises(RuntimeError, match="within"), evaluating(network):
        raise RuntimeError("within")
    assert network.training


def test_labelled() -> None:
    images, labels = torch.arange(5), torch.tensor([3, 1, 2, -1, -1])
    assert labelled(images, labels)[0].tolist() == [0, 1, 2]


class Chosen(nn.Module):
    """A "backbone" that returns what it is given."""

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return x


def separable(count: int, classes: int = 7) -> Split:
    labels = torch.arange(count) % classes
    return Split(F.one_hot(labels, classes).float() + 0.01 * torch.randn(count, classes), labels)


def as_given(x: torch.Tensor) -> torch.Tensor:
    return x


def test_probe_separates_what_is_separable_and_no_more() -> None:
    settings = PROBE.model_copy(update={"epochs": 20, "batch": 32, "augment": False})
    train, test = separable(140), separable(70)
    keywords = {"plain": as_given, "augmented": as_given, "seed": 0}
    found = linear_probe(Chosen(), train, test, settings, **keywords)
    assert (found.acc1, found.acc5) == (100.0, 100.0)
    same = Split(torch.ones(70, 7), test.labels)  # features that say nothing: one class for all
    found = linear_probe(Chosen(), train, same, settings, **keywords)
    assert found.acc1 == pytest.approx(100 / 7)
    assert found.acc5 == pytest.approx(500 / 7)
    again = linear_probe(Chosen(), train, same, settings, **keywords)
    assert again == found


@pytest.mark.parametrize(("copies", "passes"), [(0, 5), (2, 2)])
def test_probe_takes_copies_in_turn(copies: int, passes: int) -> None:
    seen: list[torch.Tensor] = []

    def augmented(x: torch.Tensor) -> torch.Tensor:
        seen.append(torch.rand(1))
        return x

    settings = PROBE.model_copy(update={"epochs": 5, "copies": copies})
    keywords = {"plain": as_given, "augmented": augmented, "seed": 0}
    linear_probe(Chosen(), separable(14), separable(7), settings, **keywords)
    assert len(seen) == passes
    assert len({value.item() for value in seen}) == passes  # each draws its own
