"""orbit_conv2d_pool: the mean of an activated convolution of the orbit, however the batch is cut."""

import importlib

import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st

import equifast
from equifast import orbit_conv2d_pool, reference

from .cases import DTYPES, GROUPS, KINDS, LAYOUTS, PADDING_MODES, assert_near, assert_near_overall, assert_same, rand
from .test_memory import allocated

module = importlib.import_module("equifast.ops.orbit_conv2d_pool")

ACTIVATIONS = ["none", "relu", "gelu", "silu"]
OPTIONS = [{}, {"stride": 2, "padding": 1}, {"padding": "same"}, {"stride": (1, 3), "dilation": (2, 1)}]


def composed(x, weight, bias=None, *, group, activation="relu", padding_mode="border", **options):
    """What it is equivalent to, in float64 so that only ours rounds."""
    members = reference.orbit(x.double(), group, padding_mode=padding_mode)
    y = F.conv2d(members, weight.double(), None if bias is None else bias.double(), **options)
    return (y if activation == "none" else getattr(F, activation)(y)).mean((2, 3))


@pytest.mark.parametrize("options", OPTIONS, ids=str)
@pytest.mark.parametrize("group", GROUPS, ids=str)
def test_it_is_the_mean_of_an_activated_convolution(group, options):
    for i, dtype in enumerate(DTYPES):
        shape = ((9, 9), (8, 11))[i % 2]
        x, weight, bias = rand(2, 3, *shape, dtype=dtype), rand(4, 3, 3, 3, dtype=dtype), rand(4, dtype=dtype)
        call = {"group": group, "activation": ACTIVATIONS[i], "padding_mode": PADDING_MODES[i % 2], **options}
        for b in (None, bias):
            out = orbit_conv2d_pool(x, weight, b, **call)
            assert out.dtype == dtype and out.is_contiguous()
            assert_near(out, composed(x, weight, b, **call), scale=2)
            assert_near(out, reference.orbit_conv2d_pool(x, weight, b, **call), scale=2)


pairs = st.tuples(st.integers(1, 3), st.integers(1, 3))


@given(
    group=st.sampled_from(GROUPS),
    batch=st.integers(0, 5),
    shape=st.tuples(st.integers(10, 24), st.integers(10, 24)),
    channels=st.tuples(st.integers(1, 6), st.sampled_from([1, 3, 16, 35])),
    kernel=st.tuples(st.integers(1, 4), st.integers(1, 4)),
    stride=pairs,
    dilation=pairs,
    padding=st.tuples(st.integers(0, 3), st.integers(0, 3)),
    layout=st.sampled_from(list(LAYOUTS)),
    activation=st.sampled_from(ACTIVATIONS),
    dtype=st.sampled_from(DTYPES),
    biased=st.booleans(),
)
@settings(max_examples=80)
def test_values_and_gradients(
    group, batch, shape, channels, kernel, stride, dilation, padding, layout, activation, dtype, biased
):
    inputs, outputs = channels
    x = LAYOUTS[layout](rand(batch, inputs, *shape, dtype=dtype))
    leaves = [x, rand(outputs, inputs, *kernel, dtype=dtype), *([rand(outputs, dtype=dtype)] if biased else [])]
    leaves = [leaf.requires_grad_() for leaf in leaves]
    call = {"group": group, "activation": activation, "stride": stride, "padding": padding, "dilation": dilation}
    out, expected = orbit_conv2d_pool(*leaves, **call), composed(*leaves, **call)
    assert_near(out, expected, scale=3)
    upstream = rand(*out.shape, dtype=dtype, seed=1)
    ours = torch.autograd.grad(out, leaves, upstream)
    theirs = torch.autograd.grad(expected, leaves, upstream.double())
    for actual, like in zip(ours, theirs, strict=True):
        assert_near_overall(actual, like, scale=4)


@pytest.mark.parametrize("images", [0.5, 1, 2, 1000])
@pytest.mark.parametrize("group", KINDS, ids=str)
def test_chunks_do_not_show(group, images, monkeypatch):
    leaves = [rand(*shape, dtype=torch.float64).requires_grad_() for shape in ((5, 2, 8, 8), (3, 2, 3, 3), (3,))]

    def run():
        out = orbit_conv2d_pool(*leaves, group=group, padding=1, activation="gelu")
        return out, *torch.autograd.grad(out, leaves, rand(*out.shape, dtype=out.dtype, seed=1))

    expected = run()
    monkeypatch.setattr(module, "CHUNK_BYTES", int(images * group.order * 3 * 8 * 8 * 8))
    for actual, whole in zip(run(), expected, strict=True):
        assert_near(actual, whole)


def test_the_convolution_is_never_in_memory():
    group = equifast.as_group("C4")
    x, weight = torch.rand(64, 3, 64, 64), torch.rand(32, 3, 7, 7).requires_grad_()
    convolved = 4 * group.order * 64 * 32 * 58 * 58

    def run():
        out = orbit_conv2d_pool(x, weight, group=group)
        return torch.autograd.grad(out, weight, torch.ones_like(out))

    assert allocated(run) < convolved / 3


def test_backward_keeps_the_arguments_only():
    saved = []
    leaves = [rand(2, 3, 9, 9).requires_grad_(), rand(4, 3, 3, 3).requires_grad_(), rand(4).requires_grad_()]
    with torch.autograd.graph.saved_tensors_hooks(lambda t: saved.append(t) or t, lambda t: t):
        orbit_conv2d_pool(*leaves, group="C8")
    assert {id(t) for t in saved} <= {id(t) for t in leaves}


@pytest.mark.parametrize(("batch", "out_channels"), [(0, 4), (2, 0)])
def test_nothing_to_convolve(batch, out_channels):
    leaves = [t.requires_grad_() for t in (rand(batch, 3, 7, 7), rand(out_channels, 3, 3, 3), rand(out_channels))]
    out = orbit_conv2d_pool(*leaves, group="D4")
    assert out.shape == (8 * batch, out_channels)
    for leaf, grad in zip(leaves, torch.autograd.grad(out.sum(), leaves), strict=True):
        assert_same(grad, torch.zeros_like(leaf))


def test_autocast_casts_like_orbit_conv2d():
    x, weight = rand(2, 3, 9, 9), rand(4, 3, 3, 3).requires_grad_()
    with torch.autocast("cpu", torch.bfloat16):
        out = orbit_conv2d_pool(x, weight, group="C4")
    assert out.dtype == torch.bfloat16
    assert_near(out, composed(x, weight, group="C4"), scale=2)
    (grad,) = torch.autograd.grad(out.float().sum(), weight)
    assert grad.dtype == torch.float32


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"activation": "tanh"}, "activation: .*tanh"),
        ({"x": rand(2, 3, 2, 9)}, "x: expected H of at least 3"),
        ({"weight": rand(4, 2, 3, 3)}, r"weight: expected \(C_out, 3, kH, kW\)"),
        ({"bias": rand(3)}, r"bias: expected \(4,\)"),
        ({"padding_mode": "reflect"}, "padding_mode: .*reflect"),
        ({"stride": 0}, "stride: expected a positive int"),
        ({"group": "E4"}, "group: expected"),
    ],
)
def test_what_is_wrong_is_named(change, message):
    call = {"x": rand(2, 3, 9, 9), "weight": rand(4, 3, 3, 3), "bias": rand(4), "group": "C4"} | change
    with pytest.raises(ValueError, match=message):
        orbit_conv2d_pool(**call)
