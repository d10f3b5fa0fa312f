"""orbit_average and orbit_inner: sums over the group, against the reference and against each other."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from equifast import act, orbit, orbit_average, reference
from equifast.representations import SIZES as REPRESENTATIONS
from equifast.representations import channel_action

from .cases import DTYPES, GROUPS, KINDS, LAYOUTS, assert_near, assert_same, problems, rand


@given(problems(), st.sampled_from(list(REPRESENTATIONS)), st.booleans())
@settings(max_examples=200)
def test_orbit_average_is_the_reference(problem, representation, wide_weights):
    y = problem.images(representation, members=True)
    wide_weights = wide_weights and problem.dtype != torch.float64
    weights = rand(problem.batch, problem.group.order, dtype=torch.float32 if wide_weights else problem.dtype)
    options = {
        "group": problem.group,
        "representation": representation,
        "padding_mode": problem.padding_mode,
    }
    out = orbit_average(y, weights, **options)
    assert out.dtype == y.dtype
    assert_near(out, reference.orbit_average(y, weights, **options))


@pytest.mark.parametrize("representation", REPRESENTATIONS)
@pytest.mark.parametrize("group", GROUPS, ids=str)
def test_one_weight_takes_one_member(group, representation):
    for dtype in DTYPES:
        members = rand(group.order, 2, REPRESENTATIONS[representation](group.order), 9, 9, dtype=dtype)
        options = {"group": group, "representation": representation}
        for e in range(group.order):
            weights = torch.zeros(2, group.order)
            weights[:, e] = 1
            out = orbit_average(members.flatten(0, 1), weights.to(dtype), **options)
            assert_same(out, act(members[e], torch.full((2,), e), **options))


@pytest.mark.parametrize("group", [g for g in GROUPS if g.name in ("C1", "C2", "C4", "D1", "D2", "D4")], ids=str)
def test_the_mean_over_the_orbit_of_an_image_is_the_image(group):
    x = rand(3, 2, 11, 11)
    weights = torch.full((3, group.order), 1 / group.order)
    assert_near(orbit_average(orbit(x, group), weights, group=group), x)


@pytest.mark.parametrize("representation", REPRESENTATIONS)
@pytest.mark.parametrize("group", [g for g in GROUPS if g.name in ("C1", "C2", "C4", "D1", "D2", "D4")], ids=str)
def test_symmetrizing_any_map_makes_it_equivariant(group, representation):
    """Σ_e g_e·φ(g_e⁻¹·x)/E of an arbitrary φ commutes with the group."""
    channels = REPRESENTATIONS[representation](group.order)
    weight = rand(channels, 2, 3, 3, dtype=torch.float64)

    def symmetrized(x):
        y = torch.nn.functional.conv2d(orbit(x, group), weight, padding=1).tanh()
        weights = torch.full((x.shape[0], group.order), 1 / group.order, dtype=torch.float64)
        return orbit_average(y, weights, group=group, representation=representation)

    x = rand(1, 2, 8, 8, dtype=torch.float64).expand(group.order, -1, -1, -1)
    element = torch.arange(group.order)
    moved = act(symmetrized(x), element, group=group, representation=representation)
    assert_near(symmetrized(act(x, element, group=group)), moved)


@pytest.mark.parametrize("group", KINDS, ids=str)
def test_a_sample_depends_on_no_other_sample(group):
    y, weights = rand(group.order, 9, 6, 20, 20), rand(9, group.order)
    together = orbit_average(y.flatten(0, 1), weights, group=group)
    for b, c in ((0, 0), (5, 2), (8, 5)):
        alone = orbit_average(y[:, b, c : c + 1], weights[b : b + 1], group=group)
        assert_same(together[b : b + 1, c : c + 1], alone)


@pytest.mark.parametrize("layout", LAYOUTS)
def test_any_layout(layout):
    for group in KINDS:
        for dtype in DTYPES:
            y = LAYOUTS[layout](rand(group.order * 3, 2, 17, 17, dtype=dtype))
            weights = rand(group.order, 3, dtype=dtype).t()
            expected = orbit_average(y.clone(memory_format=torch.contiguous_format), weights.clone(), group=group)
            assert_same(orbit_average(y, weights, group=group), expected)


@pytest.mark.parametrize("group", KINDS, ids=str)
def test_no_images(group):
    out = orbit_average(rand(0, 3, 4, 5), rand(0, group.order), group=group)
    assert out.shape == (0, 3, 4, 5)


def inner(u, v, group, representation="trivial", padding_mode="border"):
    """orbit_inner as autograd calls it: ⟨ρ(g_e⁻¹)·u_e, v_e⟩, (B, E); u or v may be shared by all members."""
    table = list(group.action_table(inverse=True))
    channels = map(list, channel_action(group, representation, inverse=True))
    return torch.ops.equifast.orbit_inner(u, v, table, *channels, padding_mode)


@pytest.mark.parametrize("layout", ["contiguous", "channels_last", "cropped", "one_image", "one_row"])
@pytest.mark.parametrize("representation", REPRESENTATIONS)
@pytest.mark.parametrize("group", KINDS, ids=str)
def test_orbit_inner_is_its_definition(group, representation, layout):
    for i, dtype in enumerate(DTYPES):
        h, w, padding_mode = ((19, 19, "border"), (9, 33, "zeros"))[i % 2]
        c = REPRESENTATIONS[representation](group.order)
        one = LAYOUTS[layout](rand(3, c, h, w, dtype=dtype))
        each = LAYOUTS[layout](rand(group.order * 3, c, h, w, dtype=dtype, seed=1)).unflatten(0, (group.order, 3))
        for u, v in ((one, one), (one, each), (each, one)):
            members = u if u.dim() == 5 else u.expand(group.order, *u.shape)
            moved = torch.stack(
                [
                    reference.act(
                        member.double(),
                        torch.full((3,), e),
                        group=group,
                        inverse=True,
                        representation=representation,
                        padding_mode=padding_mode,
                    )
                    for e, member in enumerate(members)
                ]
            )
            expected = (moved * v).flatten(2).sum(2).t()
            out = inner(u, v, group, representation, padding_mode)
            assert out.dtype == (torch.float64 if dtype == torch.float64 else torch.float32)
            assert_near(out, expected, scale=10)


@pytest.mark.parametrize("group", KINDS, ids=str)
def test_orbit_inner_does_not_depend_on_the_batch(group):
    u, v = rand(9, 6, 20, 20), rand(9, 6, 20, 20, seed=1)
    together = inner(u, v, group)
    for b in (0, 4, 8):
        assert_same(together[b : b + 1], inner(u[b : b + 1], v[b : b + 1], group))
    assert inner(u[:0], v[:0], group).shape == (0, group.order)
