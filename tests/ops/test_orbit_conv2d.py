"""orbit_conv2d: F.conv2d of the orbit, in every geometry, however it is cut into chunks."""

import importlib

import pytest
import torch
import torch.nn.functional as F
from hypothesis import strategies as st

from equifast import as_group, orbit, orbit_conv2d, reference
from equifast.ops._half_turns import pairs_of
from equifast.ops._patches import are_patches

from ..backend import DEVICE, by_backend, only, over
from ..cases import (
    DTYPES,
    GROUPS,
    KINDS,
    LAYOUTS,
    PADDING_MODES,
    SETS,
    amid_nan,
    assert_near,
    assert_near_overall,
    assert_same,
    exact_elements,
    rand,
)
from ..convolutions import (
    GEOMETRIES,
    NUMBERS,
    PAIRS,
    PATCHES,
    PLAIN,
    TALL,
    activated,
    layer,
    output,
    products_of,
    tolerance,
)
from ..definitions import call

pytestmark = pytest.mark.usefixtures("float32_in_float32")

ACTIVATIONS = ["none", "relu", "gelu", "silu"]
NAMES = ["C1", "C4", "C5", "C6", "C8", "D1", "D3", "D4", "D8"]
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


@pytest.mark.parametrize("transforms", SETS[:3], ids=map(str, range(3)))
def test_any_maps(transforms):
    for i, size in enumerate(((7, 7), (5, 8))):
        x, weight, bias = rand(2, 3, *size), rand(4, 3, 3, 2, seed=1), rand(4, seed=2)
        options = {"group": transforms, "padding": i, "padding_mode": PADDING_MODES[i]}
        assert_near(orbit_conv2d(x, weight, bias, **options), two_steps(x, weight, bias, **options), scale=4)


def check(group, tensors, options, activation="none", number=torch.float32, about=""):
    _, x, weight, bias = tensors
    (out,) = call("orbit_conv2d", x, weight, bias, *options, activation)
    like = output(group, x, weight, bias, options, activation)
    assert (out.dtype, out.shape) == (x.dtype, like.shape)
    about = f"{group} {about} {activation} {number}"
    if number == "tf32":
        assert_near_overall(out, like, tolerance(number), about)
    else:
        assert_near(out, like, tolerance(number), about)
    return out


@pytest.mark.parametrize("options", by_backend(OPTIONS, OPTIONS[4:6], interpreter=OPTIONS[5:6]), ids=str)
@pytest.mark.parametrize("group", by_backend(GROUPS, GROUPS[3:5], interpreter=GROUPS[3:4]), ids=str)
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


#: Image and kernel, and stride, padding, dilation.
TURNS = [
    ((6, 6), (2, 3), PLAIN),
    ((9, 9), (2, 3), ((2, 2), (1, 1), (1, 1))),
    ((5, 8), (2, 3), ((2, 1), (1, 2), (1, 2))),
    ((10, 10), (2, 3), ((1, 9), (2, 0), (2, 1))),
]


@pytest.mark.parametrize("group", by_backend([*NAMES, "C36"], [*NAMES, "C36"], interpreter=NAMES))
def test_every_kind_of_group(group):
    """Dtypes, layouts, padding modes, activations and bias by turns."""
    for turn, geometry in enumerate(TURNS, NAMES.index(group) if group in NAMES else 0):
        mode, dtype = PADDING_MODES[turn % 2], DTYPES[turn % 4]
        tensors, options = layer(group, geometry, channels=(2, 5), batch=1 + turn % 2, dtype=dtype, padding_mode=mode)
        tensors[1] = list(LAYOUTS.values())[turn % len(LAYOUTS)](tensors[1])
        tensors[3] = tensors[3] if turn % 3 > 0 else None
        out = check(group, tensors, options, ACTIVATIONS[turn // 2 % 4])
        assert_near(out, output(group, *tensors[1:], options, ACTIVATIONS[turn // 2 % 4]))


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


pairs = st.tuples(st.integers(1, 3), st.integers(1, 3))


@over(
    150,
    [(GROUPS[3], 2, (5, 7), (2, 17), (2, 3), (1, 2), (2, 1), (0, 2), "transposed", "relu", torch.float16)],
    group=st.sampled_from(GROUPS),
    batch=st.integers(0, 5),
    shape=st.tuples(st.integers(1, 40), st.integers(1, 40)),
    channels=st.tuples(st.integers(1, 6), st.sampled_from([1, 3, 16, 17, 35])),
    kernel=st.tuples(st.integers(1, 4), st.integers(1, 8)),
    stride=pairs,
    dilation=pairs,
    padding=st.tuples(st.integers(0, 3), st.integers(0, 3)),
    layout=st.sampled_from(list(LAYOUTS)),
    activation=st.sampled_from(ACTIVATIONS),
    dtype=st.sampled_from(DTYPES),
)
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
    assert_near(out, activated(two_steps(x, weight, bias, group=group, **options), activation), scale=3)


@only("cpu", "reference", "emulation", "gpu", because="the test below has as many outputs")
@pytest.mark.parametrize("outputs", [1, 3, 16, 17, 70])
@pytest.mark.parametrize("inputs", [1, 3, 5, 20])
def test_channels(inputs, outputs):
    for number in ("tf32", torch.float32, torch.bfloat16, torch.float64)[inputs % 2 :]:
        with products_of(number) as dtype:
            tensors, options = layer("C2", "3x3", channels=(inputs, outputs), dtype=dtype, batch=2)
            check("C2", tensors, options, number=number, about=f"{inputs} to {outputs}")


@pytest.mark.parametrize("outputs", [1, 3, 16, 20, 70])
def test_patches_longer_than_a_block(outputs):
    """They are read along themselves, as the stride is large."""
    tensors, options = layer("D4", ((18, 18), (8, 9), ((8, 9), (0, 0), (1, 1))), channels=(1, outputs))
    check("D4", tensors, options, "gelu")


@pytest.mark.parametrize("name", [f"{kind}{n}" for kind in "CD" for n in range(1, 13)])
def test_elements_are_paired_by_the_half_turn(name):
    """`reference.act` by the second element of a pair is that by the first one, turned by half."""
    group, x = as_group(name), rand(1, 1, 4, 6)
    pairs = pairs_of(group.action_table(inverse=True), x, rand(1, 1, 2, 3))
    half_turns = [e for e in range(group.order) if group.split(e) == (group.n / 2, 0)]
    assert len(pairs) == len(half_turns) * group.order // 2
    assert sorted(e for pair in pairs for e in pair) == (list(range(group.order)) if half_turns else [])
    for pair in pairs:
        first, second = (reference.orbit(x, group)[e] for e in pair)
        assert_same(second, first.rot90(2, (1, 2)))
    assert not pairs_of(group.action_table(inverse=True), x, rand(1, 1, 3, 3))  # leaves a margin


@only("cpu", "reference", because="other backends have one kernel for all kernel sizes")
@pytest.mark.parametrize("value", [torch.nan, torch.inf, -torch.inf, 3e38])
@pytest.mark.parametrize("where", ["x", "weight", "bias"])
def test_patches_of_what_is_not_finite(where, value):
    """Each output is finite, infinite or NaN as by the definition, and so is each gradient."""
    tensors, options = layer("D4", ((8, 8), (2, 2), ((2, 2), (0, 0), (1, 1))), channels=(17, 9), batch=2)
    grad, x, weight, bias = tensors
    {"x": x[0, 1, 3], "weight": weight[2, 1, 1], "bias": bias[2:]}[where][0] = value
    (out,) = call("orbit_conv2d", x, weight, bias, *options, "none")
    like = F.conv2d(reference.orbit(x, "D4"), weight, bias, stride=2)
    assert torch.equal(out.isnan(), like.isnan()) and torch.equal(out.isinf(), like.isinf())
    leaf = weight.clone().requires_grad_()
    grad[1, 2, 0, 1] = value if where == "bias" else 1
    (expected,) = torch.autograd.grad(F.conv2d(reference.orbit(x, "D4"), leaf, stride=2), leaf, grad)
    _, found, _ = call("orbit_conv2d_backward", grad, x, weight, *options, [False, True, True])
    assert torch.equal(found.isnan(), expected.isnan()) and torch.equal(found.isinf(), expected.isinf())


@only("cpu", "reference", because="other backends have one kernel for all kernel sizes")
@pytest.mark.parametrize("activation", ["none", "gelu"])
@pytest.mark.parametrize("layout", ["contiguous", "channels_last", "cropped"])
@pytest.mark.parametrize(("group", "mode"), [("C4", "border"), ("D3", "zeros"), ("C8", "border"), ("D6", "zeros")])
@pytest.mark.parametrize(("size", "kernel"), PATCHES, ids=str)
def test_patches(size, kernel, group, mode, layout, activation):
    geometry = (size, kernel, (kernel, (0, 0), (1, 1)))
    for dtype, outputs, batch in ((torch.float64, 5, 3), (torch.float32, 300, 1), (torch.float32, 300, 4)):
        tensors, options = layer(group, geometry, channels=(17, outputs), batch=batch, dtype=dtype, padding_mode=mode)
        tensors[1] = LAYOUTS[layout](tensors[1])
        assert are_patches(tensors[1], tensors[2], *options[1:4])
        for bias in (tensors[3], None):
            check(group, [*tensors[:3], bias], options, activation)


@pytest.mark.parametrize("images", [0.4, 1, 3, 8, 1000])
@pytest.mark.parametrize("group", KINDS, ids=str)
@only("cpu", "reference", because="other backends cut nothing into chunks")
def test_chunks_do_not_show(group, images, monkeypatch):
    """Forward and backward, in chunks of less than an image's orbit up to all of the batch."""
    module = importlib.import_module("equifast.ops.orbit_conv2d")
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


#: Group, dtype, channels, side and padding.
LAID_OUT = by_backend(
    [("D4", dtype, (c, 4), 9, 1) for dtype in DTYPES for c in (4, 5)],
    [("D3", torch.float32, (3, 4), 6, 1), ("D3", torch.bfloat16, (8, 8), 6, 1)],
    interpreter=[("C8", torch.float32, (2, 4), 5, 0), ("C8", torch.bfloat16, (17, 4), 5, 0)],
)


@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize(("group", "dtype", "channels", "side", "padding"), LAID_OUT, ids=str)
def test_any_layout(group, dtype, channels, side, padding, layout):
    geometry = ((side, side), (3, 3), ((1, 1), (padding, padding), (1, 1)))
    (_, x, weight, bias), options = layer(group, geometry, channels=channels, dtype=dtype, batch=by_backend(3, 2))
    x, weight, bias = LAYOUTS[layout](x), LAYOUTS[layout](weight), torch.stack((bias, bias), -1)[:, 0]
    out = check(group, [None, x, weight, bias], options)
    assert_near(out, output(group, x, weight, bias, options), scale=2)
    like = F.conv2d(x, weight)
    for memory_format in (torch.contiguous_format, torch.channels_last):
        assert out.is_contiguous(memory_format=memory_format) == like.is_contiguous(memory_format=memory_format)


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


@pytest.mark.parametrize("group", by_backend(KINDS, [as_group("C8")]), ids=str)
def test_an_image_depends_on_no_other_image(group):
    batch, side, outputs = by_backend((9, 21, 20), (3, 9, 20), interpreter=(3, 5, 4))
    x, weight, bias = rand(batch, 3, side, side), rand(outputs, 3, 3, 3), rand(outputs)
    together = orbit_conv2d(x, weight, bias, group=group, stride=2).unflatten(0, (group.order, batch))
    for b in (0, batch // 2, batch - 1):
        assert_near(together[:, b], orbit_conv2d(x[b : b + 1], weight, bias, group=group, stride=2), scale=0.1)


@pytest.mark.parametrize("activation", ["relu", "gelu", "silu"])
@pytest.mark.parametrize("group", ["D4", "C3"])
def test_an_activation_in_the_same_pass_differentiates_as_one_after_it(group, activation):
    leaves = [rand(*s, seed=i).requires_grad_() for i, s in enumerate(((2, 3, 7, 7), (4, 3, 3, 3), (4,)))]
    one = orbit_conv2d(*leaves, group=group, activation=activation)
    two = getattr(F, activation)(orbit_conv2d(*leaves, group=group))
    assert_near(one.detach(), two.detach())
    upstream = rand(*one.shape, seed=5)
    for ours, theirs in zip(*(torch.autograd.grad(y, leaves, upstream) for y in (one, two)), strict=True):
        assert_near_overall(ours, theirs)


@pytest.mark.parametrize("activation", ["relu", "gelu", "silu"])
@pytest.mark.parametrize("dtype", DTYPES, ids=str)
def test_activations_of_every_dtype(dtype, activation):
    tensors, options = layer("C5", "3x3", dtype=dtype, batch=2)
    tensors[3] = torch.linspace(-4, 4, 5, dtype=dtype)
    check("C5", tensors, options, activation)


@pytest.mark.parametrize(("dtype", "near"), [(torch.float32, 2e-6), (torch.float64, 1e-14)], ids=str)
@pytest.mark.parametrize("activation", ["relu", "gelu", "silu"])
def test_activations_over_their_whole_range(activation, dtype, near):
    side = by_backend(64, 16)
    x = torch.linspace(-30, 30, side**2, dtype=dtype).view(1, 1, side, side)
    out = orbit_conv2d(x, torch.ones(1, 1, 1, 1, dtype=dtype), group="C1", activation=activation)
    torch.testing.assert_close(out, getattr(F, activation)(x), rtol=near, atol=near)


@pytest.mark.parametrize("number", by_backend(NUMBERS, NUMBERS, interpreter=[torch.float32]), ids=str)
@pytest.mark.parametrize("options", [((1, 1), (1, 1), (1, 1)), ((2, 2), (1, 1), (1, 1))], ids=str)
def test_what_is_not_a_number_stays_where_it_is(options, number):
    with products_of(number) as dtype:
        (_, x, weight, bias), options = layer("C4", ((9, 9), (3, 3), options), dtype=dtype)
        x[0, 1, 2, 3], x[0, 0, 5, 5], x[0, 0, 8, 8] = torch.nan, torch.inf, torch.inf
        (out,) = call("orbit_conv2d", x, weight, bias, *options, "relu")
        like = output("C4", x, weight, bias, options, "relu")
        assert torch.equal(out.isnan(), like.isnan()) and torch.equal(out.isinf(), like.isinf())
        if number != "tf32":
            assert_near(out, like)


@only("interpreter", "emulation", "gpu", because="convolution libraries for CPUs sum in any order")
@pytest.mark.parametrize("number", by_backend(NUMBERS, NUMBERS, interpreter=[torch.float32]), ids=str)
@pytest.mark.parametrize("layout", ["contiguous", "channels_last"])
@pytest.mark.parametrize("name", ["C4", "D4", "C8"])
def test_a_moved_image_gives_the_same_bits(name, layout, number):
    group, batch = as_group(name), by_backend(2, 2, interpreter=1)
    with products_of(number) as dtype:
        channels = (16 if layout == "channels_last" else 3, 4)
        (_, x, weight, bias), options = layer(name, "strided", channels=channels, batch=batch, dtype=dtype)

        def run(x):
            (out,) = call("orbit_conv2d", LAYOUTS[layout](x), weight, bias, *options, "gelu")
            return out.unflatten(0, (group.order, batch))

        rows = run(x)
        exact = exact_elements(group, x.shape[2:])
        for h in by_backend(exact, exact, interpreter=[group.n // 4, exact[-1]]):
            moved = reference.act(x, torch.full((batch,), h), group=group)
            assert_same(run(moved), rows[[group.compose(group.inverse(h), e) for e in range(group.order)]])


@pytest.mark.sanitized
@pytest.mark.parametrize(("batch", "out_channels"), [(0, 4), (2, 0)])
def test_nothing_to_convolve(batch, out_channels):
    uneven = {"stride": (2, 1), "padding": (1, 0), "dilation": (1, 2)}
    for group, options, size in (("D4", {}, (5, 5)), ("D3", uneven, (4, 3))):
        leaves = [t.requires_grad_() for t in (rand(batch, 3, 7, 7), rand(out_channels, 3, 3, 3), rand(out_channels))]
        out = orbit_conv2d(*leaves, group=group, **options)
        assert out.shape == (as_group(group).order * batch, out_channels, *size)
        for leaf, grad in zip(leaves, torch.autograd.grad(out.sum(), leaves), strict=True):
            assert_same(grad, torch.zeros_like(leaf))


def test_autocast_casts_like_conv2d():
    x, weight, bias = rand(2, 3, 9, 9), rand(4, 3, 3, 3).requires_grad_(), rand(4).requires_grad_()
    with torch.autocast(DEVICE.type, torch.bfloat16):
        out = orbit_conv2d(x, weight, bias, group="C4")
        mixed = orbit_conv2d(x.half(), weight, bias.half(), group="C4")
        assert torch.is_autocast_enabled(DEVICE.type)
        like = F.conv2d(orbit(x, "C4"), weight, bias)
    assert out.dtype == mixed.dtype == like.dtype == torch.bfloat16
    assert_near(out, like)
    assert_near(mixed, like)
    grads = torch.autograd.grad(out.float().square().sum(), (weight, bias))
    theirs = torch.autograd.grad(like.float().square().sum(), (weight, bias))
    for ours, expected in zip(grads, theirs, strict=True):
        assert ours.dtype == torch.float32
        torch.testing.assert_close(ours, expected, rtol=2e-2, atol=2e-2 * expected.abs().max().item())
