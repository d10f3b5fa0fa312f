"""orbit: the kernel is the reference bit for bit, and g_h only permutes the orbit."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from equifast import orbit, reference

from .cases import (
    DTYPES,
    GROUPS,
    KINDS,
    LAYOUTS,
    PADDING_MODES,
    SHAPES,
    assert_near,
    assert_same,
    exact_elements,
    problems,
    rand,
)


@given(problems())
@settings(max_examples=250)
def test_orbit_is_the_reference(problem):
    x, options = problem.images(), {"padding_mode": problem.padding_mode}
    assert_same(orbit(x, problem.group, **options), reference.orbit(x, problem.group, **options))


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("group", GROUPS, ids=str)
def test_orbit_is_the_reference_for_every_group_and_dtype(group, dtype):
    for shape in SHAPES:
        x = rand(2, 5, *shape, dtype=dtype)
        for padding_mode in PADDING_MODES:
            expected = reference.orbit(x, group, padding_mode=padding_mode)
            assert_same(orbit(x, group, padding_mode=padding_mode), expected)


@given(problems(min_batch=1), st.data())
@settings(max_examples=250)
def test_exact_elements_permute_the_orbit(problem, data):
    group, x, options = problem.group, problem.images(), {"padding_mode": problem.padding_mode}
    h = data.draw(st.sampled_from(exact_elements(group, problem.shape)))
    # h·x, by the oracle of exact permutations: member h⁻¹ of the orbit by rot90 and flip is tested elsewhere.
    moved = reference.act(x, torch.full((problem.batch,), h), group=group)
    members = orbit(x, group, **options).unflatten(0, (group.order, problem.batch))
    permuted = members[[group.compose(group.inverse(h), e) for e in range(group.order)]]
    # Interpolated members too: bit for bit.
    assert_same(orbit(moved, group, **options), permuted.flatten(0, 1))


@pytest.mark.parametrize("group", GROUPS, ids=str)
def test_every_element_permutes_the_orbit_of_a_smooth_image(group):
    y, x = torch.meshgrid(torch.linspace(-1, 1, 48), torch.linspace(-1, 1, 48), indexing="ij")
    inside = (x**2 + y**2).sqrt() < 0.95
    waves = torch.stack([torch.sin(2 * x + y), torch.cos(x - 2 * y + 0.5), torch.sin(3 * y) * x])[None]
    image = waves * (1 - (x**2 + y**2)).clamp(min=0)
    members = orbit(image, group).unflatten(0, (group.order, 1))
    moved = orbit(members[:, 0], group).unflatten(0, (group.order, group.order))
    for h in range(group.order):
        # members[h] = h⁻¹·x
        permuted = members[[group.compose(h, e) for e in range(group.order)], 0]
        error = (moved[:, h] - permuted).abs()[..., inside].amax()
        assert error < 8e-3


@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("group", KINDS, ids=str)
def test_any_layout(group, layout):
    for dtype in DTYPES:
        for shape in ((33, 33), (6, 7)):
            x = LAYOUTS[layout](rand(3, 5, *shape, dtype=dtype))
            out = orbit(x, group)
            assert out.is_contiguous()
            assert_same(out, orbit(x.clone(memory_format=torch.contiguous_format), group))


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=str)
@pytest.mark.parametrize("group", KINDS, ids=str)
def test_an_image_depends_on_no_other_image_or_channel(group, dtype):
    x = rand(9, 6, 21, 21, dtype=dtype)
    members = orbit(x, group).unflatten(0, (group.order, 9))
    for b, c in ((0, 0), (4, 3), (8, 5)):
        alone = orbit(x[b : b + 1, c : c + 1], group)
        assert_same(members[:, b, c : c + 1], alone)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16], ids=str)
@pytest.mark.parametrize("group", KINDS, ids=str)
def test_narrow_pixels_are_rounded_once(group, dtype):
    x = rand(2, 3, 150, 150, dtype=dtype)
    # Positions of an image this wide need more bits than float16 or bfloat16 have.
    assert_near(orbit(x, group), orbit(x.double(), group), scale=0.5)


@pytest.mark.parametrize("group", KINDS, ids=str)
def test_values_stay_in_range_and_constants_stay_constant(group):
    x = rand(2, 3, 19, 19)
    out = orbit(x, group)
    assert out.amin() >= x.amin() and out.amax() <= x.amax()
    assert_near(orbit(torch.full_like(x, 0.7), group), torch.full_like(out, 0.7))
    assert orbit(torch.ones_like(x), group, padding_mode="zeros").amin() >= 0


@pytest.mark.parametrize("group", KINDS, ids=str)
def test_no_images(group):
    assert orbit(rand(0, 3, 5, 6), group).shape == (0, 3, 5, 6)


def test_the_input_stays_as_it_is():
    x = rand(2, 3, 9, 9)
    before = x.clone()
    out = orbit(x, "D8")
    out.fill_(7)
    assert_same(x, before)
