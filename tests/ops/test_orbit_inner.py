"""orbit_inner: ⟨ρ(g_e⁻¹)·u_e, v_e⟩ of every element, as autograd of the resampling ops calls it."""

import pytest
import torch

from equifast import as_group, reference
from equifast.representations import SIZES

from ..backend import by_backend, only
from ..cases import DTYPES, KINDS, LARGE, LAYOUTS, SETS, action, assert_near, assert_same, rand
from ..definitions import call, eager


def inner(u, v, group, representation="trivial", padding_mode="border"):
    """(B, E); u or v may be shared by all members."""
    (out,) = call("orbit_inner", u, v, *action(group, representation, padding_mode)[:4])
    return out


@pytest.mark.parametrize("transforms", SETS[1:], ids=map(str, range(1, len(SETS))))
def test_any_maps(transforms):
    for shape, representation in (((5, 5), "vector"), ((4, 6), "trivial")):
        u, v = rand(2, 2, *shape, dtype=torch.float64), rand(2, 2, *shape, dtype=torch.float64, seed=1)
        args = u, v, *action(transforms, representation)[:4]
        assert_near(call("orbit_inner", *args)[0], eager("orbit_inner", *args)[0], scale=10)


@pytest.mark.parametrize(
    "layout", by_backend(["contiguous", "channels_last", "cropped", "one_image", "one_row"], ["contiguous"])
)
@pytest.mark.parametrize("representation", by_backend(list(SIZES), ["trivial"]))
@pytest.mark.parametrize("group", by_backend(KINDS, list(map(as_group, ("C4", "C8", "D3")))), ids=str)
def test_orbit_inner_is_its_definition(group, representation, layout):
    shapes, batch = by_backend(([(19, 19), (9, 33)], 3), ([(6, 6), (4, 7)], 2))
    for i, dtype in enumerate(DTYPES):
        (h, w), padding_mode = shapes[i % 2], ("border", "zeros")[i % 2]
        c = SIZES[representation](group.order) * by_backend(1, 3)
        one = LAYOUTS[layout](rand(batch, c, h, w, dtype=dtype))
        each = LAYOUTS[layout](rand(group.order * batch, c, h, w, dtype=dtype, seed=1)).unflatten(0, (-1, batch))
        pairs = (one, one.flip(0)), (one, each), (each, one)
        for u, v in by_backend(((one, one), *pairs), pairs):
            members = u if u.dim() == 5 else u.expand(group.order, *u.shape)
            options = {"group": group, "inverse": True, "representation": representation, "padding_mode": padding_mode}
            moved = [
                reference.act(member.double(), torch.full((batch,), e), **options) for e, member in enumerate(members)
            ]
            expected = (torch.stack(moved) * v).flatten(2).sum(2).t()
            out = inner(u, v, group, representation, padding_mode)
            assert out.dtype == (torch.float64 if dtype == torch.float64 else torch.float32)
            assert_near(out, expected, scale=10)


@pytest.mark.sanitized
@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("group", by_backend(KINDS, list(map(as_group, ("C4", "C8")))), ids=str)
def test_it_does_not_depend_on_the_batch(group, dtype):
    batch, side = by_backend((9, 20), (3, 5))
    u, v = (rand(batch, 6, side, side, dtype=dtype, seed=seed) for seed in (0, 1))
    together = inner(u, v, group)
    for b in (0, batch // 2, batch - 1):
        assert_same(together[b : b + 1], inner(u[b : b + 1], v[b : b + 1], group))
    assert_same(inner(u[:0], v[:0], group), together.new_zeros(0, group.order))


def test_images_in_several_parts():
    x, y = rand(1, 1, 70, 70), rand(1, 1, 70, 70, seed=1)
    assert_near(inner(x, y, "C2"), torch.stack([(x * y).sum(), (x.flip(2, 3) * y).sum()])[None], scale=4)


@only("cpu", "reference", "emulation", "gpu", because="every one of so many elements is a program")
@pytest.mark.parametrize("group", LARGE)
def test_groups_that_do_not_fit_into_arguments(group):
    order = as_group(group).order
    args = rand(1, order, 5, 6), rand(order, 1, order, 5, 6, seed=1), *action(group, "regular")[:4]
    assert_near(call("orbit_inner", *args)[0], eager("orbit_inner", *args)[0], scale=10)


@only("cpu", because="other backends sum in another order")
@pytest.mark.parametrize("representation", SIZES)
@pytest.mark.parametrize("layout", [name for name in LAYOUTS if name != "one_image"])
def test_no_layout_changes_a_bit(layout, representation):
    """With a task for each image, which gathers what is not in rows, and with too few images for that.

    An image that all elements share is multiplied in another order than copies of it.
    """
    for i, group in enumerate(map(as_group, ("C4", "C8", "D3"))):
        dtype, c = DTYPES[(i + len(layout)) % 4], 2 * SIZES[representation](group.order)
        for batch in (1, 4 * torch.get_num_threads()):
            one = LAYOUTS[layout](rand(batch, c, 18, 18, dtype=dtype))
            each = LAYOUTS[layout](rand(group.order * batch, c, 18, 18, dtype=dtype, seed=1)).unflatten(0, (-1, batch))
            for u, v in ((one, one.flip(0)), (one, each), (each, one), (one.contiguous(), each)):
                assert_same(
                    inner(u, v, group, representation), inner(u.contiguous(), v.contiguous(), group, representation)
                )
