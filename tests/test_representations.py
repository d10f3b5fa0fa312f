"""Representations: homomorphisms, their transposes, and what they mean."""

import pytest
import torch

from equifast import act, as_group
from equifast.representations import SIZES, channel_action, transpose

from .cases import GROUPS, assert_near, assert_same, every, rand


def matrices(group, representation, *, inverse=False):
    """ρ of every element as (E, size, size), from the tables that kernels read."""
    permutation, mixing = channel_action(group, representation, inverse=inverse)
    if permutation:
        rows = torch.tensor(permutation).view(group.order, -1)
        return torch.eye(rows.shape[1], dtype=torch.float64)[rows]
    if mixing:
        return torch.tensor(mixing, dtype=torch.float64).view(group.order, 2, 2)
    return torch.ones(group.order, 1, 1, dtype=torch.float64)


@pytest.mark.parametrize("representation", SIZES)
@pytest.mark.parametrize("group", GROUPS, ids=str)
def test_channel_actions_are_orthogonal_homomorphisms(group, representation):
    rho = matrices(group, representation)
    size = SIZES[representation](group.order)
    assert rho.shape == (group.order, size, size)
    products = torch.tensor([[group.compose(g, h) for h in range(group.order)] for g in range(group.order)])
    assert_near(rho[:, None] @ rho[None], rho[products])
    assert_near(rho.mT @ rho, torch.eye(size, dtype=torch.float64).expand_as(rho))
    assert_same(matrices(group, representation, inverse=True), rho[[group.inverse(g) for g in range(group.order)]])


@pytest.mark.parametrize("representation", SIZES)
@pytest.mark.parametrize("group", GROUPS, ids=str)
def test_transpose_is_the_inverse(group, representation):
    permutation, mixing = channel_action(group, representation, inverse=False)
    inverse = channel_action(group, representation, inverse=True)
    transposed = transpose(permutation, mixing, group.order)
    assert tuple(transposed[0]) == inverse[0]
    assert tuple(transposed[1]) == pytest.approx(inverse[1], abs=1e-15)


@pytest.mark.parametrize("group", GROUPS, ids=str)
def test_regular_representation_moves_deltas_along_the_group(group):
    # Column h of ρ(g) is ρ(g)δ_h = δ_gh.
    for g, rho in enumerate(matrices(group, "regular")):
        assert rho.argmax(0).tolist() == [group.compose(g, h) for h in range(group.order)]


@pytest.mark.parametrize("representation", SIZES)
@pytest.mark.parametrize("group", GROUPS, ids=str)
def test_act_on_one_pixel_is_the_channel_action_alone(group, representation):
    blocks = rand(group.order, 3, SIZES[representation](group.order), dtype=torch.float64)
    x = blocks.flatten(1)[..., None, None]
    for inverse in (False, True):
        rho = matrices(group, representation, inverse=inverse)
        out = act(x, every(group), group=group, inverse=inverse, representation=representation)
        assert_near(out.view_as(blocks), torch.einsum("eij,ekj->eki", rho, blocks))


def position_field(height, width):
    """v(p) = p about the centre, (1, 2, H, W): the one vector field that every element leaves as it is."""
    y = torch.arange(height, dtype=torch.float64) - (height - 1) / 2
    x = torch.arange(width, dtype=torch.float64) - (width - 1) / 2
    return torch.stack((x.expand(height, width), y[:, None].expand(height, width)))[None]


@pytest.mark.parametrize("shape", [(15, 15), (16, 16), (13, 18)])
@pytest.mark.parametrize("group", GROUPS, ids=str)
def test_vectors_turn_with_the_pixels_that_carry_them(group, shape):
    field = position_field(*shape)
    inside = field.square().sum(1)[0].sqrt() <= (min(shape) - 1) / 2 - 0.01
    assert inside.sum() > 100
    # Bilinear interpolation reproduces linear fields but for the rounding of positions to 2⁻²⁴ pixel.
    everywhere = field.expand(group.order, 2, *shape)
    moved = act(everywhere, every(group), group=group, representation="vector")
    torch.testing.assert_close(moved[..., inside], everywhere[..., inside], rtol=0, atol=2e-7)
    # And a scalar field f(p) = n·p becomes n·(g⁻¹p).
    normal = torch.tensor([2.0, 3.0], dtype=torch.float64)
    matrices = [group.matrix(group.inverse(g)) for g in range(group.order)]
    backward = torch.tensor(matrices, dtype=torch.float64).view(-1, 2, 2)
    moved = act(torch.einsum("i,eihw->ehw", normal, everywhere)[:, None], every(group), group=group)
    expected = torch.einsum("i,eij,jhw->ehw", normal, backward, field[0])[:, None]
    torch.testing.assert_close(moved[..., inside], expected[..., inside], rtol=0, atol=1e-6)


def test_a_quarter_turn_takes_right_to_up_and_a_flip_takes_right_to_left():
    right = torch.tensor([1.0, 0.0]).view(1, 2, 1, 1)
    up, left = torch.tensor([0.0, -1.0]), torch.tensor([-1.0, 0.0])
    assert_same(act(right, torch.tensor([1]), group="D4", representation="vector").flatten(), up)
    assert_same(act(right, torch.tensor([4]), group="D4", representation="vector").flatten(), left)


def test_an_unknown_representation_names_the_choices():
    with pytest.raises(ValueError, match="representation: expected one of trivial, regular, vector, got 'spin'"):
        channel_action(as_group("C4"), "spin", inverse=False)
