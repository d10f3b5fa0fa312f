"""The gate: which images keep their orientation, what follows for images and gradients, and what it is measured by."""

import copy
import io

import pytest
import torch
from torch import nn
from torch.utils import _pytree

from equifast import act, as_group, canonicalize, gate_curve, orbit
from equifast.dtypes import accumulate_dtype
from equifast.estimators import ESTIMATORS, GATED
from equifast.nn import Canonicalizer

from .cases import DTYPES, assert_near, assert_same, rand

GROUPS = ["C1", "C4", "C8", "D2", "D4"]


def scored(group, dtype=torch.float32, batch=24):
    """Images and activations. Some are masked, some not finite; some tie, some with the identity."""
    order = as_group(group).order
    activations = rand(batch, order, dtype=dtype, seed=2)
    activations[0, 0] = -torch.inf if order > 1 else 0
    activations[1, -1], activations[2, -1] = torch.nan, torch.inf
    activations[3] = -torch.inf
    activations[4] = 1
    activations[5, -1] = -torch.inf if order > 1 else 0
    return rand(batch, 2, 6, 6, dtype=dtype), activations


@pytest.mark.parametrize("estimator", GATED)
@pytest.mark.parametrize("name", GROUPS)
def test_an_image_is_turned_if_the_best_beats_the_identity_by_the_margin(name, estimator):
    for dtype in DTYPES:
        x, activations = scored(name, dtype)
        free = canonicalize(x, group=name, activations=activations, estimator=estimator)
        for gate in (0, 0.05, 0.5, float("inf")):
            form = canonicalize(x, group=name, activations=activations, estimator=estimator, gate=gate)
            best = activations.gather(1, free.element[:, None]).squeeze(1)
            keeps = (free.element == 0) | (best - activations[:, 0] < gate)
            assert_same(form.element, free.element.masked_fill(keeps, 0))
            assert_same(form.image, act(x, form.element, group=name, inverse=True))
            assert_same(form.gated, keeps & (free.element > 0))
            assert_same(form.probabilities, free.probabilities)
            if as_group(name).order > 1:
                assert form.element[0] != 0  # the identity is masked
        assert (form.element[1:] == 0).all() and not free.gated.any()


@pytest.mark.parametrize("estimator", GATED)
def test_gradients_are_those_of_the_estimator_with_the_element_that_was_taken(estimator):
    x, activations = scored("D4", torch.float64)
    gate = 0.5
    free = canonicalize(x, group="D4", activations=activations, estimator=estimator)
    form = canonicalize(x, group="D4", activations=activations, estimator=estimator, gate=gate)
    held = form.gated
    assert held.any() and not held.all()
    leaf = x.clone().requires_grad_()
    grads = []
    for options in ({"gate": gate}, {}):
        out = canonicalize(leaf, group="D4", activations=activations, estimator="none", **options)
        grads.append(torch.autograd.grad(out.image.square().sum(), leaf)[0])
    assert_same(grads[0][~held], grads[1][~held])
    assert_near(grads[0][held], 2 * x[held])
    if estimator == "straight_through":
        # The choice of every image gets its gradient: a gate doesn't stop training.
        scores = activations.clone().requires_grad_()
        target = rand(*x.shape, seed=9)
        image = canonicalize(x, group="D4", activations=scores, estimator=estimator, gate=gate).image
        (grad,) = torch.autograd.grad((image * target).sum(), scores)
        finite = free.probabilities.isfinite().all(1)
        assert grad[finite & held].any(1).all() and not grad[~finite].any()


def test_a_larger_gate_leaves_more_images():
    x, activations = scored("C8", batch=64)
    before = torch.zeros(64, dtype=torch.bool)
    for gate in torch.linspace(0, 3, 13).tolist():
        held = canonicalize(x, group="C8", activations=activations, gate=gate).gated
        assert not (before & ~held).any()
        before = held
    assert before.sum() > 50


@pytest.mark.parametrize("name", ["C4", "D4"])
def test_images_that_pass_the_gate_in_two_orientations_get_one_canonical_image(name):
    torch.manual_seed(0)
    network = nn.Sequential(nn.Conv2d(2, 4, 3), nn.ReLU(), nn.Flatten(), nn.Linear(64, 5)).double()
    canonicalizer = Canonicalizer(network, name, vector_size=5, gate=0.1).double().eval()
    x = rand(32, 2, 6, 6, dtype=torch.float64)
    with torch.no_grad():
        form = canonicalizer(x)
        held = []
        for h in range(as_group(name).order):
            turned = canonicalizer(act(x, torch.full((32,), h), group=name))
            passes = ~(form.gated | turned.gated)
            assert_same(turned.image[passes], form.image[passes])
            held.append(turned.gated)
    assert torch.stack(held).any() and not torch.stack(held).all()


@pytest.mark.parametrize("name", ["C2", "C4", "D2", "D4"])
def test_the_curve_is_what_happens_to_turned_images(name):
    """Against canonicalizing every turned copy with every gate."""
    torch.manual_seed(0)
    group = as_group(name)
    scorer = nn.Sequential(nn.Conv2d(2, 4, 3), nn.ReLU(), nn.Flatten(), nn.Linear(64, 5)).double()
    model = nn.Sequential(nn.Flatten(), nn.Linear(72, 3)).double()
    canonicalizer = Canonicalizer(scorer, group, vector_size=5).double().eval()
    x, labels = rand(40, 2, 6, 6, dtype=torch.float64), torch.arange(40) % 3
    gates = [0, 0.02, 0.1, 0.5, 10]
    with torch.no_grad():
        form = canonicalizer(x)
        members = model(orbit(x, group)).argmax(1).unflatten(0, (group.order, 40)).t()
        upright, turned = gate_curve(form.activations, members == labels[:, None], gates, group=group)
        for gate, as_it_is, all_copies in zip(gates, upright, turned, strict=True):
            canonicalizer.gate = gate
            accuracies = []
            for h in range(group.order):
                image = canonicalizer(act(x, torch.full((40,), h), group=group)).image
                accuracies.append((model(image).argmax(1) == labels).double().mean())
            assert_near(as_it_is, accuracies[0])
            assert_near(all_copies, torch.stack(accuracies).mean())
    assert upright.unique().numel() > 1 and turned.unique().numel() > 1
    assert_near(upright[0], turned[0])  # without a gate all copies are alike
    assert_near(upright[-1], (model(x).argmax(1) == labels).double().mean())  # with a large one nothing is turned


def test_what_a_curve_is_not_made_of():
    activations, right = torch.zeros(3, 4), torch.ones(3, 4)
    for arguments, error, match in [
        ((torch.zeros(3, 8), right, [0]), ValueError, r"activations: expected \(N, 4\) for C4, got \(3, 8\)"),
        ((activations.long(), right, [0]), TypeError, "activations: expected float64"),
        ((activations, right[:, :2], [0]), ValueError, r"right: expected \(3, 4\) as activations, got \(3, 2\)"),
        ((activations, [1], [0]), TypeError, "right: expected a Tensor, got list"),
        ((activations, right, [-1]), ValueError, "gates: expected a sequence of numbers of at least 0"),
        ((activations, right, 1.0), ValueError, "gates: expected a sequence of numbers of at least 0, got 1.0"),
    ]:
        with pytest.raises(error, match=match):
            gate_curve(*arguments, group="C4")
    fell_back = torch.full((1, 4), torch.nan)
    upright, turned = gate_curve(fell_back, torch.tensor([[1.0, 0, 0, 0]]), [0.0], group="C4")
    assert (upright.item(), turned.item()) == (1, 0.25)  # each copy is left as it is


def test_margin_and_entropy():
    for dtype in DTYPES:
        x, activations = scored("C4", dtype)
        form = canonicalize(x, group="C4", activations=activations, gate=0.3)
        fell_back = torch.zeros(24, dtype=torch.bool)
        fell_back[1:4] = True
        assert_same(form.margin.isnan(), fell_back)
        assert_same(form.entropy.isnan(), fell_back)
        assert form.margin[0] == torch.inf and form.margin[4] == 0 and form.margin.dtype == dtype
        assert (form.margin[~fell_back] >= 0).all()
        p = form.probabilities[~fell_back].to(accumulate_dtype(dtype))
        # Narrow probabilities don't add up to 1, which `Categorical` would mend.
        expected = -(p * p.clamp(min=torch.finfo(p.dtype).tiny).log()).sum(1)
        assert_near(form.entropy[~fell_back], expected)
        assert_near(form.entropy[4].double(), torch.tensor(4.0).double().log(), scale=1e4)
    certain = canonicalize(x[:1], group="C4", activations=torch.tensor([[0, -torch.inf, -torch.inf, -torch.inf]]))
    assert certain.entropy.item() == 0


def test_forms_keep_their_gate_wherever_they_go():
    x, activations = scored("D2")
    form = canonicalize(x, group="D2", activations=activations, gate=0.25)
    leaves, spec = _pytree.tree_flatten(form)
    spec = _pytree.treespec_loads(_pytree.treespec_dumps(spec))
    file = io.BytesIO()
    torch.save(form, file)
    file.seek(0)
    for other in (spec.unflatten(leaves), torch.load(file, weights_only=True), copy.deepcopy(form)):
        assert other.gate == 0.25
        assert_same(other.gated, form.gated)


def test_compiled_and_exported():
    network = nn.Sequential(nn.Flatten(), nn.Linear(72, 5))
    canonicalizer = Canonicalizer(network, "C4", vector_size=5, gate=0.2).eval()
    x = rand(8, 2, 6, 6)
    torch._dynamo.reset()
    with torch.no_grad():
        expected = canonicalizer(x)
        for other in (
            torch.compile(canonicalizer, backend="aot_eager", fullgraph=True),
            torch.export.export(canonicalizer, (x,)).module(),
        ):
            assert_same(other(x).element, expected.element)
            assert_same(other(x).gated, expected.gated)
    assert "gate=0.2" in repr(canonicalizer) and "gate" not in repr(Canonicalizer(network, "C4", vector_size=5))


def test_wrong_gates():
    x, activations = scored("C4")
    for gate, error, match in [
        (-1, ValueError, "gate: expected at least 0, got -1"),
        (float("nan"), ValueError, "gate: expected at least 0, got nan"),
        (torch.tensor(1.0), TypeError, "gate: expected a number, got a Tensor"),
    ]:
        with pytest.raises(error, match=match):
            canonicalize(x, group="C4", activations=activations, gate=gate)
        with pytest.raises(error, match=match):
            Canonicalizer(nn.Flatten(), "C4", gate=gate)
    for estimator in ESTIMATORS.keys() - set(GATED):
        with pytest.raises(ValueError, match=f"gate: expected None with estimator '{estimator}'"):
            canonicalize(x, group="C4", activations=activations, estimator=estimator, gate=1)
