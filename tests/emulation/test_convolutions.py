"""orbit_conv2d and its gradients as CUDA kernels, emulated, against float64 on members rounded as in memory."""

import itertools
import sys

import pytest
import torch
import torch.nn.functional as F

from equifast import reference
from equifast.groups import as_group

from ..cases import DTYPES, LAYOUTS, PADDING_MODES, assert_near_overall, assert_same, exact_elements, rand
from .emulated import amid_nan, call

pytestmark = pytest.mark.usefixtures("emulated")

GROUPS = ["C1", "C4", "C5", "C6", "C8", "D1", "D3", "D4"]
ALL = [True, True, True]
PLAIN = ((1, 1), (0, 0), (1, 1))

#: Image, kernel, and stride, padding, dilation.
GEOMETRIES = {
    "1x1": ((5, 5), (1, 1), PLAIN),
    "1x1 image": ((1, 1), (1, 1), PLAIN),
    "3x3": ((6, 6), (3, 3), ((1, 1), (1, 1), (1, 1))),
    "7x7": ((13, 13), (7, 7), ((2, 2), (3, 3), (1, 1))),
    "strided": ((9, 9), (3, 3), ((2, 2), (1, 1), (1, 1))),
    "patches": ((8, 8), (4, 4), ((4, 4), (0, 0), (1, 1))),
    "ragged patches": ((9, 10), (4, 4), ((4, 4), (1, 0), (1, 1))),
    "dilated": ((9, 9), (3, 3), ((1, 1), (2, 2), (2, 2))),
    "uneven": ((7, 10), (3, 2), ((2, 1), (1, 0), (1, 2))),
    "even": ((6, 7), (2, 4), ((1, 2), (1, 2), (1, 1))),
    "far apart": ((7, 8), (2, 2), ((5, 3), (0, 1), (1, 1))),
    "apart": ((22, 13), (3, 2), ((9, 4), (1, 1), (2, 2))),
    "one row": ((1, 9), (1, 3), ((1, 2), (0, 1), (1, 1))),
    "wide padding": ((3, 3), (2, 2), ((1, 1), (4, 4), (1, 1))),
    "long": ((19, 35), (3, 3), ((1, 1), (1, 1), (1, 1))),
}
KINDS = [*DTYPES, "tf32"]


def problem(group, geometry, *, channels=(3, 5), batch=1, dtype=torch.float32, padding_mode="border"):
    """(grad, x, weight, bias), and what the op takes after them."""
    shape, kernel, options = GEOMETRIES[geometry]
    group = as_group(group)
    size = [(n + 2 * p - d * (k - 1) - 1) // s + 1 for n, k, s, p, d in zip(shape, kernel, *options, strict=True)]
    c, c_out = channels
    sizes = (group.order * batch, c_out, *size), (batch, c, *shape), (c_out, c, *kernel), (c_out,)
    tensors = [rand(*each, dtype=dtype, seed=seed) for seed, each in enumerate(sizes)]
    return tensors, (list(group.action_table(inverse=True)), *map(list, options), padding_mode)


def expected(group, tensors, options, activation="none"):
    """(output, gradients): of the input by autograd through the orbit, as its kernel never rounds a member's."""
    grad, x, weight, bias = (t.detach().double() for t in tensors)
    *conv, padding_mode = options[1:]
    leaves = [t.requires_grad_() for t in (x, weight, bias)]
    members = reference.orbit(tensors[1].detach(), group, padding_mode=padding_mode).double()
    out = F.conv2d(members, *leaves[1:], *conv)
    of_input = F.conv2d(reference.orbit(x, group, padding_mode=padding_mode), *leaves[1:], *conv)
    grads = *torch.autograd.grad(of_input, leaves[:1], grad), *torch.autograd.grad(out, leaves[1:], grad)
    out = out.detach()
    return out if activation == "none" else getattr(F, activation)(out), grads


def check(group, tensors, options, *, activation="none", tf32=False, about="", needs=ALL):
    grad, x, weight, bias = tensors
    about = f"{group} {about} {activation} {tf32}"
    out_like, grads_like = expected(group, tensors, options, activation)
    (out,) = call("orbit_conv2d", x, weight, bias, *options, activation, tf32=tf32)
    assert (out.dtype, out.shape) == (x.dtype, out_like.shape)
    scale = 400 if tf32 else 4  # 4e-3, as far as a product of ten bits each may be off
    assert_near_overall(out, out_like, scale, about)
    grads = call("orbit_conv2d_backward", grad, x, weight, *options, needs, tf32=tf32)
    for name, ours, like, needed in zip("xwb", grads, grads_like, needs, strict=True):
        assert ours.dtype == x.dtype and ours.shape == (like.shape if needed else (0,))
        if needed:
            assert_near_overall(ours, like, 2 * scale, f"{about}, gradient of {name}")


def kind(name):
    """(dtype, tf32)"""
    return (torch.float32, True) if name == "tf32" else (name, False)


@pytest.mark.parametrize("number", KINDS, ids=str)
@pytest.mark.parametrize("geometry", GEOMETRIES)
def test_geometries(geometry, number):
    dtype, tf32 = kind(number)
    turn = list(GEOMETRIES).index(geometry) + KINDS.index(number)
    for group in ("D4", ("C8", "D3")[turn % 2]):
        mode = PADDING_MODES[turn % 2]
        tensors, options = problem(group, geometry, channels=(3, 4), dtype=dtype, padding_mode=mode)
        check(group, tensors, options, tf32=tf32, about=f"{geometry} {mode}")


@pytest.mark.sanitized
@pytest.mark.parametrize("number", KINDS, ids=str)
@pytest.mark.parametrize(("geometry", "group"), [("3x3", "C3"), ("even", "D2"), ("far apart", "D4")])
def test_amid_nan(geometry, group, number):
    dtype, tf32 = kind(number)
    tensors, options = problem(group, geometry, channels=(2, 3), dtype=dtype)
    check(group, [amid_nan(t, 61) for t in tensors], options, tf32=tf32, about=geometry)


@pytest.mark.parametrize("group", [*GROUPS, "C36"])
def test_groups(group):
    for turn, mode in enumerate(PADDING_MODES):
        tensors, options = problem(group, "uneven" if turn else "3x3", channels=(1, 2), padding_mode=mode)
        check(group, tensors, options, about=mode)


#: So large that a tile has some rows of the kernel only, of which the last has fewer.
TALL = ((104, 256), (13, 16), ((13, 16), (0, 0), (1, 1)))


@pytest.mark.parametrize("number", KINDS, ids=str)
@pytest.mark.parametrize("group", ["C2", "C3"])
def test_some_rows_of_a_kernel_at_a_time(group, number, monkeypatch):
    monkeypatch.setitem(GEOMETRIES, "tall", TALL)
    dtype, tf32 = kind(number)
    tensors, options = problem(group, "tall", channels=(1, 3), dtype=dtype)
    check(group, tensors, options, tf32=tf32)


#: Group, geometry, and where infinite pixels are: everywhere, or where just one output reads them, or none.
INFINITE = [
    *(("D2", name, (slice(None, None, 5), slice(None, None, 4))) for name in [*GEOMETRIES, "tall"]),
    ("C1", "tall", (65, slice(None, None, 4))),  # in the row after that of the fifth place
    ("C1", "rest", (slice(None), slice(13, None))),  # where a fourth place would be
    ("C1", "7x7", (slice(None), slice(12, None))),
]
REST = ((4, 15), (4, 4), ((4, 4), (0, 0), (1, 1)))


@pytest.mark.parametrize("number", KINDS, ids=str)
@pytest.mark.parametrize(("group", "geometry", "where"), INFINITE, ids=lambda v: v if isinstance(v, str) else "")
def test_infinity_stays_where_it_belongs(group, geometry, where, number, monkeypatch):
    """What is read beside a kernel, or where an image has no place, counts for nothing: not even 0·∞."""
    monkeypatch.setattr(sys.modules[__name__], "GEOMETRIES", GEOMETRIES | {"tall": TALL, "rest": REST})
    dtype, tf32 = kind(number)
    (grad, x, weight, bias), options = problem(group, geometry, channels=(2, 3), dtype=dtype)
    x[(..., *where)] = torch.inf
    weight, grad = weight.abs() + 1, grad.abs() + 1
    members = reference.orbit(x, group).double().requires_grad_()
    leaf = weight.double().requires_grad_()
    like = F.conv2d(members, leaf, bias.double(), *options[1:4])
    (out,) = call("orbit_conv2d", x, weight, bias, *options, "none", tf32=tf32)
    assert torch.equal(out.isfinite(), like.isfinite()), geometry
    _, grad_weight, _ = call("orbit_conv2d_backward", grad, x, weight, *options, ALL, tf32=tf32)
    (grad_like,) = torch.autograd.grad(like, leaf, grad.double())
    assert torch.equal(grad_weight.isfinite(), grad_like.isfinite()), geometry


@pytest.mark.parametrize("activation", ["relu", "gelu", "silu"])
@pytest.mark.parametrize("dtype", DTYPES, ids=str)
def test_activations(dtype, activation):
    tensors, options = problem("C5", "3x3", dtype=dtype, batch=2)
    tensors[3] = torch.linspace(-4, 4, 5, dtype=dtype)
    like, _ = expected("C5", tensors, options, activation)
    (out,) = call("orbit_conv2d", *tensors[1:], *options, activation)
    assert_near_overall(out, like, 4)


@pytest.mark.parametrize("outputs", [1, 3, 16, 17, 70])
@pytest.mark.parametrize("inputs", [1, 3, 5, 20])
def test_channels(inputs, outputs):
    for number in ("tf32", torch.float32, torch.bfloat16)[inputs % 2 :]:
        dtype, tf32 = kind(number)
        tensors, options = problem("C2", "3x3", channels=(inputs, outputs), dtype=dtype, batch=2)
        check("C2", tensors, options, tf32=tf32, about=f"{inputs} to {outputs}")


@pytest.mark.parametrize("layout", LAYOUTS)
def test_any_layout(layout):
    for dtype, channels in ((torch.float32, (3, 4)), (torch.bfloat16, (8, 8))):
        (grad, x, weight, bias), options = problem("D3", "3x3", channels=channels, dtype=dtype, batch=2)
        # A gradient of another layout than x.
        names = list(LAYOUTS)
        other = LAYOUTS[names[(names.index(layout) + 5) % len(names)]]
        tensors = other(grad), LAYOUTS[layout](x), LAYOUTS[layout](weight), torch.stack((bias, bias), -1)[:, 0]
        check("D3", tensors, options, about=layout)
        (out,) = call("orbit_conv2d", *tensors[1:], *options, "none")
        like = F.conv2d(tensors[1], tensors[2])
        for memory_format in (torch.contiguous_format, torch.channels_last):
            assert out.is_contiguous(memory_format=memory_format) == like.is_contiguous(memory_format=memory_format)


@pytest.mark.sanitized
@pytest.mark.parametrize("group", ["C4", "C6"])
def test_only_what_is_needed(group):
    tensors, options = problem(group, "even", channels=(2, 3), dtype=torch.float64)
    for needs in itertools.product([False, True], repeat=3):
        check(group, tensors, options, needs=list(needs), about=f"{needs}")


@pytest.mark.sanitized
@pytest.mark.parametrize(("batch", "outputs"), [(0, 4), (2, 0)])
def test_nothing_to_convolve(batch, outputs):
    (grad, x, weight, bias), options = problem("D3", "uneven", batch=batch, channels=(2, outputs))
    (out,) = call("orbit_conv2d", x, weight, bias, *options, "relu")
    assert_same(out, torch.empty_like(grad))
    for needs in itertools.product([False, True], repeat=3):
        grads = call("orbit_conv2d_backward", grad, x, weight, *options, list(needs))
        for ours, leaf, needed in zip(grads, (x, weight, bias), needs, strict=True):
            assert_same(ours, torch.zeros_like(leaf) if needed else leaf.new_empty(0))


@pytest.mark.parametrize("number", KINDS, ids=str)
@pytest.mark.parametrize("name", ["C4", "D4", "C8"])
def test_a_moved_image_gives_the_same_bits(name, number):
    dtype, tf32 = kind(number)
    group, batch = as_group(name), 2
    (_, x, weight, bias), options = problem(name, "strided", channels=(3, 4), batch=batch, dtype=dtype)

    def run(x):
        (out,) = call("orbit_conv2d", x, weight, bias, *options, "gelu", tf32=tf32)
        return out.unflatten(0, (group.order, batch))

    rows = run(x)
    for h in exact_elements(group, x.shape[2:]):
        there = reference.act(x, torch.full((batch,), h), group=group)
        order = [group.compose(group.inverse(h), e) for e in range(group.order)]
        for layout in ("contiguous", "channels_last"):
            assert_same(
                run(LAYOUTS[layout](there)), (run(LAYOUTS[layout](x)) if layout != "contiguous" else rows)[order]
            )


def test_what_is_not_a_number_stays_where_it_is():
    for number in KINDS:
        dtype, tf32 = kind(number)
        (_, x, weight, bias), options = problem("C4", "3x3", dtype=dtype)
        x[0, 1, 2, 3], x[0, 0, 5, 5] = torch.nan, torch.inf
        (out,) = call("orbit_conv2d", x, weight, bias, *options, "relu", tf32=tf32)
        like, _ = expected("C4", [torch.zeros_like(out), x, weight, bias], options, "relu")
        assert torch.equal(out.isnan(), like.isnan()) and torch.equal(out.isinf(), like.isinf())
