"""orbit_average: a weighted sum over the group, against the reference and against `act`."""

import pytest
import torch
from hypothesis import strategies as st

from equifast import act, as_group, orbit, orbit_average, reference
from equifast.representations import SIZES
from equifast.transform_set import as_transforms

from ..backend import by_backend, only, over
from ..cases import (
    DTYPES,
    GROUPS,
    KINDS,
    LARGE,
    LAYOUTS,
    PADDING_MODES,
    SETS,
    TRANSPOSES,
    action,
    assert_near,
    assert_same,
    assert_same_in_channels_last,
    few_problems,
    of_many_channels,
    problems,
    rand,
)
from ..definitions import call, eager

REPRESENTATIONS = list(SIZES)
FEW = [
    (problem, REPRESENTATIONS[i % 3], i % 2 == 0)
    for i, problem in enumerate(few_problems(by_backend(9, 9, interpreter=4)))
]

#: Groups whose elements are all exact on a square.
EXACT_GROUPS = list(map(as_group, by_backend(("C1", "C2", "C4", "D1", "D2", "D4"), ("C4", "D2"))))


@over(200, FEW, problem=problems(), representation=st.sampled_from(REPRESENTATIONS), wide_weights=st.booleans())
def test_orbit_average_is_the_reference(problem, representation, wide_weights):
    y = problem.images(representation, members=True)
    wide_weights = wide_weights and problem.dtype != torch.float64
    weights = rand(problem.batch, problem.group.order, dtype=torch.float32 if wide_weights else problem.dtype)
    options = {"group": problem.group, "representation": representation, "padding_mode": problem.padding_mode}
    out = orbit_average(y, weights, **options)
    assert out.dtype == y.dtype
    assert_near(out, reference.orbit_average(y, weights, **options))


@pytest.mark.parametrize("representation", ["trivial", "vector"])
@pytest.mark.parametrize("transforms", SETS[1:], ids=map(str, range(1, len(SETS))))
def test_any_maps(transforms, representation):
    for i, shape in enumerate(by_backend([(9, 9), (12, 7), (1, 5), (33, 20)], [(5, 5), (3, 6)])):
        y = rand(2 * transforms.order, 2, *shape, dtype=DTYPES[(i + 1) % 4])
        weights, options = rand(2, transforms.order, dtype=y.dtype, seed=1), {"padding_mode": PADDING_MODES[i % 2]}
        options |= {"group": transforms, "representation": representation}
        # A vector grows as its image does, by up to 8.
        assert_near(orbit_average(y, weights, **options), reference.orbit_average(y, weights, **options), scale=16)


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("representation", REPRESENTATIONS)
@pytest.mark.parametrize("group", ["C4", "C5"])
def test_every_dtype_and_representation(group, representation, dtype):
    order = as_group(group).order
    y = rand(order * 2, SIZES[representation](order), 5, 6 if representation == "vector" else 5, dtype=dtype)
    weights = rand(2, order, dtype=dtype, seed=1)
    options = {"group": group, "representation": representation}
    assert_near(orbit_average(y, weights, **options), reference.orbit_average(y, weights, **options), scale=2)


@pytest.mark.parametrize("representation", REPRESENTATIONS)
@pytest.mark.parametrize("group", by_backend(GROUPS, [as_group("D3")]), ids=str)
def test_one_weight_takes_one_member(group, representation):
    side = by_backend(9, 5)
    for dtype in by_backend(DTYPES, [torch.float32]):
        members = rand(group.order, 2, SIZES[representation](group.order), side, side, dtype=dtype)
        options = {"group": group, "representation": representation}
        for e in range(group.order):
            weights = torch.zeros(2, group.order)
            weights[:, e] = 1
            out = orbit_average(members.flatten(0, 1), weights.to(dtype), **options)
            assert_same(out, act(members[e], torch.full((2,), e), **options))


@pytest.mark.parametrize("group", EXACT_GROUPS, ids=str)
def test_the_mean_over_the_orbit_of_an_image_is_the_image(group):
    x = rand(3, 2, 11, 11)
    weights = torch.full((3, group.order), 1 / group.order)
    assert_near(orbit_average(orbit(x, group), weights, group=group), x)


@pytest.mark.parametrize("representation", REPRESENTATIONS)
@pytest.mark.parametrize("group", EXACT_GROUPS, ids=str)
def test_symmetrizing_any_map_makes_it_equivariant(group, representation):
    """Σ_e g_e·φ(g_e⁻¹·x)/E of an arbitrary φ commutes with the group."""
    channels = SIZES[representation](group.order)
    weight = rand(channels, 2, 3, 3, dtype=torch.float64)

    def symmetrized(x):
        y = torch.nn.functional.conv2d(orbit(x, group), weight, padding=1).tanh()
        weights = torch.full((x.shape[0], group.order), 1 / group.order, dtype=torch.float64)
        return orbit_average(y, weights, group=group, representation=representation)

    x = rand(1, 2, 8, 8, dtype=torch.float64).expand(group.order, -1, -1, -1)
    element = torch.arange(group.order)
    moved = act(symmetrized(x), element, group=group, representation=representation)
    assert_near(symmetrized(act(x, element, group=group)), moved)


@pytest.mark.parametrize("group", by_backend(KINDS, [as_group("C8")]), ids=str)
def test_a_sample_depends_on_no_other_sample(group):
    side = by_backend(20, 6)
    y, weights = rand(group.order, 9, 6, side, side), rand(9, group.order)
    together = orbit_average(y.flatten(0, 1), weights, group=group)
    for b, c in ((0, 0), (5, 2), (8, 5)):
        alone = orbit_average(y[:, b, c : c + 1], weights[b : b + 1], group=group)
        assert_same(together[b : b + 1, c : c + 1], alone)


@pytest.mark.parametrize("layout", LAYOUTS)
def test_any_layout(layout):
    side = by_backend(17, 5)
    for group in by_backend(KINDS, [as_group("D3")]):
        for dtype in by_backend(DTYPES, [torch.float32]):
            y = LAYOUTS[layout](rand(group.order * 3, 2, side, side, dtype=dtype))
            weights = rand(group.order, 3, dtype=dtype).t()
            expected = orbit_average(y.clone(memory_format=torch.contiguous_format), weights.clone(), group=group)
            assert_same(orbit_average(y, weights, group=group), expected)


@pytest.mark.sanitized
@pytest.mark.parametrize("adjoint", [False, True])
@pytest.mark.parametrize("representation", REPRESENTATIONS)
def test_channels_last_is_kept(representation, adjoint):
    """Where all elements share the images, and where each has its own."""
    for i, (x, group, padding_mode) in enumerate(of_many_channels(representation)):
        wide = torch.float64 if x.dtype == torch.float64 else torch.float32
        weights = rand(2, group.order, dtype=wide) if i % 3 else None
        args = weights, *action(group, representation, padding_mode, adjoint)
        y = rand(group.order, *x.shape, dtype=x.dtype) if i % 2 else x
        assert_same_in_channels_last(lambda y, args=args: call("orbit_average", y, *args)[0], y)


@pytest.mark.sanitized
@pytest.mark.parametrize("group", by_backend(KINDS, [as_group("C4"), as_group("C8")]), ids=str)
def test_no_images(group):
    out = orbit_average(rand(0, 3, 4, 5), rand(0, group.order), group=group)
    assert out.shape == (0, 3, 4, 5)
    assert call("orbit_average", rand(group.order, 0, 3, 5, 5), None, *action(group))[0].shape == (0, 3, 5, 5)


@pytest.mark.sanitized
@pytest.mark.parametrize("padding_mode", PADDING_MODES)
@pytest.mark.parametrize(("group", "shape"), TRANSPOSES)
def test_the_transpose_is_the_adjoint(group, shape, padding_mode):
    """Against the same sums by index_add."""
    members = rand(as_transforms(group).order, 2, 2, *shape, dtype=torch.float64, seed=2)
    weights = rand(2, as_transforms(group).order, dtype=torch.float64, seed=1)
    args = members, weights, *action(group, padding_mode=padding_mode, adjoint=True)
    assert_near(call("orbit_average", *args)[0], eager("orbit_average", *args)[0])


@only("cpu", "reference", "emulation", "gpu", because="every one of so many elements is a program")
@pytest.mark.parametrize("group", LARGE)
def test_groups_that_do_not_fit_into_arguments(group):
    order = as_group(group).order
    for adjoint in (False, True):
        args = rand(order, 1, order, 5, 6, seed=1), None, *action(group, "regular", "zeros", adjoint)
        assert_near(call("orbit_average", *args)[0], eager("orbit_average", *args)[0], scale=4)
