"""orbit, act, orbit_average, orbit_inner and angle_inner as CUDA kernels, emulated."""

import sys

import pytest
import torch

from equifast import reference
from equifast.groups import as_group
from equifast.representations import SIZES as REPRESENTATIONS

from ..cases import (
    DTYPES,
    LAYOUTS,
    PADDING_MODES,
    assert_near,
    assert_near_overall,
    assert_same,
    every,
    exact_elements,
    ids,
    rand,
)
from .emulated import action, amid_nan, call

pytestmark = pytest.mark.usefixtures("emulated")

GROUPS = ["C1", "C3", "C4", "C6", "C8", "D1", "D3", "D4", "D8"]
SHAPES = [(1, 1), (1, 6), (5, 1), (2, 3), (6, 6), (7, 7), (17, 33), (20, 15), (32, 32)]
#: More elements than fit into the arguments of a kernel.
LARGE = ["C36", "D20"]


def eager(op):
    return sys.modules[f"equifast.ops.{op}"]._eager


@pytest.mark.parametrize("padding_mode", PADDING_MODES)
@pytest.mark.parametrize("group", GROUPS)
def test_orbit_is_the_reference_bit_for_bit(group, padding_mode):
    for i, shape in enumerate(SHAPES):
        x = rand(1 + i % 2, 2, *shape, dtype=DTYPES[i % 4], seed=i)
        (out,) = call("orbit", x, None, *action(group, padding_mode=padding_mode))
        assert_same(out, reference.orbit(x, group, padding_mode=padding_mode))


@pytest.mark.sanitized
@pytest.mark.parametrize("layout", LAYOUTS)
def test_any_layout(layout):
    for dtype, channels in ((torch.float32, 3), (torch.float16, 8), (torch.bfloat16, 5)):
        x = amid_nan(rand(2, channels, 9, 9, dtype=dtype)) if layout == "contiguous" else rand(2, channels, 9, 9)
        x = LAYOUTS[layout](x.to(dtype))
        element = torch.stack((ids("C8", 2), ids("C8", 2)), 1)[:, 0]
        for group in ("D4", "C8"):
            (out,) = call("orbit", x, None, *action(group))
            (moved,) = call("act", x, element % 8, *action(group))
            for t in (out, moved):
                assert t.is_contiguous() or t.is_contiguous(memory_format=torch.channels_last)
            assert_same(out, reference.orbit(x, group))
            assert_same(moved, reference.act(x, element, group=group, inverse=True))


@pytest.mark.parametrize("representation", REPRESENTATIONS)
@pytest.mark.parametrize("group", ["C4", "C6", "D3", "D8", *LARGE])
def test_act_is_the_reference(group, representation):
    check = assert_near if representation == "vector" else assert_same
    order = as_group(group).order
    for i, shape in enumerate([(5, 5), (3, 6)]):
        x = rand(order, REPRESENTATIONS[representation](order), *shape, dtype=DTYPES[i + 1])
        options = {"representation": representation, "inverse": bool(i)}
        (out,) = call("act", x, every(group), *action(group, **options))
        check(out, reference.act(x, every(group), group=group, **options))


@pytest.mark.parametrize("group", LARGE)
def test_groups_that_do_not_fit_into_arguments(group):
    order = as_group(group).order
    x, members = rand(1, order, 5, 6), rand(order, 1, order, 5, 6, seed=1)
    assert_same(call("orbit", rand(1, 2, 6, 6), None, *action(group))[0], reference.orbit(rand(1, 2, 6, 6), group))
    for adjoint in (False, True):
        args = action(group, "regular", "zeros", adjoint)
        weights = rand(1, order)
        assert_near(call("orbit", x, weights, *args)[0], eager("orbit")(x, weights, *args), scale=4)
        assert_near(call("orbit_average", members, None, *args)[0], eager("orbit_average")(members, None, *args), 4)
    args = action(group, "regular")[:4]
    inner = sys.modules["equifast.ops.orbit_inner"]._eager
    assert_near(call("orbit_inner", x, members, *args)[0], inner(x, members, *args), scale=10)
    three = [rand(3, 2, 5, 6, dtype=torch.float64, seed=seed) for seed in range(3)]
    args = *three, ids(group, 3), args[0], as_group(group).n, "border"
    assert_near_overall(call("angle_inner", *args)[0], eager("angle_inner")(*args), scale=10)


@pytest.mark.sanitized
@pytest.mark.parametrize("padding_mode", PADDING_MODES)
@pytest.mark.parametrize(
    ("group", "shape"),
    [("D4", (4, 4)), ("C8", (5, 5)), ("C3", (4, 6)), ("C5", (1, 4)), ("C6", (7, 2)), ("C8", (33, 20))],
)
def test_transposes_are_the_adjoints(group, shape, padding_mode):
    """Against the same sums by index_add; on narrow images, long rays end on the edges."""
    order, dtype = as_group(group).order, torch.float64
    args = action(group, padding_mode=padding_mode, adjoint=True)
    x, weights = rand(2, 2, *shape, dtype=dtype), rand(2, order, dtype=dtype, seed=1)
    members = rand(order, 2, 2, *shape, dtype=dtype, seed=2)
    for op, given in (("orbit", (x, weights)), ("orbit_average", (members, weights)), ("act", (x, ids(group, 2)))):
        assert_near(call(op, *given, *args)[0], eager(op)(*given, *args))


@pytest.mark.parametrize("channels", [1, 5, 33])
def test_many_channels_in_either_format(channels):
    for memory_format in (torch.contiguous_format, torch.channels_last):
        x = rand(1, channels, 5, 5).contiguous(memory_format=memory_format)
        assert_same(call("orbit", x, None, *action("C8"))[0], reference.orbit(x, "C8"))


def test_inner_products_of_images_in_several_parts():
    x, y = rand(1, 1, 70, 70), rand(1, 1, 70, 70, seed=1)
    (out,) = call("orbit_inner", x, y, *action("C2")[:4])
    assert_near(out, torch.stack([(x * y).sum(), (x.flip(2, 3) * y).sum()])[None], scale=4)
    three = [rand(1, 1, 70, 70, dtype=torch.float64, seed=seed) for seed in range(3)]
    args = *three, torch.tensor([5]), action("D4")[0], 4, "border"
    assert_near_overall(call("angle_inner", *args)[0], eager("angle_inner")(*args), scale=10)


@pytest.mark.sanitized
@pytest.mark.parametrize("padding_mode", PADDING_MODES)
@pytest.mark.parametrize("group", ["C4", "C8", "D3"])
def test_angle_inner_of_every_element(group, padding_mode):
    """In float64, where a sample on the wrong side of a pixel would show."""
    for shape in ((6, 6), (4, 7), (5, 1), (1, 6)):
        three = [rand(as_group(group).order, 1, *shape, dtype=torch.float64, seed=seed) for seed in range(3)]
        args = *three, every(group), action(group)[0], as_group(group).n, padding_mode
        assert_near_overall(call("angle_inner", *args)[0], eager("angle_inner")(*args), scale=10, about=f"{shape}")


@pytest.mark.parametrize("group", ["C4", "D4", "C8"])
def test_an_orbit_of_a_moved_image_is_the_orbit_permuted(group):
    group, x = as_group(group), rand(2, 3, 9, 9)
    (members,) = call("orbit", x, None, *action(group))
    members = members.unflatten(0, (group.order, 2))
    for h in exact_elements(group, (9, 9)):
        (there,) = call("act", x, torch.full((2,), h), *action(group, inverse=False))
        order = [group.compose(group.inverse(h), e) for e in range(group.order)]
        assert_same(call("orbit", there, None, *action(group))[0].unflatten(0, (group.order, 2)), members[order])


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
        assert_near(out[good], eager("act")(x[good], element[good], *args))


@pytest.mark.sanitized
def test_no_images():
    x, element, args = rand(0, 3, 5, 5), ids("C8", 0), action("C8")
    assert call("orbit", x, None, *args)[0].shape == x.shape
    assert call("act", x, element, *args)[0].shape == x.shape
    assert call("orbit_average", rand(8, 0, 3, 5, 5), None, *args)[0].shape == x.shape
    assert_same(call("orbit_inner", x, x, *args[:4])[0], torch.zeros(0, 8))
    assert_same(call("angle_inner", x, x, x, element, args[0], 8, "border")[0], torch.zeros(0, 2))
