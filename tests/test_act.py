"""act: the kernel is the reference, each sample goes its own way, and elements compose."""

import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from equifast import act, as_group, orbit, reference
from equifast.representations import SIZES as REPRESENTATIONS

from .cases import (
    DTYPES,
    GROUPS,
    KINDS,
    LAYOUTS,
    SHAPES,
    assert_near,
    assert_same,
    every,
    exact_elements,
    ids,
    is_exact,
    problems,
    rand,
)
from .test_reference import grid_sampled


@given(problems(), st.sampled_from(list(REPRESENTATIONS)), st.booleans(), st.integers(0, 100))
@settings(max_examples=250)
def test_act_is_the_reference(problem, representation, inverse, seed):
    x, element = problem.images(representation), ids(problem.group, problem.batch, seed)
    options = {
        "group": problem.group,
        "inverse": inverse,
        "representation": representation,
        "padding_mode": problem.padding_mode,
    }
    # Mixing a pair of channels may be contracted or ordered otherwise; moving pixels may not.
    check = assert_near if representation == "vector" else assert_same
    check(act(x, element, **options), reference.act(x, element, **options))


@pytest.mark.parametrize("representation", REPRESENTATIONS)
@pytest.mark.parametrize("group", GROUPS, ids=str)
def test_act_is_the_reference_for_every_element(group, representation):
    check = assert_near if representation == "vector" else assert_same
    for i, shape in enumerate(SHAPES):
        x = rand(group.order, REPRESENTATIONS[representation](group.order), *shape, dtype=DTYPES[i % 4])
        options = {"group": group, "representation": representation, "inverse": i % 3 == 0}
        check(act(x, every(group), **options), reference.act(x, every(group), **options))


@pytest.mark.parametrize("padding_mode", ["border", "zeros"])
@pytest.mark.parametrize("shape", [(5, 5), (6, 6), (5, 8)])
@pytest.mark.parametrize("group", KINDS, ids=str)
def test_nan_spreads_as_by_grid_sample(group, shape, padding_mode):
    """To every output that reads the pixel, even with weight 0, and beyond the edge to more. Exact elements move it."""
    pixels = shape[0] * shape[1]
    x = torch.zeros(pixels, pixels, dtype=torch.float64).fill_diagonal_(math.nan).view(pixels, 1, *shape)
    for e in range(group.order):
        element, options = torch.full((pixels,), e), {"group": group, "inverse": True, "padding_mode": padding_mode}
        nan = act(x, element, **options).isnan()
        assert torch.equal(nan, reference.act(x, element, **options).isnan())
        if is_exact(group, e, shape):
            assert torch.equal(nan, act(x.isnan().double(), element, **options) == 1)
            continue
        sampled = grid_sampled(x, group.matrix(e), padding_mode).isnan()
        assert nan[sampled].all()
        a, b, c, d = group.matrix(e)
        rows = torch.arange(shape[0])[:, None] - (shape[0] - 1) / 2
        columns = torch.arange(shape[1]) - (shape[1] - 1) / 2
        inside = ((a * columns + b * rows).abs() < (shape[1] - 1) / 2) & (
            (c * columns + d * rows).abs() < (shape[0] - 1) / 2
        )
        assert inside.any() and torch.equal(nan[..., inside], sampled[..., inside])


def test_nan_reaches_an_output_that_weighs_it_with_0():
    """The middle of an odd image stays where it is, and is summed with its neighbours below and to the right."""
    x = torch.ones(9, 9).fill_diagonal_(math.nan).view(9, 1, 3, 3)
    reached = act(x, torch.full((9,), 1), group="C8")[:, 0, 1, 1].isnan()
    assert reached.tolist() == [False] * 4 + [True, True, False, True, True]
    assert torch.equal(reached, grid_sampled(x, as_group("C8").matrix(7), "border")[:, 0, 1, 1].isnan())


@pytest.mark.parametrize("shape", [(24, 24), (17, 17), (9, 20), (131, 9)])
@pytest.mark.parametrize("group", GROUPS, ids=str)
def test_undoing_an_element_gives_the_orbit_member_itself(group, shape):
    for dtype in DTYPES:
        x = rand(1, 3, *shape, dtype=dtype)
        undone = act(x.expand(group.order, -1, -1, -1), every(group), group=group, inverse=True)
        assert_same(undone, orbit(x, group))


@given(problems(min_batch=1), st.sampled_from(list(REPRESENTATIONS)), st.data())
@settings(max_examples=250)
def test_elements_compose(problem, representation, data):
    """ρ(g)(ρ(h)·x) = ρ(gh)·x bit for bit if one of g and h is exact, of every representation."""
    group, x = problem.group, problem.images(representation)
    exact = data.draw(st.sampled_from(exact_elements(group, problem.shape)))
    other = data.draw(st.integers(0, group.order - 1))
    g, h = data.draw(st.permutations([exact, other]))
    options = {"group": group, "representation": representation, "padding_mode": problem.padding_mode}

    def move(x, e):
        return act(x, torch.full((problem.batch,), e), **options)

    check = assert_near if representation == "vector" else assert_same
    check(move(move(x, h), g), move(x, group.compose(g, h)))


@given(problems(min_batch=1), st.sampled_from(list(REPRESENTATIONS)), st.data())
def test_exact_elements_are_undone_bit_for_bit(problem, representation, data):
    group, x = problem.group, problem.images(representation)
    exact = st.sampled_from(exact_elements(group, problem.shape))
    element = torch.tensor(data.draw(st.lists(exact, min_size=problem.batch, max_size=problem.batch)))
    options = {"group": group, "representation": representation}
    assert_same(act(act(x, element, inverse=True, **options), element, **options), x)


@pytest.mark.parametrize("representation", REPRESENTATIONS)
@pytest.mark.parametrize("group", KINDS, ids=str)
def test_a_sample_depends_on_no_other_sample(group, representation):
    x, element = rand(9, REPRESENTATIONS[representation](group.order) * 3, 20, 20), ids(group, 9)
    options = {"group": group, "representation": representation}
    together = act(x, element, **options)
    for b in range(9):
        assert_same(together[b : b + 1], act(x[b : b + 1], element[b : b + 1], **options))


@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("representation", REPRESENTATIONS)
def test_any_layout(representation, layout):
    for group in KINDS:
        for dtype in DTYPES:
            x = LAYOUTS[layout](rand(3, REPRESENTATIONS[representation](group.order), 17, 17, dtype=dtype))
            element = torch.stack((ids(group, 3), ids(group, 3)), 1)[:, 0]
            options = {"group": group, "representation": representation}
            out = act(x, element, **options)
            assert out.is_contiguous()
            assert_same(out, act(x.clone(memory_format=torch.contiguous_format), element.clone(), **options))


@pytest.mark.parametrize("representation", REPRESENTATIONS)
@pytest.mark.parametrize("group", KINDS, ids=str)
def test_no_images(group, representation):
    x = rand(0, 2 * group.order, 5, 5)
    assert act(x, ids(group, 0), group=group, representation=representation).shape == x.shape
