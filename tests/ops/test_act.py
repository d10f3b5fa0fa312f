"""act: the kernel is the reference, each sample goes its own way, and elements compose."""

import math

import pytest
import torch
from hypothesis import strategies as st

from equifast import act, as_group, orbit, reference
from equifast.representations import SIZES

from ..backend import by_backend, only, over
from ..cases import (
    DTYPES,
    GROUPS,
    KINDS,
    LARGE,
    LAYOUTS,
    PADDING_MODES,
    SETS,
    SHAPES,
    TRANSPOSES,
    action,
    amid_nan,
    assert_near,
    assert_same,
    assert_same_in_channels_last,
    every,
    exact_elements,
    few_problems,
    ids,
    is_exact,
    layout_of_resampled,
    of_many_channels,
    problems,
    rand,
)
from ..definitions import call, eager, grid_sampled

REPRESENTATIONS = list(SIZES)
TWO = [as_group("D4"), as_group("C8")]
FEW = [
    (problem, REPRESENTATIONS[i % 3], i) for i, problem in enumerate(few_problems(by_backend(13, 13, interpreter=5), 1))
]


def assert_acts_alike(actual, expected, representation):
    """Bit for bit, but that mixing a pair of channels may be contracted or ordered otherwise."""
    (assert_near if representation == "vector" else assert_same)(actual, expected)


@over(250, FEW, problem=problems(), representation=st.sampled_from(REPRESENTATIONS), seed=st.integers(0, 100))
def test_act_is_the_reference(problem, representation, seed):
    x, element = problem.images(representation), ids(problem.group, problem.batch, seed)
    options = {"group": problem.group, "representation": representation, "padding_mode": problem.padding_mode}
    options |= {"inverse": seed % 2 == 1}
    assert_acts_alike(act(x, element, **options), reference.act(x, element, **options), representation)


ALL = by_backend(GROUPS, list(map(as_group, ("C4", "C6", "D3", "D8", *LARGE))))
ALL = by_backend(GROUPS + list(map(as_group, LARGE)), ALL, interpreter=ALL[:4])


@pytest.mark.parametrize("representation", REPRESENTATIONS)
@pytest.mark.parametrize("group", ALL, ids=str)
def test_every_element(group, representation):
    for i, shape in enumerate(by_backend(SHAPES, [(5, 5), (3, 6)])):
        x = rand(group.order, SIZES[representation](group.order), *shape, dtype=DTYPES[(i + 1) % 4])
        options = {"group": group, "representation": representation, "inverse": i % 3 != 0}
        actual, expected = act(x, every(group), **options), reference.act(x, every(group), **options)
        assert_acts_alike(actual, expected, representation)


@pytest.mark.parametrize("representation", ["trivial", "vector"])
@pytest.mark.parametrize("transforms", SETS, ids=map(str, range(len(SETS))))
def test_any_maps(transforms, representation):
    for i, shape in enumerate(by_backend([(9, 9), (12, 7), (1, 5), (33, 20)], [(5, 5), (3, 6)])):
        x = rand(transforms.order, 2, *shape, dtype=DTYPES[(i + 1) % 4])
        options = {"group": transforms, "representation": representation, "inverse": i % 2 == 0}
        actual, expected = (act_(x, every(transforms), **options) for act_ in (act, reference.act))
        assert_acts_alike(actual, expected, representation)


@pytest.mark.parametrize("padding_mode", PADDING_MODES)
@pytest.mark.parametrize("shape", by_backend([(5, 5), (6, 6), (5, 8)], [(5, 5), (3, 4)], interpreter=[(5, 5)]))
@pytest.mark.parametrize("group", by_backend(KINDS, TWO, interpreter=TWO[1:]), ids=str)
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


@pytest.mark.parametrize("shape", by_backend([(24, 24), (17, 17), (9, 20), (131, 9)], [(6, 6), (5, 8)]))
@pytest.mark.parametrize("group", by_backend(GROUPS, TWO), ids=str)
def test_undoing_an_element_gives_the_orbit_member_itself(group, shape):
    for dtype in DTYPES:
        x = rand(1, 3, *shape, dtype=dtype)
        undone = act(x.expand(group.order, -1, -1, -1), every(group), group=group, inverse=True)
        assert_same(undone, orbit(x, group))


@over(
    250,
    FEW,
    problem=problems(min_batch=1),
    representation=st.sampled_from(REPRESENTATIONS),
    pick=st.integers(0, 10**6),
)
def test_elements_compose(problem, representation, pick):
    """ρ(g)(ρ(h)·x) = ρ(gh)·x bit for bit if one of g and h is exact, of every representation."""
    group, x = problem.group, problem.images(representation)
    exact = exact_elements(group, problem.shape)
    g, h = exact[pick % len(exact)], pick // len(exact) % group.order
    options = {"group": group, "representation": representation, "padding_mode": problem.padding_mode}

    def move(x, e):
        return act(x, torch.full((problem.batch,), e), **options)

    for first, second in ((g, h), (h, g)):
        assert_acts_alike(move(move(x, second), first), move(x, group.compose(first, second)), representation)


@over(60, FEW, problem=problems(min_batch=1), representation=st.sampled_from(REPRESENTATIONS), seed=st.integers(0, 99))
def test_exact_elements_are_undone_bit_for_bit(problem, representation, seed):
    group, x = problem.group, problem.images(representation)
    exact = torch.tensor(exact_elements(group, problem.shape))
    element = exact[ids(f"C{len(exact)}", problem.batch, seed)]
    options = {"group": group, "representation": representation}
    assert_same(act(act(x, element, inverse=True, **options), element, **options), x)


@pytest.mark.parametrize("representation", REPRESENTATIONS)
@pytest.mark.parametrize("group", by_backend(KINDS, TWO[1:]), ids=str)
def test_a_sample_depends_on_no_other_sample(group, representation):
    batch, side = by_backend((9, 20), (4, 7))
    x, element = rand(batch, SIZES[representation](group.order) * 3, side, side), ids(group, batch)
    options = {"group": group, "representation": representation}
    together = act(x, element, **options)
    for b in range(batch):
        assert_same(together[b : b + 1], act(x[b : b + 1], element[b : b + 1], **options))


#: Dtype, batch, copies of a representation's channels, side.
LAID_OUT = by_backend(
    [(dtype, 3, 1, 17) for dtype in DTYPES],
    [(torch.float32, 2, 3, 9), (torch.float16, 2, 8, 9), (torch.bfloat16, 2, 5, 9)],
    interpreter=[(torch.float32, 2, 3, 7)],
)


@pytest.mark.sanitized
@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("representation", by_backend(REPRESENTATIONS, ["trivial"]))
def test_any_layout(representation, layout):
    for group in by_backend(KINDS, TWO):
        for dtype, batch, copies, side in LAID_OUT:
            x = LAYOUTS[layout](rand(batch, copies * SIZES[representation](group.order), side, side, dtype=dtype))
            x = amid_nan(x) if layout == "contiguous" else x
            element = torch.stack((ids(group, batch), ids(group, batch)), 1)[:, 0]
            options = {"group": group, "representation": representation}
            out = act(x, element, **options)
            assert out.is_contiguous(memory_format=layout_of_resampled(x))
            plain = x.clone(memory_format=torch.contiguous_format)
            assert_same(out, act(plain, element.clone(), **options))
            assert_acts_alike(out, reference.act(x, element, **options), representation)


@pytest.mark.sanitized
@pytest.mark.parametrize("adjoint", [False, True])
@pytest.mark.parametrize("representation", REPRESENTATIONS)
def test_channels_last_is_kept(representation, adjoint):
    for seed, (x, group, padding_mode) in enumerate(of_many_channels(representation)):
        args = ids(group, 2, seed), *action(group, representation, padding_mode, adjoint)
        assert_same_in_channels_last(lambda x, args=args: call("act", x, *args)[0], x)


@pytest.mark.sanitized
@pytest.mark.parametrize("representation", REPRESENTATIONS)
@pytest.mark.parametrize("group", by_backend(KINDS, [as_group("C4"), as_group("C8")]), ids=str)
def test_no_images(group, representation):
    x = rand(0, 2 * group.order, 5, 5)
    assert act(x, ids(group, 0), group=group, representation=representation).shape == x.shape


@pytest.mark.sanitized
@pytest.mark.parametrize("padding_mode", PADDING_MODES)
@pytest.mark.parametrize(("group", "shape"), TRANSPOSES)
def test_the_transpose_is_the_adjoint(group, shape, padding_mode):
    """Against the same sums by index_add."""
    args = rand(2, 2, *shape, dtype=torch.float64), ids(group, 2), *action(group, "trivial", padding_mode, True)
    assert_near(call("act", *args)[0], eager("act", *args)[0])


@pytest.mark.sanitized
@pytest.mark.parametrize("times", [0, 1, 3])
@pytest.mark.parametrize("adjoint", [False, True])
def test_images_are_taken_again_where_ids_are_more(times, adjoint):
    """The ids of the whole batch, several times over: the bits of so many copies of the images."""
    for group, shape in (("C4", (5, 5)), ("D3", (4, 6))):
        for layout in LAYOUTS.values():
            x, element = layout(rand(2, 3, *shape)), ids(as_group(group), 2 * times)
            args = action(group, "trivial", "border", adjoint)
            assert_same(call("act", x, element, *args)[0], call("act", x.repeat(times, 1, 1, 1), element, *args)[0])


@only("cpu", because="other backends have one way to transpose")
@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("representation", REPRESENTATIONS)
def test_the_transpose_of_an_image_does_not_depend_on_how_many_there_are(representation, dtype):
    """Where many images have one element, the library for CPUs makes a matrix of its transpose, else it makes none."""
    group = as_group("D6")
    element = torch.tensor([1, 4, 8, 11] * 5 + [0])
    action_ = action(group, representation, "border", True)
    for layout in (torch.contiguous_format, torch.channels_last):
        x = rand(len(element), SIZES[representation](group.order), 6, 5, dtype=dtype).contiguous(memory_format=layout)
        together = call("act", x, element, *action_)[0]
        alone = [call("act", x[i : i + 1], element[i : i + 1], *action_)[0] for i in range(len(x))]
        assert_same(together, torch.cat(alone))


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("representation", ["regular", "vector"])
def test_the_transpose_of_a_representation(representation, dtype):
    x = rand(2, SIZES[representation](6), 4, 5, dtype=dtype)
    args = x, torch.tensor([1, 5]), *action("D3", representation, "border", True)
    assert_near(call("act", *args)[0], eager("act", *args)[0])


@only("emulation", because="the library for CPUs refuses such an id, and a sanitizer has to watch the others")
@pytest.mark.sanitized
@pytest.mark.parametrize("group", ["C4", "C36"])
def test_an_id_out_of_range_reads_nothing_outside(group):
    """What it gives is no image, but the others are theirs, and a sanitizer sees what is read beside the table."""
    order = as_group(group).order
    x, element = rand(6, order, 5, 5), torch.tensor([0, -1, order, 2**40, -(2**40), 1])
    for adjoint in (False, True):
        args = action(group, "regular", adjoint=adjoint)
        (out,) = call("act", x, element, *args)
        good = torch.tensor([0, 5])
        assert_near(out[good], eager("act", x[good], element[good], *args)[0])
