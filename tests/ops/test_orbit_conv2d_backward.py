"""The gradients of orbit_conv2d against float64, on members rounded as in memory."""

import importlib
import itertools

import pytest
import torch
import torch.nn.functional as F
from hypothesis import strategies as st

from equifast import orbit_conv2d, reference
from equifast.ops._patches import are_patches

from ..backend import by_backend, only, over
from ..cases import (
    DTYPES,
    GROUPS,
    LAYOUTS,
    PADDING_MODES,
    SETS,
    TOLERANCES,
    amid_nan,
    assert_near_overall,
    assert_same,
    rand,
)
from ..convolutions import (
    GEOMETRIES,
    NUMBERS,
    PAIRS,
    PATCHES,
    PLAIN,
    TALL,
    gradients,
    layer,
    output,
    products_of,
    tolerance,
)
from ..definitions import call, eager

pytestmark = pytest.mark.usefixtures("float32_in_float32")

ALL = [True, True, True]
NAMES = ["C1", "C4", "C5", "C6", "C8", "D1", "D3", "D4"]

#: Stride, padding, dilation.
OPTIONS = [
    PLAIN,
    ((2, 2), (1, 1), (1, 1)),
    ((2, 1), (1, 2), (1, 2)),
    ((3, 3), (0, 2), (2, 1)),
    ((2, 4), (3, 0), (1, 1)),
]


def check(group, tensors, options, needs=ALL, number=torch.float32, about=""):
    grad, x, weight, _ = tensors
    ours = call("orbit_conv2d_backward", grad, x, weight, *options, needs)
    like = gradients(group, tensors, options)
    for name, actual, expected, needed in zip("xwb", ours, like, needs, strict=True):
        assert actual.dtype == x.dtype and actual.shape == (expected.shape if needed else (0,))
        if needed:
            about = f"{group} {about} {number}, gradient of {name}"
            assert_near_overall(actual, expected, 2 * tolerance(number), about)
    return ours


@pytest.mark.parametrize("group", by_backend([*NAMES, "C36"], [*NAMES, "C36"], interpreter=NAMES))
def test_every_kind_of_group(group, sampling_is_eager):
    first = NAMES.index(group) if group in NAMES else 0
    for i in range(first, first + 3):
        geometry = ((6, 6), (5, 8))[i % 2], ((2, 2), (3, 2), (1, 3))[i % 3], OPTIONS[i % len(OPTIONS)]
        mode = PADDING_MODES[i // 2 % 2]
        check(group, *layer(group, geometry, batch=1 + i % 2, dtype=torch.float64, padding_mode=mode))


@pytest.mark.parametrize("transforms", SETS[1:], ids=map(str, range(1, len(SETS))))
def test_any_maps(transforms):
    x, weight = rand(2, 3, 5, 6, dtype=torch.float64), rand(4, 3, 3, 2, dtype=torch.float64, seed=1)
    grad = rand(2 * transforms.order, 4, 5, 7, dtype=torch.float64, seed=2)
    args = grad, x, weight, list(transforms.action_table(inverse=True)), [1, 1], [1, 1], [1, 1], "border", ALL
    pairs = zip(call("orbit_conv2d_backward", *args), eager("orbit_conv2d_backward", *args), strict=True)
    for actual, expected in pairs:
        assert_near_overall(actual, expected, 10)


@pytest.mark.parametrize("group", ["C4", "C3"])
def test_it_is_the_definition(group):
    (grad, x, weight, _), options = layer(group, ((5, 5), (2, 2), OPTIONS[1]), dtype=torch.float64)
    args = grad, x, weight, *options, ALL
    for actual, expected in zip(
        call("orbit_conv2d_backward", *args), eager("orbit_conv2d_backward", *args), strict=True
    ):
        assert_near_overall(actual, expected, 4)


@only("cpu", "reference", "emulation", "gpu", because="five kernels for each are too many to interpret")
@pytest.mark.parametrize(("geometry", "number"), PAIRS, ids=str)
def test_every_geometry(geometry, number):
    turn = list(GEOMETRIES).index(geometry) + NUMBERS.index(number)
    for group in ("D4", ("C8", "D3")[turn % 2]):
        mode = PADDING_MODES[turn % 2]
        with products_of(number) as dtype:
            tensors, options = layer(group, geometry, channels=(3, 4), dtype=dtype, padding_mode=mode)
            check(group, tensors, options, number=number, about=f"{geometry} {mode}")


@only("cpu", "reference", "emulation", "gpu", because="NumPy reads for interpreted kernels")
@pytest.mark.sanitized
@pytest.mark.parametrize("number", NUMBERS, ids=str)
@pytest.mark.parametrize(("geometry", "group"), [("3x3", "C3"), ("even", "D2"), ("far apart", "D4")])
def test_nothing_beside_a_tensor_is_read(geometry, group, number):
    with products_of(number) as dtype:
        tensors, options = layer(group, geometry, channels=(2, 3), dtype=dtype)
        check(group, [amid_nan(t, 61) for t in tensors], options, number=number, about=geometry)


@only("cpu", "reference", "emulation", "gpu", because="too many pixels for kernels that are interpreted")
@pytest.mark.parametrize("number", NUMBERS, ids=str)
@pytest.mark.parametrize("group", ["C2", "C3"])
def test_some_rows_of_a_kernel_at_a_time(group, number):
    with products_of(number) as dtype:
        tensors, options = layer(group, TALL, channels=(1, 3), dtype=dtype)
        check(group, tensors, options, number=number)


@pytest.mark.parametrize("shape", [(1, 1), (1, 7), (9, 2), (17, 17), (19, 33)], ids=str)
def test_ragged_sizes(shape, sampling_is_eager):
    for kernel, options in (
        ((1, 1), OPTIONS[0]),
        ((4, 3), ((2, 2), (2, 2), (1, 1))),
        ((5, 5), ((5, 5), (2, 2), (1, 1))),
    ):
        check("D1", *layer("D1", (shape, kernel, options), channels=(1, 2)))


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
def test_dtypes_and_layouts(dtype, sampling_is_eager):
    layouts = ["contiguous", "channels_last", "batch_last", "transposed", "every_other_column", "one_image"]
    for i, (layout, upstream) in enumerate(zip(layouts, layouts[1:] + layouts[:1], strict=True)):
        group, channels = ("C4", "D1", "C6", "D1", "C3", "D1")[i], ((3, 4), (16, 17))[i % 2]
        (grad, x, weight, bias), options = layer(
            group, ((6, 6), (2, 2), OPTIONS[i % 2]), channels=channels, dtype=dtype
        )
        weight = LAYOUTS["channels_last" if i % 2 else "transposed"](weight)
        tensors = [LAYOUTS[upstream](grad), LAYOUTS[layout](x), weight, bias]
        check(group, tensors, options, about=f"{layout} {upstream}")


@only("cpu", "reference", "emulation", "gpu", because="the test above has what is left of time to interpret them")
@pytest.mark.parametrize("layout", LAYOUTS)
def test_any_layout(layout):
    names = list(LAYOUTS)
    other = LAYOUTS[names[(names.index(layout) + 5) % len(names)]]
    for dtype, channels in ((torch.float32, (3, 4)), (torch.bfloat16, (8, 8))):
        (grad, x, weight, bias), options = layer("D3", "3x3", channels=channels, dtype=dtype, batch=2)
        check("D3", [other(grad), LAYOUTS[layout](x), LAYOUTS[layout](weight), bias], options, about=layout)


@pytest.mark.sanitized
@pytest.mark.parametrize("group", ["C4", "C6"])
def test_only_what_is_needed(group, sampling_is_eager):
    tensors, options = layer(group, "even", channels=(2, 3), dtype=torch.float64)
    for needs in itertools.product([False, True], repeat=3):
        check(group, tensors, options, list(needs), about=f"{needs}")


@pytest.mark.parametrize("outputs", [1, 3, 16, 20, 70])
def test_channels(outputs, sampling_is_eager):
    for inputs in (1, 4, 20):
        check("D1", *layer("D1", ((6, 6), (2, 2), OPTIONS[1]), channels=(inputs, outputs)), about=f"{inputs}")


@only("cpu", "reference", "emulation", "gpu", because="the test above has what is left of time to interpret them")
@pytest.mark.parametrize("outputs", [1, 3, 16, 17, 70])
@pytest.mark.parametrize("inputs", [1, 3, 5, 20])
def test_channels_of_every_width(inputs, outputs):
    for number in ("tf32", torch.float32, torch.bfloat16)[inputs % 2 :]:
        with products_of(number) as dtype:
            tensors, options = layer("C2", "3x3", channels=(inputs, outputs), dtype=dtype, batch=2)
            check("C2", tensors, options, number=number, about=f"{inputs} to {outputs}")


@pytest.mark.sanitized
@pytest.mark.parametrize("group", ["C4", "C8", "D3"])
@pytest.mark.parametrize(("batch", "outputs"), [(0, 4), (2, 0)])
def test_nothing_in_nothing_out(group, batch, outputs):
    (grad, x, weight, bias), options = layer(group, "uneven", batch=batch, channels=(2, outputs))
    for needs in itertools.product([False, True], repeat=3):
        grads = call("orbit_conv2d_backward", grad, x, weight, *options, list(needs))
        for ours, leaf, needed in zip(grads, (x, weight, bias), needs, strict=True):
            assert_same(ours, torch.zeros_like(leaf) if needed else leaf.new_empty(0))


@only("cpu", "reference", because="other backends have one kernel for all kernel sizes")
@pytest.mark.parametrize("layout", ["contiguous", "channels_last", "cropped"])
@pytest.mark.parametrize("group", ["C4", "D3", "C6"])
@pytest.mark.parametrize(("size", "kernel"), PATCHES, ids=str)
def test_patches(size, kernel, group, layout):
    geometry = (size, kernel, (kernel, (0, 0), (1, 1)))
    for dtype, batch in ((torch.float64, 3), (torch.float32, 1), (torch.float32, 3)):
        tensors, options = layer(group, geometry, channels=(17, 9), batch=batch, dtype=dtype)
        tensors[:2] = map(LAYOUTS[layout], tensors[:2])
        assert are_patches(tensors[1], tensors[2], *options[1:4])
        for needs in itertools.product([False, True], repeat=3):
            check(group, tensors, options, list(needs), about=f"{layout} {needs}")


@pytest.mark.parametrize("group", ["C4", "C6"])
def test_the_same_bits_every_time(group, sampling_is_eager):
    (grad, x, weight, _), options = layer(group, ((9, 9), (2, 2), PLAIN))
    for a, b in zip(*(call("orbit_conv2d_backward", grad, x, weight, *options, ALL) for _ in range(2)), strict=True):
        assert_same(a, b)


#: Group, geometry, and where infinite pixels are: everywhere, or where just one output reads them, or none.
INFINITE = [
    *(("D2", geometry, (slice(None, None, 5), slice(None, None, 4))) for geometry in [*GEOMETRIES, TALL]),
    ("C1", TALL, (65, slice(None, None, 4))),  # in the row after that of the fifth place
    (
        "C1",
        ((4, 15), (4, 4), ((4, 4), (0, 0), (1, 1))),
        (slice(None), slice(13, None)),
    ),  # where a fourth place would be
    ("C1", "7x7", (slice(None), slice(12, None))),
]


@only("emulation", "gpu", because="convolution libraries for CPUs multiply by zeros beside an image")
@pytest.mark.parametrize("number", NUMBERS, ids=str)
@pytest.mark.parametrize(("group", "geometry", "where"), INFINITE, ids=lambda v: v if isinstance(v, str) else "")
def test_infinity_stays_where_it_belongs(group, geometry, where, number):
    """What is read beside a kernel, or where an image has no place, counts for nothing: not even 0·∞."""
    with products_of(number) as dtype:
        (grad, x, weight, bias), options = layer(group, geometry, channels=(2, 3), dtype=dtype)
        x[(..., *where)] = torch.inf
        weight, grad = weight.abs() + 1, grad.abs() + 1
        leaf = weight.double().requires_grad_()
        like = output(group, x, leaf, bias, options)
        (out,) = call("orbit_conv2d", x, weight, bias, *options, "none")
        assert torch.equal(out.isfinite(), like.isfinite())
        _, grad_weight, _ = call("orbit_conv2d_backward", grad, x, weight, *options, ALL)
        (grad_like,) = torch.autograd.grad(like, leaf, grad.double())
        assert torch.equal(grad_weight.isfinite(), grad_like.isfinite())


pairs = st.tuples(st.integers(1, 3), st.integers(1, 3))


@over(
    150,
    [(GROUPS[3], 2, (9, 8), (2, 5), (2, 3), (1, 2), (1, 1), (3, 5), "transposed", "both")],
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
def test_gradients_of_the_parameters_alone(
    group, batch, shape, channels, kernel, stride, dilation, padding, layout, wanted
):
    """The usual case: images are data."""
    inputs, outputs = channels
    x = LAYOUTS[layout](rand(batch, inputs, *shape))
    parameters = rand(outputs, inputs, *kernel).requires_grad_(wanted != "bias"), rand(outputs)
    parameters[1].requires_grad_(wanted != "weight")
    options = {"stride": stride, "padding": padding, "dilation": dilation}
    out = orbit_conv2d(x, *parameters, group=group, **options)
    like = F.conv2d(reference.orbit(x.double(), group), *(p.double() for p in parameters), **options)
    upstream = LAYOUTS[layout](rand(*out.shape, seed=1))
    leaves = [leaf for leaf in parameters if leaf.requires_grad]
    ours = torch.autograd.grad(out, leaves, upstream)
    theirs = torch.autograd.grad(like, leaves, upstream.double())
    for actual, expected in zip(ours, theirs, strict=True):
        assert_near_overall(actual, expected, scale=2)


@only("cpu", "reference", because="other backends cut nothing into chunks")
@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16], ids=str)
def test_gradients_of_many_chunks_are_summed_in_a_wide_type(dtype, monkeypatch):
    """A sum of 256 chunks in bfloat16 would lose what comes after the first few."""
    x = torch.ones(256, 1, 4, 4, dtype=dtype)
    weight = torch.zeros(1, 1, 1, 1, dtype=dtype, requires_grad=True)
    bias = torch.zeros(1, dtype=dtype, requires_grad=True)
    monkeypatch.setattr(importlib.import_module("equifast.ops.orbit_conv2d"), "CHUNK_BYTES", 1)
    out = orbit_conv2d(x, weight, bias, group="C4")
    grads = torch.autograd.grad(out, (weight, bias), torch.full_like(out, 2**-8))
    for grad in grads:
        torch.testing.assert_close(grad.double().flatten(), torch.tensor([64.0]).double(), **TOLERANCES[dtype])
