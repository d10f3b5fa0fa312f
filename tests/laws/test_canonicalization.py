"""The laws of canonicalization (docs: what is promised), over every group and every element that is exact."""

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from equifast import act, as_group, canonicalize, orbit, orbit_conv2d

from ..cases import GROUPS, assert_near_overall, assert_same, exact_elements, on_rows, rand

SHAPES = [(12, 12), (9, 9), (8, 11)]
MODES = ["train", "eval"]
LOWER = [torch.float32, torch.bfloat16]
REFERENCE = rand(6, seed=5)


def network_for(shape, dtype, mode):
    """Convolutions, normalization and a linear layer: no two members of an orbit look alike to it."""
    torch.manual_seed(0)
    features = 5 * (shape[0] - 2) * (shape[1] - 2)
    layers = nn.Conv2d(2, 5, 3), nn.BatchNorm2d(5), nn.GELU(), nn.Flatten(), nn.Linear(features, 6)
    return nn.Sequential(*layers).to(dtype).train(mode == "train")


def move(x, element, group, representation="trivial"):
    return act(x, torch.full((x.shape[0],), element), group=group, representation=representation)


def canonical(x, network, group):
    return canonicalize(x, network, REFERENCE.to(x.dtype), group=group, beta=4.0)


@pytest.mark.parametrize("dtype", LOWER, ids=str)
@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("shape", SHAPES, ids=str)
@pytest.mark.parametrize("group", GROUPS, ids=str)
def test_canonical_images_are_invariant_and_elements_follow(group, shape, mode, dtype):
    """canonicalize(h·x).image = canonicalize(x).image bit for bit, fused or not, and h·x chooses h·c(x)."""
    x, network = rand(4, 2, *shape, dtype=dtype), network_for(shape, dtype, mode)
    for model in (network, on_rows(network)):
        form = canonical(x, model, group)
        assert group.order == 1 or form.activations.std(1).amin() > 1e-3, "the network sees no difference"
        for h in exact_elements(group, shape):
            moved = canonical(move(x, h, group), model, group)
            assert moved.element.tolist() == [group.compose(h, e) for e in form.element.tolist()]
            assert_same(moved.image, form.image)


def symmetric(x, group):
    """Images (…, n, n) that every exact element of the group leaves as they are, to the last bit."""
    if as_group(group).reflections:
        x = x + x.flip(-1)
    # Opposite terms first: a quarter turn swaps the two sums, and addition commutes exactly.
    return (x + x.rot90(2, (2, 3))) + (x.rot90(1, (2, 3)) + x.rot90(3, (2, 3)))


@pytest.mark.parametrize("name", ["C4", "D4", "C8", "D8"])
def test_canonical_images_are_invariant_unless_the_form_says_that_it_is_a_tie(name):
    """Scores of few values tie often. Symmetric images always tie, and have the same canonical image all the same."""
    x, network = rand(40, 2, 9, 9), network_for((9, 9), torch.float32, "eval")
    x[30:] = symmetric(x[30:], name)

    def canonical(x):
        return canonicalize(x, network, None, group=name, score=lambda v: (2 * v.sum(1)).round())

    form = canonical(x)
    settled = ~form.tied
    assert settled.any() and form.tied[:30].any() and form.tied[30:].all()
    differ = torch.zeros_like(settled)
    for h in exact_elements(name, (9, 9)):
        moved = canonical(move(x, h, name))
        assert torch.equal(moved.tied, form.tied)
        assert_same(moved.image[settled], form.image[settled])
        assert_same(moved.image[30:], form.image[30:])
        differ |= (moved.image != form.image).flatten(1).any(1)
    assert differ.any()  # or no tie mattered


@pytest.mark.parametrize("dtype", LOWER, ids=str)
@pytest.mark.parametrize("shape", SHAPES, ids=str)
@pytest.mark.parametrize("group", GROUPS, ids=str)
def test_the_canonical_image_is_the_orbit_member_and_inverts_to_the_input(group, shape, dtype):
    x, network = rand(4, 2, *shape, dtype=dtype), network_for(shape, dtype, "eval")
    form = canonical(x, network, group)
    members = orbit(x, group).unflatten(0, (group.order, 4))
    assert_same(form.image, members[form.element, torch.arange(4)])
    exact = torch.isin(form.element, torch.tensor(exact_elements(group, shape)))
    assert_same(form.invert(form.image)[exact], x[exact])


@pytest.mark.parametrize("representation", ["trivial", "regular", "vector"])
@pytest.mark.parametrize("shape", SHAPES, ids=str)
@pytest.mark.parametrize("group", GROUPS, ids=str)
def test_any_network_becomes_equivariant(group, shape, representation):
    """Φ(x) = c(x)·φ(c(x)⁻¹·x) has Φ(h·x) = h·Φ(x), in whatever way its outputs transform."""
    x, scorer = rand(3, 2, *shape), network_for(shape, torch.float32, "eval")
    weight = rand(2 * group.order, 2, 3, 3, seed=1)

    def equivariant(x):
        form = canonical(x, scorer, group)
        return form.invert(F.conv2d(form.image, weight, padding=1).relu(), representation)

    out = equivariant(x)
    for h in exact_elements(group, shape):
        expected = move(out, h, group, representation)
        if representation == "vector":
            assert_near_overall(equivariant(move(x, h, group)), expected)
        else:
            assert_same(equivariant(move(x, h, group)), expected)


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("group", GROUPS, ids=str)
def test_orbit_conv2d_and_fused_networks_are_the_unfused_ones(group, mode):
    x, network = rand(3, 2, 9, 9), network_for((9, 9), torch.float32, mode)
    conv = network[0]
    assert_near_overall(orbit_conv2d(x, conv.weight, conv.bias, group=group), conv(orbit(x, group)))
    plain, fused = (canonical(x, model, group) for model in (on_rows(network), network))
    assert_near_overall(fused.vectors, plain.vectors, scale=4)
    assert_same(fused.image, plain.image)
