"""The native kernels of a network's first layer on a CPU, where their tiles end and beyond; see also tests/ops.

The tests of this file are to be run with every instruction set that EQUIFAST_CPU_CAPABILITY names.
"""

import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st

from equifast import as_group, backends, orbit_conv2d, reference
from equifast.ops.orbit_conv2d_direct import DIRECT_CHANNELS, DirectLayer, Norm, conv2d_direct, suits_direct

from .cases import LAYOUTS, assert_near_overall, assert_same, exact_elements, rand

pytestmark = pytest.mark.skipif(backends.choose("cpu") != "cpu", reason="the native library has these kernels")

DTYPES = list(DIRECT_CHANNELS)
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
    channels=st.tuples(st.integers(1, min(DIRECT_CHANNELS.values())), st.sampled_from([1, 3, 15, 16, 17, 33])),
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
@pytest.mark.parametrize("inputs", [1, 2, 3, 4])
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


def layers_of(x, sizes, seed, plain=False):
    """Layers of random sizes: (output channels, kernel, stride, padding, dilation, activation, bias, norm) each."""
    layers, inputs = [], x.shape[1]
    for k, (outputs, kernel, stride, padding, dilation, activation, biased, normed) in enumerate(sizes):
        new = [rand(outputs, seed=seed + 7 * k + i) for i in range(5)]
        norm = Norm(new[0], new[1].abs(), new[2], new[3] if biased else None) if normed and not plain else Norm()
        weight = rand(outputs, inputs, *kernel, seed=seed + 7 * k + 5)
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


@settings(max_examples=100)
@given(
    group=st.sampled_from(["C1", "C4", "D3"]),
    batch=st.integers(0, 3),
    channels=st.sampled_from([1, 3, 16]),
    sizes=st.lists(LAYER, min_size=1, max_size=4),
    layout=st.sampled_from(list(LAYOUTS)),
    channels_last=st.booleans(),
    padding_mode=st.sampled_from(["border", "zeros"]),
)
def test_layers_together_are_one_after_the_other(group, batch, channels, sizes, layout, channels_last, padding_mode):
    x, table = LAYOUTS[layout](rand(batch, channels, 43, 43)), list(as_group(group).action_table(inverse=True))
    plain = layers_of(x, sizes, 1, plain=True)
    together = conv2d_direct(x, plain, table, padding_mode, channels_last)
    y = conv2d_direct(x, plain[:1], table, padding_mode, False)
    for layer in plain[1:]:
        y = conv2d_direct(y, [layer], list(as_group("C1").action_table(inverse=True)), "border", False)
    assert_same(together, y)
    assert together.is_contiguous(memory_format=torch.channels_last if channels_last else torch.contiguous_format)

    normed = layers_of(x, sizes, 1)
    z = reference.orbit(x, group, padding_mode=padding_mode).double()
    for layer in normed:
        weight, bias, *norm = (None if t is None else t.double() for t in (layer.weight, layer.bias, *layer.norm))
        z = F.conv2d(z, weight, bias, layer.stride, layer.padding, layer.dilation)
        z = z if norm[0] is None else F.batch_norm(z, *norm, False, 0.0, layer.eps)
        z = z if layer.activation == "none" else getattr(F, layer.activation)(z)
    assert_near_overall(conv2d_direct(x, normed, table, padding_mode, channels_last), z)


@pytest.mark.parametrize("threads", [2, 3])
@pytest.mark.parametrize("batch", [1, 3, 40])
def test_threads_change_no_bit_of_layers(batch, threads):
    x, table = rand(batch, 3, 20, 20), list(as_group("C8").action_table(inverse=True))
    layers = layers_of(x, [(16, (3, 3), 2, 1, 1, "gelu", True, True), (20, (3, 3), 2, 1, 1, "relu", True, True)], 1)
    results = []
    for count in (1, threads):
        torch.set_num_threads(count)
        results.append(conv2d_direct(x, layers, table, "border", False))
    torch.set_num_threads(1)
    assert_same(*results)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda a, b: [a, b._replace(weight=b.weight[:, :2])], "weights"),
        (lambda a, b: [a, b._replace(weight=b.weight.double())], "weights"),
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


def test_layers_in_bfloat16_are_refused():
    x, weight = (rand(*size, dtype=torch.bfloat16) for size in ((1, 3, 9, 9), (3, 3, 3, 3)))
    layer = DirectLayer(weight, None, (1, 1), (0, 0), (1, 1), "none")
    table = list(as_group("C4").action_table(inverse=True))
    statistics = Norm(torch.zeros(3), torch.ones(3))
    for layers in ([layer, layer], [layer._replace(norm=statistics)]):
        with pytest.raises(RuntimeError, match="in bfloat16"):
            conv2d_direct(x, layers, table, "border", False)
