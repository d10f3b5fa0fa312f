"""orbit_conv2d_pool: the mean of an activated convolution of the orbit, however the batch is cut."""

import importlib

import pytest
import torch
import torch.nn.functional as F
from hypothesis import strategies as st

import equifast
from equifast import orbit_conv2d_pool, reference

from ..backend import DEVICE, by_backend, needs, only, over
from ..cases import DTYPES, GROUPS, KINDS, LAYOUTS, PADDING_MODES, assert_near, assert_near_overall, assert_same, rand
from ..convolutions import NUMBERS, PLAIN, activated, layer, output, products_of
from ..definitions import call
from ..test_memory import allocated

pytestmark = [needs("orbit_conv2d_pool"), pytest.mark.usefixtures("float32_in_float32")]

ACTIVATIONS = ["none", "relu", "gelu", "silu"]
OPTIONS = [{}, {"stride": 2, "padding": 1}, {"padding": "same"}, {"stride": (1, 3), "dilation": (2, 1)}]


def composed(x, weight, bias=None, *, group, activation="relu", padding_mode="border", **options):
    """What it is equivalent to, in float64 so that only ours rounds."""
    members = reference.orbit(x.double(), group, padding_mode=padding_mode)
    y = F.conv2d(members, weight.double(), None if bias is None else bias.double(), **options)
    return activated(y, activation).mean((2, 3))


NAMES = ["C1", "C4", "C5", "C8", "D1", "D3", "D4", "D8"]

#: Image and kernel, and stride, padding, dilation.
TURNS = [
    ((5, 6), (2, 3), ((2, 1), (1, 2), (1, 2))),
    ((11, 11), (2, 3), PLAIN),
    ((18, 6), (2, 3), ((2, 2), (1, 1), (1, 1))),
]


@only("cpu", "reference", "gpu", because="tests/triton runs this law with each number of parts or chunks")
@pytest.mark.parametrize("group", NAMES)
def test_every_kind_of_group(group):
    """Dtypes, activations and bias by turns."""
    for turn, geometry in enumerate(TURNS, NAMES.index(group)):
        dtype, activation = DTYPES[turn % 4], ACTIVATIONS[turn // 2 % 4]
        (_, x, weight, bias), options = layer(group, geometry, channels=(2, 5), dtype=dtype)
        bias = bias if turn % 3 > 0 else None
        (out,) = call("orbit_conv2d_pool", x, weight, bias, *options, activation)
        assert out.dtype == dtype
        assert_near(out, output(group, x, weight, bias, options, activation).mean((2, 3)))


@only("cpu", "reference", "gpu", because="tests/triton runs this law with every configuration")
@pytest.mark.parametrize("number", NUMBERS, ids=str)
def test_channels_numbers_and_layouts(number):
    for outputs, inputs, layout in ((1, 3, "contiguous"), (20, 17, "channels_last"), (140, 2, "contiguous")):
        with products_of(number) as dtype:
            geometry = ((7, 7), (2, 3), ((2, 1), (1, 0), (1, 1)))
            (_, x, weight, bias), options = layer("C4", geometry, batch=2, channels=(inputs, outputs), dtype=dtype)
            (out,) = call("orbit_conv2d_pool", LAYOUTS[layout](x), weight, bias, *options, "silu")
            like = output("C4", x, weight, bias, options, "silu").mean((2, 3))
            assert_near_overall(out, like, 400 if number == "tf32" else 2)


@only("cpu", "reference", "gpu", because="tests/triton runs this law with each number of parts or chunks")
@pytest.mark.parametrize("group", NAMES)
def test_gradients_of_every_kind_of_group(group):
    for turn, needed_ones in enumerate(([True, True, True], [False, True, False]), NAMES.index(group)):
        dtype, activation = DTYPES[turn % 4], ACTIVATIONS[turn // 2 % 4]
        (_, *tensors), options = layer(group, ((5, 5), (2, 3), PLAIN), channels=(2, 5), batch=2, dtype=dtype)
        leaves = [t.double().requires_grad_() for t in tensors]
        features = output(group, *leaves, options, activation).mean((2, 3))
        grad = rand(*features.shape, dtype=dtype, seed=3)
        ours = call("orbit_conv2d_pool_backward", grad, *tensors, *options, activation, needed_ones)
        theirs = torch.autograd.grad(features, leaves, grad.double())
        for actual, like, needed in zip(ours, theirs, needed_ones, strict=True):
            assert actual.shape == (like.shape if needed else (0,)) and actual.dtype == dtype
            if needed:
                assert_near_overall(actual, like, scale=4)


@pytest.mark.parametrize(("dtype", "near"), [(torch.float32, 2e-6), (torch.float64, 1e-14)], ids=str)
@pytest.mark.parametrize("activation", ["relu", "gelu", "silu"])
def test_slopes_of_activations_over_their_whole_range(activation, dtype, near):
    """A convolution with 1 is its input, and the gradient of a mean is the slope over the number of pixels."""
    x = torch.linspace(-30, 30, 256, dtype=dtype).view(1, 1, 16, 16).requires_grad_()
    out = orbit_conv2d_pool(x, torch.ones(1, 1, 1, 1, dtype=dtype), group="C1", activation=activation)
    (slope,) = torch.autograd.grad(out, x, torch.full_like(out, 256.0))
    (like,) = torch.autograd.grad(getattr(F, activation)(x).sum(), x)
    torch.testing.assert_close(slope, like, rtol=near, atol=near)


@pytest.mark.parametrize("options", by_backend(OPTIONS, OPTIONS[1:2]), ids=str)
@pytest.mark.parametrize("group", by_backend(GROUPS, GROUPS[3:5], interpreter=GROUPS[4:5]), ids=str)
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


@over(
    80,
    [(GROUPS[3], 2, (6, 5), (2, 3), (2, 3), (1, 2), (1, 1), (0, 1), "transposed", "gelu", torch.float64, True)],
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


@only("cpu", "reference", because="other backends cut batches by other sizes: tests/triton")
@pytest.mark.parametrize("images", [0.5, 1, 2, 1000])
@pytest.mark.parametrize("group", KINDS, ids=str)
def test_chunks_do_not_show(group, images, monkeypatch):
    module = importlib.import_module("equifast.ops.orbit_conv2d_pool")
    leaves = [rand(*shape, dtype=torch.float64).requires_grad_() for shape in ((5, 2, 8, 8), (3, 2, 3, 3), (3,))]

    def run():
        out = orbit_conv2d_pool(*leaves, group=group, padding=1, activation="gelu")
        return out, *torch.autograd.grad(out, leaves, rand(*out.shape, dtype=out.dtype, seed=1))

    expected = run()
    monkeypatch.setattr(module, "CHUNK_BYTES", int(images * group.order * 3 * 8 * 8 * 8))
    for actual, whole in zip(run(), expected, strict=True):
        assert_near(actual, whole)


@only("cpu", "reference", because="too many pixels for kernels that are interpreted")
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


@pytest.mark.parametrize(("group", "order"), [("D4", 8), ("D3", 6)])
@pytest.mark.parametrize(("batch", "out_channels"), [(0, 4), (2, 0)])
def test_nothing_to_convolve(batch, out_channels, group, order):
    leaves = [t.requires_grad_() for t in (rand(batch, 3, 7, 7), rand(out_channels, 3, 3, 3), rand(out_channels))]
    out = orbit_conv2d_pool(*leaves, group=group)
    assert out.shape == (order * batch, out_channels)
    for leaf, grad in zip(leaves, torch.autograd.grad(out.sum(), leaves), strict=True):
        assert_same(grad, torch.zeros_like(leaf))


def test_autocast_casts_like_orbit_conv2d():
    x, weight = rand(2, 3, 9, 9), rand(4, 3, 3, 3).requires_grad_()
    with torch.autocast(DEVICE.type, torch.bfloat16):
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
