"""The native kernels of a network's first layer on a CPU, where their tiles end and beyond; see also tests/ops.

The tests of this file are to be run with every instruction set that EQUIFAST_CPU_CAPABILITY names.
"""

import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st

from equifast import as_group, backends, orbit_conv2d, reference
from equifast.ops.orbit_conv2d_direct import DIRECT_CHANNELS, suits_direct

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
