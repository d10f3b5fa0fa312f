"""The native kernels of a network's first layer on a CPU, where their tiles end and beyond; see also tests/ops.

The tests of this file are to be run with every instruction set that EQUIFAST_CPU_CAPABILITY names.
"""

import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st

from equifast import as_group, backends, orbit_conv2d, reference
from equifast.ops.orbit_conv2d_direct import (
    DIRECT_CHANNELS,
    DIRECT_DTYPES,
    DirectLayer,
    Norm,
    conv2d_direct,
    suits_direct,
)

from .cases import LAYOUTS, assert_near_overall, assert_same, exact_elements, rand

pytestmark = pytest.mark.skipif(backends.choose("cpu") != "cpu", reason="the native library has these kernels")

DTYPES = list(DIRECT_DTYPES)
#: Widths of outputs and of kernels about the ends of tiles (16 pixels, 48 at a time) and of runs (32 values).
WIDTHS = [1, 2, 15, 16, 17, 31, 33, 47, 48, 49, 64, 65, 97]
KERNELS = [1, 2, 3, 5, 7, 8, 9, 15, 16, 17, 33]


def expected(x, weight, bias, group, activation="none", **options):
    """In float64, of the members as they are in the dtype of x."""
    members = reference.orbit(x, group).double()
    y = F.conv2d(members, weight.double(), None if bias is None else bias.double(), **options)
    return y if activation == "none" else getattr(F, activation)(y)


@settings(max_examples=150)
@given(
    dtype=st.sampled_from(DTYPES),
    group=st.sampled_from(["C1", "C4", "D3"]),
    channels=st.tuples(st.integers(1, DIRECT_CHANNELS), st.sampled_from([1, 3, 15, 16, 17, 33])),
    out_width=st.sampled_from(WIDTHS),
    kernel=st.tuples(st.integers(1, 4), st.sampled_from(KERNELS)),
    stride=st.integers(1, 3),
    dilation=st.tuples(st.integers(1, 2), st.integers(1, 2)),
    padding=st.integers(0, 2),
    activation=st.sampled_from(["none", "relu", "gelu", "silu"]),
    bias=st.booleans(),
    layouts=st.tuples(st.sampled_from(list(LAYOUTS)), st.booleans()),
)
def test_any_width(
    dtype, group, channels, out_width, kernel, stride, dilation, padding, activation, bias, layouts
):  # fmt: skip
    inputs, outputs = channels
    width = (out_width - 1) * stride + dilation[1] * (kernel[1] - 1) + 1 - 2 * padding
    height = max(dilation[0] * (kernel[0] - 1) + 1 - 2 * padding, 1) + 3
    x = LAYOUTS[layouts[0]](rand(2, inputs, height, max(width, 1), dtype=dtype))
    weight = rand(outputs, inputs, *kernel, dtype=dtype, seed=1)
    if layouts[1]:
        weight = weight.contiguous(memory_format=torch.channels_last)
    b = rand(outputs, dtype=dtype, seed=2) if bias else None
    options = {"stride": stride, "padding": padding, "dilation": dilation}
    assert suits_direct(x, weight)
    out = orbit_conv2d(x, weight, b, group=group, activation=activation, **options)
    assert out.dtype == dtype
    assert_near_overall(out, expected(x, weight, b, group, activation, **options))


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("layout", ["contiguous", "channels_last", "transposed", "every_other_column"])
@pytest.mark.parametrize("name", ["C4", "D4", "C8"])
def test_a_moved_image_gives_the_same_bits(name, layout, dtype):
    group, batch = as_group(name), 5
    weight, bias = rand(20, 3, 7, 7, dtype=dtype), rand(20, dtype=dtype)
    for side, options in ((40, {"stride": 2}), (21, {"padding": 3, "dilation": 2})):
        x = rand(batch, 3, side, side, dtype=dtype)

        def run(x, options=options):
            out = orbit_conv2d(LAYOUTS[layout](x), weight, bias, group=group, activation="gelu", **options)
            return out.unflatten(0, (group.order, batch))

        rows = run(x)
        for h in exact_elements(group, (side, side)):
            moved = reference.act(x, torch.full((batch,), h), group=group)
            assert_same(run(moved), rows[[group.compose(group.inverse(h), e) for e in range(group.order)]])


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("inputs", [1, 2, 3, 4, 5, 8, 13, 16])
@pytest.mark.parametrize("value", [torch.nan, torch.inf])
def test_an_output_that_does_not_read_a_pixel_does_not_know_it(value, inputs, dtype):
    """A kernel that pads its patches with zero weights must not multiply them by what is in the image."""
    for kernel, stride, padding in ((3, 1, 0), (7, 2, 2), (5, 3, 1), (1, 1, 0)):
        x, weight = rand(3, inputs, 23, 23, dtype=dtype), rand(17, inputs, kernel, kernel, dtype=dtype)
        clean = orbit_conv2d(x, weight, group="D4", stride=stride, padding=padding)
        x[1, -1, 7, 11], x[1, 0, 22, 22], x[2, 0, 0, 4] = value, value, value
        out = orbit_conv2d(x, weight, group="D4", stride=stride, padding=padding)
        members = reference.orbit(x, "D4").isfinite().logical_not().double()
        reads = F.conv2d(members, torch.ones_like(weight, dtype=torch.float64), None, stride, padding) > 0
        assert torch.equal(out.isfinite(), ~reads)
        assert_same(out.where(~reads, 0), clean.where(~reads, 0))


@pytest.mark.parametrize("threads", [2, 3])
@pytest.mark.parametrize("batch", [0, 1, 3, 40])
def test_threads_change_no_bit_in_bfloat16(batch, threads):
    x, weight, bias = (rand(*size, dtype=torch.bfloat16) for size in ((batch, 3, 12, 12), (20, 3, 3, 3), (20,)))
    results = []
    for count in (1, threads):
        torch.set_num_threads(count)
        results.append(orbit_conv2d(x, weight, bias, group="C8", padding=1, activation="gelu"))
    torch.set_num_threads(1)
    assert_same(*results)


@pytest.mark.parametrize("sizes", [(4, 3, 5, 5), (0, 3, 3, 3)])
def test_no_output_in_bfloat16(sizes):
    x = rand(0 if sizes[0] else 2, 3, 9, 9, dtype=torch.bfloat16)
    out = orbit_conv2d(x, rand(*sizes, dtype=torch.bfloat16), group="D4", padding=1)
    assert out.numel() == 0 and out.dtype == torch.bfloat16


def test_zeros_and_tiny_numbers():
    """Sums of subnormal numbers may be zero, as in oneDNN."""
    weight = torch.ones(1, 1, 3, 3, dtype=torch.bfloat16)
    for value in (0.0, 1e-40, 1e-30, 3e38):
        x = torch.full((1, 1, 5, 5), value, dtype=torch.bfloat16)
        out = orbit_conv2d(x, weight, group="C4")
        nine = torch.tensor(9 * value).bfloat16().expand_as(out)
        torch.testing.assert_close(out, nine, rtol=1e-2, atol=1e-38)


def layers_of(x, sizes, seed, plain=False, dtype=torch.float32):
    """Layers of random sizes: (output channels, kernel, stride, padding, dilation, activation, bias, norm) each."""
    layers, inputs = [], x.shape[1]
    for k, (outputs, kernel, stride, padding, dilation, activation, biased, normed) in enumerate(sizes):
        new = [rand(outputs, seed=seed + 7 * k + i, dtype=dtype) for i in range(5)]
        norm = Norm(new[0], new[1].abs(), new[2], new[3] if biased else None) if normed and not plain else Norm()
        weight = rand(outputs, inputs, *kernel, seed=seed + 7 * k + 5, dtype=dtype)
        options = ((stride, 1), (padding, padding), (1, dilation), activation)
        layers.append(DirectLayer(weight, new[4] if biased else None, *options, norm, 0.5 if normed else 0.0))
        inputs = outputs
    return layers


LAYER = st.tuples(
    st.sampled_from([1, 3, 16, 17]),
    st.tuples(st.integers(1, 3), st.sampled_from([1, 2, 3, 5])),
    st.integers(1, 2),
    st.integers(0, 2),
    st.integers(1, 2),
    st.sampled_from(["none", "relu", "gelu", "silu"]),
    st.booleans(),
    st.booleans(),
)


def one_after_the_other(x, layers, table, padding_mode):
    y = conv2d_direct(x, layers[:1], table, padding_mode, False)
    for layer in layers[1:]:
        y = conv2d_direct(y, [layer], list(as_group("C1").action_table(inverse=True)), "border", False)
    return y


def in_float64(x, layers, group, padding_mode):
    z = reference.orbit(x, group, padding_mode=padding_mode).double()
    for layer in layers:
        weight, bias, *norm = (None if t is None else t.double() for t in (layer.weight, layer.bias, *layer.norm))
        z = F.conv2d(z, weight, bias, layer.stride, layer.padding, layer.dilation)
        z = z if norm[0] is None else F.batch_norm(z, *norm, False, 0.0, layer.eps)
        z = z if layer.activation == "none" else getattr(F, layer.activation)(z)
    return z


@settings(max_examples=200)
@given(
    dtypes=st.sampled_from(
        [(torch.float32, torch.float32), (torch.bfloat16, torch.bfloat16), (torch.bfloat16, torch.float32)]
    ),
    group=st.sampled_from(["C1", "C4", "D3"]),
    batch=st.integers(0, 3),
    channels=st.sampled_from([1, 3, 16]),
    sizes=st.lists(LAYER, min_size=1, max_size=4),
    layout=st.sampled_from(list(LAYOUTS)),
    channels_last=st.booleans(),
    padding_mode=st.sampled_from(["border", "zeros"]),
)
def test_layers_together_are_one_after_the_other(
    dtypes, group, batch, channels, sizes, layout, channels_last, padding_mode
):
    """Layers of bfloat16 images may have parameters in float32."""
    x = LAYOUTS[layout](rand(batch, channels, 43, 43, dtype=dtypes[0]))
    table = list(as_group(group).action_table(inverse=True))
    plain = layers_of(x, sizes, 1, plain=True, dtype=dtypes[1])
    together = conv2d_direct(x, plain, table, padding_mode, channels_last)
    apart = one_after_the_other(x, plain, table, padding_mode)
    if dtypes[0] == torch.float32:
        assert_same(together, apart)
    else:  # what is between two layers may be rounded, or not
        assert_near_overall(together, apart, scale=2)
    assert together.is_contiguous(memory_format=torch.channels_last if channels_last else torch.contiguous_format)

    normed = layers_of(x, sizes, 1, dtype=dtypes[1])
    out = conv2d_direct(x, normed, table, padding_mode, channels_last)
    assert out.dtype == x.dtype
    assert_near_overall(out, in_float64(x, normed, group, padding_mode), scale=1 if x.dtype == torch.float32 else 2)


#: Layers as those of `ConvNetwork`, and others: tiles read these from a frame, those from copies.
NETWORKS = {
    "strides of 2": [(16, (7, 7), 2, 0, 1, "gelu", True, True), (32, (7, 7), 2, 1, 1, "gelu", True, True)],
    "strides of 1": [(16, (3, 3), 1, 1, 1, "silu", True, True), (8, (5, 5), 1, 2, 1, "relu", True, False)],
    "dilated": [(12, (3, 3), 1, 1, 2, "gelu", False, True), (16, (3, 2), 2, 2, 2, "none", True, False)],
    "few channels": [(2, (3, 3), 2, 1, 1, "gelu", True, True), (3, (3, 3), 1, 1, 1, "gelu", True, True)],
}


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("sizes", NETWORKS.values(), ids=list(NETWORKS))
@pytest.mark.parametrize("value", [torch.nan, torch.inf])
def test_pixels_of_layers_know_what_they_read_alone(value, sizes, dtype):
    x, table = rand(3, 3, 49, 49, dtype=dtype), list(as_group("D4").action_table(inverse=True))
    layers = layers_of(x, [(16, (5, 5), 2, 1, 1, "gelu", True, True), *sizes], 1, dtype=dtype)
    clean = conv2d_direct(x, layers, table, "border", False)
    x[1, -1, 17, 21], x[1, 0, 48, 48], x[2, 0, 0, 4] = value, value, value
    out = conv2d_direct(x, layers, table, "border", False)
    reads = reference.orbit(x, "D4").isfinite().logical_not().any(1, keepdim=True).double()
    for layer in layers:
        ones = torch.ones(1, 1, *layer.weight.shape[2:], dtype=torch.float64)
        reads = F.conv2d(reads, ones, None, layer.stride, layer.padding, layer.dilation).sign()
    reads = reads.bool().expand_as(out)
    assert not reads.all()
    assert_same(out.where(~reads, 0), clean.where(~reads, 0))
    if torch.tensor(value).isnan():
        assert out[reads].isnan().all()


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("sizes", NETWORKS.values(), ids=list(NETWORKS))
@pytest.mark.parametrize("name", ["C4", "D4", "C8"])
def test_a_moved_image_gives_the_same_bits_of_layers(name, sizes, dtype):
    group, batch, side = as_group(name), 3, 41
    x, table = rand(batch, 3, side, side, dtype=dtype), list(group.action_table(inverse=True))
    layers = layers_of(x, [(16, (5, 5), 2, 1, 1, "gelu", True, True), *sizes], 1, dtype=dtype)

    def run(x):
        return conv2d_direct(x, layers, table, "border", False).unflatten(0, (group.order, batch))

    rows = run(x)
    for h in exact_elements(group, (side, side)):
        moved = reference.act(x, torch.full((batch,), h), group=group)
        assert_same(run(moved), rows[[group.compose(group.inverse(h), e) for e in range(group.order)]])


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("threads", [2, 3])
@pytest.mark.parametrize("batch", [1, 3, 40])
def test_threads_change_no_bit_of_layers(batch, threads, dtype):
    x, table = rand(batch, 3, 20, 20, dtype=dtype), list(as_group("C8").action_table(inverse=True))
    sizes = [(16, (3, 3), 2, 1, 1, "gelu", True, True), (20, (3, 3), 2, 1, 1, "relu", True, True)]
    layers, results = layers_of(x, sizes, 1, dtype=dtype), []
    for count in (1, threads):
        torch.set_num_threads(count)
        results.append(conv2d_direct(x, layers, table, "border", False))
    torch.set_num_threads(1)
    assert_same(*results)


def test_many_channels_between_layers_in_bfloat16():
    """More of them than a tile has columns."""
    x, table = rand(2, 3, 15, 15, dtype=torch.bfloat16), list(as_group("C4").action_table(inverse=True))
    for channels in (31, 32, 33, 40):
        sizes = [(channels, (3, 3), 1, 1, 1, "gelu", True, True), (16, (3, 3), 2, 1, 1, "none", True, False)]
        layers = layers_of(x, sizes, 1, dtype=torch.bfloat16)
        assert_near_overall(conv2d_direct(x, layers, table, "border", False), in_float64(x, layers, "C4", "border"))


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda a, b: [a, b._replace(weight=b.weight[:, :2])], "weights"),
        (lambda a, b: [a, b._replace(weight=b.weight.double())], "weights"),
        (lambda a, b: [a, b._replace(weight=b.weight.bfloat16())], "weights"),
        (lambda a, b: [a, b._replace(bias=a.weight[0, 0, 0])], "bias"),
        (lambda a, b: [a, b._replace(norm=Norm(a.weight[0, 0, 0], a.weight[0, 0, 0]))], "norms"),
        (lambda a, b: [a, b._replace(norm=Norm(b.weight[:, 0, 0, 0]))], "norms"),
        (lambda a, b: [a, b._replace(stride=(1,))], "weights"),
        (lambda a, b: [a, b._replace(activation="tanh")], "activation"),
        (lambda a, b: [a, b, b._replace(weight=rand(5, 5, 9, 9))], "too small"),
        (lambda a, b: [], "weights"),
    ],
)
def test_layers_that_do_not_fit_are_refused(change, message):
    x, table = rand(1, 3, 10, 10), list(as_group("C4").action_table(inverse=True))
    layers = layers_of(x, [(4, (3, 3), 1, 0, 1, "none", True, False), (5, (3, 3), 1, 0, 1, "none", True, False)], 1)
    with pytest.raises(RuntimeError, match=message):
        conv2d_direct(x, change(*layers), table, "border", False)
