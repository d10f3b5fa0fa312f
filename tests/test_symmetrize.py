"""Averages over the best members: the definition, its two ends, invariance, gradients, and what can't choose."""

import copy

import pytest
import torch
import torch.nn.functional as F
from torch import nn

import equifast
from equifast import act, as_group, canonicalize, orbit, orbit_average, reference, symmetrize
from equifast.averaging import REPRESENTATIONS, WEIGHTS
from equifast.dtypes import accumulate_dtype
from equifast.nn import Canonicalizer, Symmetrized

from .cases import DTYPES, assert_near, assert_near_overall, assert_same, rand

GROUPS = ["C1", "C4", "C6", "D2", "D4"]


class Model(nn.Module):
    """Logits (N, 3), or maps (N, C', H, W) whose channels suit the representation."""

    def __init__(self, representation, group):
        super().__init__()
        channels = {"regular": as_group(group).order, "vector": 4}.get(representation, 3)
        torch.manual_seed(0)
        self.conv = nn.Conv2d(2, channels, 3, padding=1)
        self.is_invariant = representation == "invariant"

    def forward(self, x):
        y = self.conv(x).tanh()
        return y.mean((2, 3)) if self.is_invariant else y


def made(group, representation="invariant", dtype=torch.float64, batch=3):
    """A model, images, and activations that are no whole numbers apart."""
    group = as_group(group)
    x = rand(batch, 2, 6, 6, dtype=dtype)
    return group, Model(representation, group).to(dtype), x, 3 * rand(batch, group.order, dtype=dtype, seed=5)


def form_of(x, activations, group, **options):
    return canonicalize(x, group=group, activations=activations, **options)


@pytest.mark.parametrize("weights", WEIGHTS)
@pytest.mark.parametrize("representation", REPRESENTATIONS)
@pytest.mark.parametrize("name", GROUPS)
def test_any_number_of_members_is_the_definition(name, representation, weights):
    for dtype in DTYPES:
        group, model, x, activations = made(name, representation, dtype)
        activations[0, -1] = -torch.inf if group.order > 1 else 0  # masked
        activations[1, 0] = torch.nan  # falls back to the identity
        form = form_of(x, activations, group)
        wide = accumulate_dtype(dtype)
        exact = copy.deepcopy(model).to(wide)
        for k in {1, min(2, group.order), max(group.order - 1, 1), group.order}:
            options = {"top_k": k, "weights": weights, "representation": representation}
            with torch.no_grad():
                actual = form.average(model, x, **options)
                scores = (form.activations.to(wide), form.probabilities.to(wide))
                expected = reference.average(exact, x.to(wide), *scores, group=group, **options)
            assert actual.dtype == dtype
            assert_near_overall(actual, expected, scale=4)


@pytest.mark.parametrize("representation", REPRESENTATIONS)
@pytest.mark.parametrize("name", GROUPS)
def test_one_member_is_canonicalization_with_its_gradient(name, representation):
    group, model, x, activations = made(name, representation, torch.float32)
    leaves = [x.requires_grad_(), activations.requires_grad_(), *model.parameters()]
    form = form_of(x, activations, group)
    y = model(form.image)
    expected = y if representation == "invariant" else form.invert(y, representation)
    for weights in WEIGHTS:
        actual = form.average(model, x, top_k=1, weights=weights, representation=representation)
        assert_same(actual, expected)
        upstream = rand(*actual.shape, seed=3)
        grads = (torch.autograd.grad(out, leaves, upstream, retain_graph=True) for out in (actual, expected))
        for a, b in zip(*grads, strict=True):
            assert_same(a, b)


@pytest.mark.parametrize("representation", REPRESENTATIONS)
@pytest.mark.parametrize("name", GROUPS)
def test_all_members_alike_are_the_average_over_the_group(name, representation):
    group, model, x, activations = made(name, representation, torch.float32)
    order = group.order
    y = model(orbit(x, group))
    if representation == "invariant":
        members = y.unflatten(0, (order, 3)) * (1 / order)
        expected = members[0]
        for member in members[1:]:
            expected = expected + member
        assert_near(expected, y.unflatten(0, (order, 3)).mean(0))
    else:
        expected = orbit_average(y, torch.full((3, order), 1 / order), group=group, representation=representation)
    assert_near(symmetrize(model, group, representation=representation)(x), expected)
    alike = {"weights": "equal", "representation": representation}
    assert_near(form_of(x, activations, group).average(model, x, **alike), expected)


@pytest.mark.parametrize("k", [2, 3, None])
@pytest.mark.parametrize("representation", REPRESENTATIONS)
@pytest.mark.parametrize("name", ["C4", "D2", "D4"])
def test_turned_images_give_turned_averages(name, representation, k):
    group, model, x, _ = made(name, representation)
    scorer = nn.Sequential(nn.Conv2d(2, 4, 3), nn.ReLU(), nn.Flatten(), nn.Linear(64, 5)).double()
    canonicalizer = Canonicalizer(scorer, group, vector_size=5).double()
    models = [symmetrize(model, group, canonicalizer=canonicalizer, top_k=k, representation=representation)]
    if k is None:
        models.append(symmetrize(model, group, representation=representation))
    for symmetrized in models:
        with torch.no_grad():
            expected = symmetrized(x)
            for h in range(group.order):
                ids = torch.full((3,), h)
                actual = symmetrized(act(x, ids, group=group))
                turned = expected
                if representation != "invariant":
                    turned = act(expected, ids, group=group, representation=representation)
                assert_near(actual, turned)


@pytest.mark.parametrize("representation", ["invariant", "vector"])
@pytest.mark.parametrize("k", [2, 4])
def test_gradients(representation, k):
    group, model, x, activations = made("C4", representation, batch=2)
    names = [name for name, _ in model.named_parameters()]

    def run(x, activations, *parameters):
        def called(rows):
            return torch.func.functional_call(model, dict(zip(names, parameters, strict=True)), (rows,))

        form = form_of(x, activations, group, estimator="none")
        return form.average(called, x, top_k=k, representation=representation)

    leaves = [t.detach().requires_grad_() for t in (x, activations, *model.parameters())]
    assert torch.autograd.gradcheck(run, leaves)


def test_the_average_is_continuous_where_the_choice_jumps():
    """Two members that change places have the same weight there, so nothing jumps; the canonical image does."""
    group, model, x, _ = made("C4", batch=1)
    results = {}
    for k in (1, 2):
        sides = [
            form_of(x, torch.tensor([[1.0, 1.0 + d, -9, -9]], dtype=torch.float64), group).average(model, x, top_k=k)
            for d in (-1e-9, 1e-9)
        ]
        results[k] = (sides[0] - sides[1]).abs().max().item()
    assert results[2] < 1e-8 < 1e-3 < results[1]


def test_it_trains_the_canonicalizer_through_the_weights():
    group, model, x, _ = made("C4")
    scorer = nn.Sequential(nn.Flatten(), nn.Linear(72, 5)).double()
    canonicalizer = Canonicalizer(scorer, group, vector_size=5, estimator="none").double()
    symmetrized = symmetrize(model, group, canonicalizer=canonicalizer, top_k=2)
    symmetrized(x).square().sum().backward()
    assert scorer[1].weight.grad.any() and canonicalizer.reference.grad.any() and model.conv.weight.grad.any()
    assert {name.partition(".")[0] for name in symmetrized.state_dict()} == {"model", "canonicalizer"}


def test_a_first_convolution_makes_the_orbit_of_all_members():
    """The rows of the orbit are never in memory, as in `canonicalize`."""
    seen = []

    class Seeing(Model):
        def forward(self, x):
            seen.append(type(x).__name__)
            return super().forward(x)

    group, _, x, _ = made("C4")
    model = Seeing("invariant", group).double()
    symmetrize(model, group)(x)
    assert seen == ["LazyOrbit"]


@pytest.mark.parametrize("top_k", [2, None])
def test_compiled(top_k):
    group, model, x, _ = made("C4", "trivial", torch.float32)
    scorer = nn.Sequential(nn.Flatten(), nn.Linear(72, 5))
    canonicalizer = Canonicalizer(scorer, group, vector_size=5)
    symmetrized = symmetrize(model, group, canonicalizer=canonicalizer, top_k=top_k, representation="trivial")
    torch._dynamo.reset()
    assert_near(torch.compile(symmetrized, backend="aot_eager", fullgraph=True)(x), symmetrized(x))


def test_no_images():
    group, model, x, activations = made("D4", "trivial", torch.float32, batch=0)
    form = form_of(x, activations, group)
    for k in (1, 2, None):
        assert form.average(model, x, top_k=k, representation="trivial").shape == (0, 3, 6, 6)
    assert symmetrize(model, group, representation="trivial")(x).shape == (0, 3, 6, 6)


def test_wrong_options():
    group, model, x, activations = made("C4")
    form = form_of(x, activations, group)
    for options, error, match in [
        ({"top_k": 0}, ValueError, "top_k: expected 1 to 4 members for C4, got 0"),
        ({"top_k": 5}, ValueError, "top_k: expected 1 to 4 members for C4, got 5"),
        ({"top_k": 2.0}, TypeError, "top_k: expected an int or None, got float"),
        ({"weights": "best"}, ValueError, "weights: expected one of probabilities, equal, got 'best'"),
        ({"representation": "scalar"}, ValueError, "representation: expected one of invariant, trivial"),
    ]:
        with pytest.raises(error, match=match):
            form.average(model, x, **options)
        if "weights" not in options:
            with pytest.raises(error, match=match):
                symmetrize(model, group, **options)
    with pytest.raises(ValueError, match=r"x: expected the images of this form, \(3, 2, 6, 6\), got \(2, 2, 6, 6\)"):
        form.average(model, x[:2])
    with pytest.raises(ValueError, match="canonicalizer: needed to tell the best members"):
        symmetrize(model, group, top_k=2)
    with pytest.raises(ValueError, match="canonicalizer: needed to tell the best members"):
        symmetrize(model, group, weights="probabilities")
    with pytest.raises(ValueError, match="canonicalizer: expected one for C4, got one for D4"):
        symmetrize(model, "C4", canonicalizer=Canonicalizer(model, "D4"))
    with pytest.raises(TypeError, match="model: expected a callable, got int"):
        symmetrize(3, "C4")


@pytest.mark.parametrize("k", [2, 4])
def test_models_that_return_something_else(k):
    group, _, x, activations = made("C4")
    form = form_of(x, activations, group)
    with pytest.raises(TypeError, match=r"model\(members\): expected a Tensor, got dict"):
        form.average(lambda rows: {"logits": rows}, x, top_k=k)
    with pytest.raises(
        ValueError, match=rf"model\(members\): expected {3 * k} rows, one for each member, got \(1, 3\)"
    ):
        form.average(lambda rows: torch.zeros(1, 3), x, top_k=k)
    with pytest.raises(ValueError, match=r"model\(members\): expected \(B, C, H, W\)"):
        form.average(lambda rows: torch.zeros(len(rows), 3), x, top_k=k, representation="trivial")
    with pytest.raises(ValueError, match="divisible by E = 4 for 'regular'"):
        form.average(lambda rows: rows[:, :1].clone(), x, top_k=k, representation="regular")


def test_names():
    assert equifast.symmetrize is equifast.nn.symmetrize and isinstance(symmetrize(F.relu, "C2"), Symmetrized)
