"""orbit: the kernel is the reference bit for bit, and moving an image only permutes its orbit."""

import pytest
import torch

import equifast
from equifast import as_group, orbit, reference
from equifast.transform_set import as_transforms

from ..backend import by_backend, compiled, only, over
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
    Problem,
    action,
    amid_nan,
    assert_near,
    assert_same,
    assert_same_in_channels_last,
    exact_elements,
    few_problems,
    ids,
    layout_of_resampled,
    of_many_channels,
    problems,
    product_or_turns,
    rand,
)
from ..definitions import call, eager

NAMES = ["C1", "C3", "C4", "C6", "C8", "D1", "D3", "D4", "D8"]
SIZES = by_backend(
    SHAPES,
    [(1, 1), (1, 6), (5, 1), (2, 3), (6, 6), (7, 7), (17, 33), (20, 15), (32, 32)],
    interpreter=[(1, 1), (1, 5), (4, 1), (2, 3), (5, 5), (6, 6), (17, 17), (4, 9)],
)


@over(250, [(p,) for p in few_problems(by_backend(13, 13, interpreter=5))], problem=problems())
def test_orbit_is_the_reference(problem):
    x, options = problem.images(), {"padding_mode": problem.padding_mode}
    assert_same(orbit(x, problem.group, **options), reference.orbit(x, problem.group, **options))


@pytest.mark.parametrize("padding_mode", PADDING_MODES)
@pytest.mark.parametrize("group", by_backend(GROUPS, list(map(as_group, NAMES))), ids=str)
def test_every_group_dtype_and_shape(group, padding_mode):
    batch, channels = by_backend((2, 5), (2, 2), interpreter=(1, 2))
    for shape, dtype in product_or_turns(SIZES, DTYPES):
        x = rand(batch, channels, *shape, dtype=dtype)
        assert_same(orbit(x, group, padding_mode=padding_mode), reference.orbit(x, group, padding_mode=padding_mode))


@pytest.mark.sanitized
@pytest.mark.parametrize("transforms", SETS, ids=map(str, range(len(SETS))))
def test_any_maps(transforms):
    for i, shape in enumerate(by_backend([(9, 9), (12, 7), (1, 5), (33, 20)], [(5, 5), (3, 6)])):
        for dtype in by_backend(DTYPES, [DTYPES[(i + 1) % 4], DTYPES[-i]]):
            x, options = rand(2, 3, *shape, dtype=dtype), {"padding_mode": PADDING_MODES[i % 2]}
            assert_same(orbit(x, transforms, **options), reference.orbit(x, transforms, **options))


#: Groups and sides of square images. On the native library, problems are drawn instead.
SIDES = by_backend({}, {"C4": 9, "D4": 9, "C8": 9, "D8": 5}, interpreter={"C4": 6, "D4": 6, "C8": 6})
MOVED = [
    Problem(as_group(name), torch.float32, (side, side), 2, 3, "contiguous", mode)
    for name, side in SIDES.items()
    for mode in by_backend([], PADDING_MODES, interpreter=PADDING_MODES[:1])
]
MOVED += [Problem(as_group("D2"), torch.bfloat16, (4, 7), 2, 3, "transposed", "border")]


@over(250, [(p,) for p in MOVED], problem=problems(min_batch=1))
def test_an_orbit_of_a_moved_image_is_the_orbit_permuted(problem):
    """Bit for bit by every exact element, and for the interpolated members too."""
    group, x, options = problem.group, problem.images(), {"padding_mode": problem.padding_mode}
    members = orbit(x, group, **options).unflatten(0, (group.order, problem.batch))
    for h in exact_elements(group, problem.shape):
        # h·x by the oracle of exact permutations: rot90 and flip, as test_reference holds.
        moved = reference.act(x, torch.full((problem.batch,), h), group=group)
        permuted = members[[group.compose(group.inverse(h), e) for e in range(group.order)]]
        assert_same(orbit(moved, group, **options), permuted.flatten(0, 1))


@compiled()
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


#: Dtype, batch, channels and shape.
LAID_OUT = by_backend(
    [(dtype, 3, 5, shape) for dtype in DTYPES for shape in ((33, 33), (6, 7))],
    [(torch.float32, 2, 3, (9, 9)), (torch.float16, 2, 8, (9, 9)), (torch.bfloat16, 2, 5, (9, 9))],
    interpreter=[(torch.float32, 2, 3, (7, 7))],
)


@pytest.mark.sanitized
@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("group", by_backend(KINDS, [as_group("D4"), as_group("C8")]), ids=str)
def test_any_layout(group, layout):
    for dtype, batch, channels, shape in LAID_OUT:
        x = LAYOUTS[layout](rand(batch, channels, *shape, dtype=dtype))
        x = amid_nan(x) if layout == "contiguous" else x
        out = orbit(x, group)
        assert out.is_contiguous(memory_format=layout_of_resampled(x))
        assert_same(out, reference.orbit(x.clone(memory_format=torch.contiguous_format), group))


@pytest.mark.parametrize("channels", [1, 5, 33])
def test_many_channels_in_either_format(channels):
    for memory_format in (torch.contiguous_format, torch.channels_last):
        x = rand(1, channels, 5, 5).contiguous(memory_format=memory_format)
        assert_same(orbit(x, "C8"), reference.orbit(x, "C8"))


@pytest.mark.sanitized
@pytest.mark.parametrize("adjoint", [False, True])
def test_channels_last_is_kept(adjoint):
    for i, (x, group, padding_mode) in enumerate(of_many_channels()):
        wide = torch.float64 if x.dtype == torch.float64 else torch.float32
        weights = rand(2, group.order, dtype=wide) if i % 2 else None
        args = weights, *action(group, "trivial", padding_mode, adjoint)
        assert_same_in_channels_last(lambda x, args=args: call("orbit", x, *args)[0], x)


@pytest.mark.parametrize("group", by_backend(KINDS, [as_group("C8")]), ids=str)
def test_a_gradient_has_the_memory_format_of_the_upstream_gradient(group):
    x = rand(2, 3, 5, 5).requires_grad_()
    out = orbit(x, group)
    assert_same_in_channels_last(lambda upstream: torch.autograd.grad(out, x, upstream, True)[0], rand(*out.shape))


@pytest.mark.parametrize("dtype", by_backend([torch.float32, torch.bfloat16], [torch.bfloat16]), ids=str)
@pytest.mark.parametrize("group", by_backend(KINDS, [as_group("C8")]), ids=str)
def test_an_image_depends_on_no_other_image_or_channel(group, dtype):
    batch, channels, side = by_backend((9, 6, 21), (3, 4, 5))
    x = rand(batch, channels, side, side, dtype=dtype)
    members = orbit(x, group).unflatten(0, (group.order, batch))
    for b, c in ((0, 0), (batch // 2, channels // 2), (batch - 1, channels - 1)):
        alone = orbit(x[b : b + 1, c : c + 1], group)
        assert_same(members[:, b, c : c + 1], alone)


@compiled()
@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16], ids=str)
@pytest.mark.parametrize("group", KINDS, ids=str)
def test_narrow_pixels_are_rounded_once(group, dtype):
    x = rand(2, 3, 150, 150, dtype=dtype)
    # Positions of an image this wide need more bits than float16 or bfloat16 have.
    assert_near(orbit(x, group), orbit(x.double(), group), scale=0.5)


@pytest.mark.parametrize("group", by_backend(KINDS, [as_group("C5")]), ids=str)
def test_values_stay_in_range_and_constants_stay_constant(group):
    x = rand(*by_backend((2, 3, 19, 19), (1, 2, 7, 7)))
    out = orbit(x, group)
    assert out.amin() >= x.amin() and out.amax() <= x.amax()
    assert_near(orbit(torch.full_like(x, 0.7), group), torch.full_like(out, 0.7))
    assert orbit(torch.ones_like(x), group, padding_mode="zeros").amin() >= 0


@pytest.mark.sanitized
@pytest.mark.parametrize("group", by_backend(KINDS, [as_group("C4"), as_group("C8")]), ids=str)
def test_no_images(group):
    for shape in ((5, 6), (5, 5)):
        assert orbit(rand(0, 3, *shape), group).shape == (0, 3, *shape)


def test_the_input_stays_as_it_is():
    x = rand(2, 3, 9, 9)
    before = x.clone()
    out = orbit(x, "D8")
    out.fill_(7)
    assert_same(x, before)


@pytest.mark.sanitized
@pytest.mark.parametrize("padding_mode", PADDING_MODES)
@pytest.mark.parametrize(("group", "shape"), TRANSPOSES)
def test_the_transpose_is_the_adjoint(group, shape, padding_mode):
    """With weights, against the same sums by index_add."""
    x = rand(2, 2, *shape, dtype=torch.float64)
    weights = rand(2, as_transforms(group).order, dtype=torch.float64, seed=1)
    args = x, weights, *action(group, padding_mode=padding_mode, adjoint=True)
    assert_near(call("orbit", *args)[0], eager("orbit", *args)[0])


@pytest.mark.parametrize("group", ["C4", "C8"])
def test_gradients_through_every_op_that_resamples(group):
    """There and back by autograd, in which each of these ops is the gradient of another."""
    order = as_group(group).order
    x, weights = rand(1, 2, 5, 5, dtype=torch.float64), rand(1, order, dtype=torch.float64)
    leaves = [t.requires_grad_() for t in (x, weights)]

    def loss(library):
        y = library.orbit(x, group)
        z = library.orbit_average(y, weights, group=group)
        return library.act(z, torch.tensor([1]), group=group, inverse=True).square().sum()

    kernels, eager = torch.autograd.grad(loss(equifast), leaves), torch.autograd.grad(loss(reference), leaves)
    for ours, theirs in zip(kernels, eager, strict=True):
        assert_near(ours, theirs)


@only("cpu", "reference", "emulation", "gpu", because="every one of so many elements is a program")
@pytest.mark.parametrize("group", LARGE)
def test_groups_that_do_not_fit_into_arguments(group):
    order = as_group(group).order
    assert_same(orbit(rand(1, 2, 6, 6), group), reference.orbit(rand(1, 2, 6, 6), group))
    for adjoint in (False, True):
        args = rand(1, order, 5, 6), rand(1, order), *action(group, "regular", "zeros", adjoint)
        assert_near(call("orbit", *args)[0], eager("orbit", *args)[0], scale=4)


@compiled()
@pytest.mark.parametrize("side", [128, 117])
@pytest.mark.parametrize("dtype", DTYPES, ids=str)
def test_an_orbit_that_no_cache_holds(dtype, side):
    """`orbit` writes it around the cache on CPUs, whole lines of it where rows are made of those."""
    batch = 16 * 1024**2 // (8 * side**2 * dtype.itemsize) + 1
    x = rand(batch, 1, side, side, dtype=dtype)
    for padding in (0, 3):
        cropped = torch.nn.functional.pad(x, (padding, 0))[..., padding:]
        assert_same(equifast.orbit(cropped, "D4"), reference.orbit(x, "D4"))
        element = ids("D4", 8 * batch)
        many = cropped.repeat(8, 1, 1, 1)
        assert_same(equifast.act(many, element, group="D4"), reference.act(many, element, group="D4"))
