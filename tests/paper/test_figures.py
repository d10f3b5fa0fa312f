"""Figures of `examples/paper`: accuracies and errors by hand, laws of the methods, curves."""

from __future__ import annotations

import dataclasses
from types import SimpleNamespace

import pytest
import torch

import equifast


def corner(x):
    """Two classes by the upper left pixel: probabilities (2/3, 1/3) where it is 1, (2/5, 3/5) where it is 0."""
    pixel = x[:, 0, 0, 0]
    return torch.stack((pixel * torch.tensor(3.0).log(), torch.full_like(pixel, 1.5).log()), 1)


def test_figures_of_a_tiny_case(paper):
    """An image whose class follows its corner, and an empty one; by hand."""
    images = torch.zeros(2, 1, 2, 2)
    images[0, 0, 0, 0] = 1
    form = SimpleNamespace(element=torch.tensor([0, 3]))
    scores = paper("evaluate").evaluate(lambda x: (corner(x), form), images, torch.tensor([0, 1]), "C4")
    assert scores.angles == [1.0, 0.5, 0.5, 0.5]
    assert scores.accuracy == 1.0
    assert scores.group_accuracy == 0.625
    assert scores.identity == 0.5
    # each of three turns moves 2/3 − 2/5 of the first image's probability, and nothing of the second's
    assert scores.error == pytest.approx((2 / 3 - 2 / 5) / 2, abs=1e-6)
    alone = paper("evaluate").evaluate(lambda x: (corner(x), None), images, torch.tensor([0, 1]), "C4")
    assert alone == dataclasses.replace(scores, identity=None)


@pytest.mark.parametrize("group", ["C4", "D4"])
@pytest.mark.parametrize("method", ["equiadapt", "equioptadapt"])
def test_exact_groups_leave_no_error(paper, group, method):
    """Whatever the networks are: a canonicalized classifier is the same at every angle, to the last bit."""
    torch.manual_seed(0)
    methods = paper("methods")
    model = methods.Model(methods.METHODS[method], group).eval()
    scores = paper("evaluate").evaluate(model, torch.rand(20, 1, 28, 28), torch.arange(20) % 10, group)
    assert scores.error == 0 and len(set(scores.angles)) == 1 and 0 <= scores.identity <= 1


def test_augmentation_moves_by_every_element(paper):
    torch.manual_seed(0)
    x = torch.rand(1, 1, 5, 5).expand(200, 1, 5, 5)
    moved, element = paper("methods").moved(x, "D4")
    assert torch.equal(equifast.act(moved, element, group="D4", inverse=True), x)
    assert torch.equal(torch.bincount(element, minlength=8).ge(10), torch.ones(8, dtype=torch.bool))


@pytest.mark.parametrize("group", ["C4", "D4"])
def test_moved_images_change_nothing_for_exact_groups(paper, group):
    """The orbit of a moved image is that of the image, so the prior asks for the same member."""
    torch.manual_seed(0)
    methods = paper("methods")
    canonicalizer = methods.METHODS["moved"].canonicalizer(group)
    x = torch.rand(20, 1, 28, 28)
    moved, element = methods.moved(x, group)
    losses = [canonicalizer.eval()(x).prior_loss(), canonicalizer(moved).prior_loss(element)]
    torch.testing.assert_close(*losses)


def test_an_identity_metric_is_reached_where_it_stays(paper):
    points = {"seconds": [0.0, 1.0, 2.0, 3.0, 4.0], "identity": [0.2, 0.6, 0.5, 0.7, 0.9]}
    curve = {"contenders": {"ours": points}}
    reached = {level: paper("summary").seconds_to(curve, "ours", level) for level in (0.1, 0.5, 0.6, 0.8, 0.95)}
    assert reached == {0.1: 0.0, 0.5: 1.0, 0.6: 3.0, 0.8: 4.0, 0.95: None}


def test_contenders_of_a_curve_see_the_same_batches(paper, monkeypatch):
    curves, plan = paper("curves"), paper("plan")
    seen: dict[str, list] = {}

    class Watcher(torch.nn.Module):
        def __init__(self, package):
            super().__init__()
            self.package, self.weight = package, torch.nn.Parameter(torch.zeros(()))

        def loss(self, x):
            seen.setdefault(self.package, []).append(x.sum().item())
            return (self.weight - 1) ** 2

        def identity(self, x):
            assert not self.training
            return self.weight.detach()

    def missing(method, group):
        raise curves.published.Unavailable("not installed here")

    makers = {"equifast": lambda *_: Watcher("a"), "equiadapt": lambda *_: Watcher("b"), "third": missing}
    monkeypatch.setattr(curves, "PACKAGES", makers)
    found = curves.measure(plan.Curve("mnist", "C4", 0, 6), torch.rand(50, 1, 28, 28), torch.rand(5, 1, 28, 28))
    assert seen["a"] == seen["b"] and len(seen["a"]) == 2 * 6
    assert found["EquiAdapt, third"] == {"missing": "not installed here"}
    points = found["EquiOptAdapt, equifast"]
    assert points["steps"] == [0, 4, 6] and points["seconds"] == sorted(points["seconds"])
    assert points["identity"] == sorted(points["identity"]) and points["identity"][0] == 0
