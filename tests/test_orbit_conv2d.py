"""orbit_conv2d: F.conv2d of the orbit, however it is cut into chunks."""

import importlib

import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st

from equifast import orbit, orbit_conv2d, reference

from .cases import (
    DTYPES,
    GROUPS,
    KINDS,
    LAYOUTS,
    PADDING_MODES,
    TOLERANCES,
    assert_near,
    assert_near_overall,
    assert_same,
    rand,
)

module = importlib.import_module("equifast.ops.orbit_conv2d")

OPTIONS = [
    {},
    {"stride": 2},
    {"padding": 1},
    {"dilation": 2},
    {"stride": (1, 3), "padding": (2, 0), "dilation": (2, 1)},
    {"padding": "same"},
    {"padding": "valid", "stride": (2, 1)},
    {"padding": (3, 4), "stride": 4},
]


def two_steps(x, weight, bias=None, *, group, padding_mode="border", **options):
    """What it is equivalent to, in float64 so that only ours rounds."""
    members = reference.orbit(x.double(), group, padding_mode=padding_mode)
    return F.conv2d(members, weight.double(), None if bias is None else bias.double(), **options)


@pytest.mark.parametrize("options", OPTIONS, ids=str)
@pytest.mark.parametrize("group", GROUPS, ids=str)
def test_orbit_conv2d_is_conv2d_of_the_orbit(group, options):
    for i, dtype in enumerate(DTYPES):
        shape = ((9, 9), (8, 11))[i % 2]
        x, weight, bias = rand(2, 3, *shape, dtype=dtype), rand(4, 3, 3, 3, dtype=dtype), rand(4, dtype=dtype)
        for b in (None, bias):
            out = orbit_conv2d(x, weight, b, group=group, padding_mode=PADDING_MODES[i % 2], **options)
            expected = two_steps(x, weight, b, group=group, padding_mode=PADDING_MODES[i % 2], **options)
            assert out.dtype == dtype
            assert_near(out, expected, scale=2)
            theirs = reference.orbit_conv2d(x, weight, b, group=group, padding_mode=PADDING_MODES[i % 2], **options)
            assert_near(out, theirs, scale=2)


pairs = st.tuples(st.integers(1, 3), st.integers(1, 3))


@given(
    group=st.sampled_from(GROUPS),
    batch=st.integers(0, 5),
    shape=st.tuples(st.integers(1, 40), st.integers(1, 40)),
    channels=st.tuples(st.integers(1, 6), st.sampled_from([1, 3, 16, 17, 35])),
    kernel=st.tuples(st.integers(1, 4), st.integers(1, 4)),
    stride=pairs,
    dilation=pairs,
    padding=st.tuples(st.integers(0, 3), st.integers(0, 3)),
    layout=st.sampled_from(list(LAYOUTS)),
    activation=st.sampled_from(["none", "relu", "gelu", "silu"]),
    dtype=st.sampled_from(DTYPES),
)
@settings(max_examples=150)
def test_any_size_of_image_and_kernel(
    group, batch, shape, channels, kernel, stride, dilation, padding, layout, activation, dtype
):
    inputs, outputs = channels
    x = LAYOUTS[layout](rand(batch, inputs, *shape, dtype=dtype))
    weight, bias = rand(outputs, inputs, *kernel, dtype=dtype), rand(outputs, dtype=dtype)
    options = {"stride": stride, "padding": padding, "dilation": dilation}
    fits = all(n + 2 * p > d * (k - 1) for n, p, d, k in zip(shape, padding, dilation, kernel, strict=True))
    if not fits:
        with pytest.raises(ValueError, match="x: expected [HW] of at least"):
            orbit_conv2d(x, weight, bias, group=group, activation=activation, **options)
        return
    out = orbit_conv2d(x, weight, bias, group=group, activation=activation, **options)
    expected = two_steps(x, weight, bias, group=group, **options)
    assert_near(out, getattr(F, activation)(expected) if activation != "none" else expected, scale=3)


@given(
    group=st.sampled_from(GROUPS),
    batch=st.sampled_from([0, 1, 3, 33, 70]),
    shape=st.tuples(st.integers(7, 21), st.integers(7, 21)),
    channels=st.tuples(st.integers(1, 6), st.sampled_from([1, 3, 16, 17, 35])),
    kernel=st.tuples(st.integers(1, 6), st.integers(1, 9)),
    stride=pairs,
    dilation=st.tuples(st.integers(1, 2), st.sampled_from([1, 1, 2])),
    padding=st.tuples(st.integers(3, 4), st.integers(5, 6)),
    layout=st.sampled_from(["contiguous", "channels_last", "transposed", "one_row"]),
    wanted=st.sampled_from(["weight", "bias", "both"]),
)
@settings(max_examples=150)
def test_gradients_of_the_parameters_alone(
    group, batch, shape, channels, kernel, stride, dilation, padding, layout, wanted
):
    """The usual case: images are data."""
    inputs, outputs = channels
    x = LAYOUTS[layout](rand(batch, inputs, *shape))
    parameters = rand(outputs, inputs, *kernel).requires_grad_(wanted != "bias"), rand(outputs)
    parameters[1].requires_grad_(wanted != "weight")
    options = {"group": group, "stride": stride, "padding": padding, "dilation": dilation}
    out, like = orbit_conv2d(x, *parameters, **options), two_steps(x, *parameters, **options)
    upstream = LAYOUTS[layout](rand(*out.shape, seed=1))
    leaves = [leaf for leaf in parameters if leaf.requires_grad]
    ours = torch.autograd.grad(out, leaves, upstream)
    theirs = torch.autograd.grad(like, leaves, upstream.double())
    for actual, expected in zip(ours, theirs, strict=True):
        assert_near_overall(actual, expected, scale=2)


@pytest.mark.parametrize("images", [0.4, 1, 3, 8, 1000])
@pytest.mark.parametrize("group", KINDS, ids=str)
def test_chunks_do_not_show(group, images, monkeypatch):
    """Forward and backward, in chunks of less than an image's orbit up to all of the batch."""
    x, weight, bias = (rand(*shape, dtype=torch.float64) for shape in ((5, 2, 8, 8), (3, 2, 3, 3), (3,)))

    def run():
        leaves = [t.clone().requires_grad_() for t in (x, weight, bias)]
        out = orbit_conv2d(*leaves, group=group, padding=1)
        return out, *torch.autograd.grad(out, leaves, rand(*out.shape, dtype=out.dtype, seed=1))

    expected = run()
    image = x[0].numel() * x.element_size()
    monkeypatch.setattr(module, "CHUNK_BYTES", int(images * image * (group.order if images > 1 else 1)))
    chunks = list(module._chunks(x, group.order))
    assert len(chunks) == {0.4: 5 * group.order, 1: 5 * group.order, 3: 2, 8: 1, 1000: 1}[images]
    for actual, whole in zip(run(), expected, strict=True):
        assert_near(actual, whole)


@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("channels", [4, 5])
def test_any_layout(channels, layout):
    for dtype in DTYPES:
        x = LAYOUTS[layout](rand(3, channels, 9, 9, dtype=dtype))
        weight = LAYOUTS[layout](rand(4, channels, 3, 3, dtype=dtype))
        out = orbit_conv2d(x, weight, group="D4", padding=1)
        assert_near(out, two_steps(x, weight, group="D4", padding=1), scale=2)


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("channels", [3, 5])
def test_outputs_lie_in_memory_as_those_of_conv2d(channels, dtype):
    x, weight = rand(2, channels, 9, 9, dtype=dtype), rand(4, channels, 3, 3, dtype=dtype)
    formats = [{"memory_format": torch.contiguous_format}, {"memory_format": torch.channels_last}]
    for a in formats:
        for b in formats:
            out = orbit_conv2d(x.to(**a), weight.to(**b), group="C4")
            like = F.conv2d(x.to(**a), weight.to(**b))
            assert [out.is_contiguous(**f) for f in formats] == [like.is_contiguous(**f) for f in formats]


@pytest.mark.parametrize("group", KINDS, ids=str)
def test_an_image_depends_on_no_other_image(group):
    x, weight, bias = rand(9, 3, 21, 21), rand(20, 3, 3, 3), rand(20)
    together = orbit_conv2d(x, weight, bias, group=group, stride=2).unflatten(0, (group.order, 9))
    for b in (0, 4, 8):
        assert_near(together[:, b], orbit_conv2d(x[b : b + 1], weight, bias, group=group, stride=2), scale=0.1)


@pytest.mark.parametrize("activation", ["relu", "gelu", "silu"])
def test_activations_are_for_inference(activation):
    x, weight, bias = rand(2, 3, 9, 9), rand(4, 3, 3, 3).requires_grad_(), rand(4)
    with pytest.raises(RuntimeError, match="orbit_conv2d: activation is for inference"):
        orbit_conv2d(x, weight, bias, group="D4", activation=activation)
    with torch.no_grad():
        plain = orbit_conv2d(x, weight, bias, group="D4")
        out = orbit_conv2d(x, weight, bias, group="D4", activation=activation)
    assert_near(out, getattr(F, activation)(plain))


@pytest.mark.parametrize("activation", ["relu", "gelu", "silu"])
def test_activations_over_their_whole_range(activation):
    x = torch.linspace(-30, 30, 4096).view(1, 1, 64, 64)
    weight = torch.ones(1, 1, 1, 1)
    out = orbit_conv2d(x, weight, group="C1", activation=activation)
    torch.testing.assert_close(out, getattr(F, activation)(x), rtol=2e-6, atol=2e-6)


@pytest.mark.parametrize(("batch", "out_channels"), [(0, 4), (2, 0)])
def test_nothing_to_convolve(batch, out_channels):
    leaves = [t.requires_grad_() for t in (rand(batch, 3, 7, 7), rand(out_channels, 3, 3, 3), rand(out_channels))]
    out = orbit_conv2d(*leaves, group="D4")
    assert out.shape == (8 * batch, out_channels, 5, 5)
    for leaf, grad in zip(leaves, torch.autograd.grad(out.sum(), leaves), strict=True):
        assert_same(grad, torch.zeros_like(leaf))


def test_autocast_casts_like_conv2d():
    x, weight, bias = rand(2, 3, 9, 9), rand(4, 3, 3, 3).requires_grad_(), rand(4).requires_grad_()
    with torch.autocast("cpu", torch.bfloat16):
        out = orbit_conv2d(x, weight, bias, group="C4")
        mixed = orbit_conv2d(x.double(), weight, bias.half(), group="C4")
        assert torch.is_autocast_enabled("cpu")
        like = F.conv2d(orbit(x, "C4"), weight, bias)
    assert out.dtype == mixed.dtype == like.dtype == torch.bfloat16
    assert_near(out, like)
    assert_near(mixed, like)
    grads = torch.autograd.grad(out.float().square().sum(), (weight, bias))
    theirs = torch.autograd.grad(like.float().square().sum(), (weight, bias))
    for ours, expected in zip(grads, theirs, strict=True):
        assert ours.dtype == torch.float32
        torch.testing.assert_close(ours, expected, rtol=2e-2, atol=2e-2 * expected.abs().max().item())


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16], ids=str)
def test_gradients_of_many_chunks_are_summed_in_a_wide_type(dtype, monkeypatch):
    """A sum of 256 chunks in bfloat16 would lose what comes after the first few."""
    x = torch.ones(256, 1, 4, 4, dtype=dtype)
    weight = torch.zeros(1, 1, 1, 1, dtype=dtype, requires_grad=True)
    bias = torch.zeros(1, dtype=dtype, requires_grad=True)
    monkeypatch.setattr(module, "CHUNK_BYTES", 1)
    out = orbit_conv2d(x, weight, bias, group="C4")
    grads = torch.autograd.grad(out, (weight, bias), torch.full_like(out, 2**-8))
    for grad in grads:
        torch.testing.assert_close(grad.double().flatten(), torch.tensor([64.0]).double(), **TOLERANCES[dtype])
