"""Lifting and group convolutions: equivariance bit for bit, definitions, gradients, frames."""

import copy
import itertools

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from equifast import Group, act, as_group, orbit, reference
from equifast.dtypes import accumulate_dtype
from equifast.frames import carrying_table, lifting_table
from equifast.geometry import IDENTITY, ROW, factor, rows
from equifast.nn import GroupBatchNorm, GroupConv2d, LiftConv2d, OrbitConv2d, PooledGroupConv2d
from equifast.nn.cosets import Cosets

from .cases import DTYPES, LAYOUTS, assert_near, assert_near_overall, assert_same, rand
from .test_nn import randomize

GROUPS = [as_group(f"C{n}") for n in range(1, 9)] + [as_group(f"D{n}") for n in range(1, 7)]
EXACT = [as_group(name) for name in ("C1", "C2", "C4", "D1", "D2", "D4")]
OPTIONS = [
    {"kernel_size": 3},
    {"kernel_size": (2, 4), "stride": 2, "padding": 1},
    {"kernel_size": 3, "dilation": 2, "stride": (1, 2), "padding": (2, 1), "bias": False},
    {"kernel_size": 1, "padding_mode": "zeros"},
]

#: These commute with quarter turns of 6×6 maps, or with flips and half turns only, or with nothing.
COMMUTING = [
    ({"kernel_size": 3}, 4),
    ({"kernel_size": 4, "stride": 2, "padding": 1}, 4),
    ({"kernel_size": 2, "dilation": 3, "padding": 2}, 4),
    ({"kernel_size": 3, "padding": "same"}, 4),
    ({"kernel_size": (1, 3), "padding": (0, 1)}, 2),
    ({"kernel_size": (3, 4), "stride": (1, 2), "padding": (0, 1), "dilation": (2, 1)}, 2),
    ({"kernel_size": (2, 4), "stride": 2, "padding": 1}, 2),
    ({"kernel_size": 3, "stride": 2}, 1),
    ({"kernel_size": (3, 2), "padding": "same"}, 1),
]


def left(group: Group, h: int, rows: torch.Tensor) -> torch.Tensor:
    """The rows of a turned image: out[e] = rows[h⁻¹e]."""
    members = rows.unflatten(0, (group.order, rows.shape[0] // group.order))
    return members[[group.compose(group.inverse(h), e) for e in range(group.order)]].flatten(0, 1)


def turned(x: torch.Tensor, group: Group, h: int) -> torch.Tensor:
    return act(x, torch.full((x.shape[0],), h), group=group)


def exact(group: Group, height: int, width: int) -> list[int]:
    return [h for h in range(group.order) if group.is_exact(h, height, width)]


def made(kind, *args, dtype=torch.float32, **options):
    torch.manual_seed(0)
    return randomize(kind(*args, **options)).to(dtype).eval()


def with_norm(channels):
    return {"norm": GroupBatchNorm(channels), "activation": nn.ReLU()}


@pytest.mark.parametrize("options", OPTIONS, ids=str)
@pytest.mark.parametrize("group", GROUPS, ids=str)
def test_every_left_multiplication_of_members_permutes_the_output_bit_for_bit(group, options):
    """Also where turned maps are interpolated. Batches and channels have no common length with vectors."""
    for dtype, batch, channels in zip(DTYPES, (2, 3, 1, 2), (3, 5, 16, 2), strict=True):
        conv = made(GroupConv2d, channels, 4, group=group, dtype=dtype, **options, **with_norm(4))
        x = rand(group.order * batch, channels, 7, 7, dtype=dtype)
        x = x.contiguous(memory_format=torch.channels_last) if batch % 2 else x
        with torch.no_grad():
            expected = conv(x)
            for h in range(group.order):
                assert_same(conv(left(group, h, x)), left(group, h, expected))


@pytest.mark.parametrize("options", OPTIONS[:3], ids=str)
@pytest.mark.parametrize("group", GROUPS, ids=str)
def test_pooled_every_left_multiplication_permutes_the_output_bit_for_bit(group, options):
    for dtype, batch, channels in zip(DTYPES, (2, 3, 1, 2), (3, 5, 16, 2), strict=True):
        conv = made(PooledGroupConv2d, channels, 2, group=group, dtype=dtype, **options)
        x = rand(group.order * batch, channels, 7, 7, dtype=dtype)
        with torch.no_grad():
            expected = conv(x)
            for h in range(group.order):
                assert_same(conv(left(group, h, x)), left(group, h, expected))


@pytest.mark.parametrize("shape", [(8, 8), (7, 7), (6, 9)], ids=str)
@pytest.mark.parametrize("group", GROUPS, ids=str)
def test_lifting_a_turned_image_permutes_the_rows_bit_for_bit(group, shape):
    """By every element that maps the pixels onto themselves, whatever other elements do."""
    for dtype in DTYPES:
        lift = made(LiftConv2d, 2, 4, 3, group, stride=2, dtype=dtype, **with_norm(4))
        x = rand(3, 2, *shape, dtype=dtype)
        with torch.no_grad():
            expected = lift(x)
            for h in exact(group, *shape):
                assert_same(lift(turned(x, group, h)), left(group, h, expected))


@pytest.mark.parametrize("group", EXACT, ids=str)
def test_lifting_by_exact_elements_is_a_convolution_of_the_orbit(group):
    shape = (6, 9) if group.n < 3 else (7, 7)
    lift, x = made(LiftConv2d, 2, 4, 3, group), rand(3, 2, *shape)
    plain = OrbitConv2d(2, 4, 3, group)
    plain.load_state_dict(lift.state_dict())
    assert_same(lift(x), plain(x))
    assert_near(lift(x), F.conv2d(orbit(x, group), lift.weight, lift.bias))


@pytest.mark.parametrize(("options", "turns"), COMMUTING, ids=str)
@pytest.mark.parametrize("name", ["D4", "D8", "D12"])
def test_which_elements_commute_with_a_convolution(name, options, turns):
    """``h_q·conv2d(x, w)`` is ``conv2d(h_q·x, h_q·w)``: for quarter turns, for half turns and flips, or for none."""
    group = as_group(name)
    conv = made(GroupConv2d, 2, 3, group=group, dtype=torch.float64, **options)
    x = rand(2, 2, 6, 6, dtype=torch.float64)
    weight, sizes = conv.weight[:, :2], (conv.stride, conv.padding, conv.dilation)
    y = F.conv2d(x, weight, None, *sizes)
    cosets = Cosets.of(group, *y.shape[2:])
    assert len(cosets.exact) == (8 if y.shape[2] == y.shape[3] else 4)
    assert sorted(group.compose(t, q) for t in cosets.first for q in cosets.exact) == list(range(group.order))

    def turn(t, k):
        code = int(cosets.table[ROW * k])
        return torch.rot90(t.flip(3) if code >= 4 else t, -code % 4, (2, 3))

    def commutes(q):
        other = F.conv2d(turn(x, q), turn(weight, q), None, *sizes)
        return other.shape == turn(y, q).shape and torch.allclose(other, turn(y, q))

    commuting = [commutes(q) for q in cosets.exact]
    assert cosets.commute(x.shape[2:], weight.shape[2:], *sizes) == all(commuting)
    assert sum(commuting) >= {4: 8, 2: 4, 1: 1}[turns]


@pytest.mark.parametrize(("options", "turns"), COMMUTING, ids=str)
@pytest.mark.parametrize("name", ["C3", "C4", "C6", "D4", "C8", "D6"])
def test_values_and_gradients_in_training_are_those_of_the_definition(name, options, turns):
    """Members of one coset are then channels of one image."""
    group = as_group(name)
    conv = made(GroupConv2d, 2, 3, group=group, dtype=torch.float64, **options).train()
    rest = {key: value for key, value in options.items() if key != "kernel_size"}
    for memory_format in (torch.contiguous_format, torch.channels_last):
        x = rand(group.order * 2, 2, 6, 6, dtype=torch.float64).contiguous(memory_format=memory_format).requires_grad_()
        leaves = [x, *conv.parameters()]
        ours, theirs = conv(x), reference.group_conv2d(x, conv.weight, conv.bias, group=group, **rest)
        assert_near_overall(ours, theirs)
        assert ours.is_contiguous(memory_format=memory_format)
        upstream = rand(*ours.shape, dtype=torch.float64, seed=3)
        pairs = zip(*(torch.autograd.grad(y, leaves, upstream) for y in (ours, theirs)), strict=True)
        for a, b in pairs:
            assert_near_overall(a, b, scale=4)


@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("name", ["C4", "D8"])
def test_any_strides_and_dtypes_in_training(name, dtype, layout):
    """Also of no rows and of channels that fill no vector."""
    group, wide = as_group(name), accumulate_dtype(dtype)
    for batch, channels in ((2, 3), (0, 2), (1, 1)):
        conv = made(GroupConv2d, channels, 2, 3, group=group, dtype=dtype, padding=1).train()
        x = LAYOUTS[layout](rand(group.order * batch, channels, 6, 6, dtype=dtype))
        actual = conv(x)
        exact = reference.group_conv2d(x.to(wide), conv.weight.to(wide), conv.bias.to(wide), group=group, padding=1)
        assert actual.dtype == dtype
        assert_near_overall(actual, exact, scale=4)


def calls(group, dtype=torch.float64):
    """Each module and its definition, on images or rows, with two sets of options."""
    for kind, define in ((LiftConv2d, reference.lift_conv2d), (GroupConv2d, reference.group_conv2d)):
        for options in OPTIONS[1:3]:
            module = made(kind, 2, 3, group=group, dtype=dtype, **options)
            rest = {key: value for key, value in options.items() if key not in ("kernel_size", "bias")}
            rows = 2 if kind is LiftConv2d else 2 * group.order

            def expected(x, module=module, define=define, rest=rest):
                return define(x, module.weight, module.bias, group=group, **rest)

            yield module, expected, rows


@pytest.mark.parametrize("shape", [(6, 6), (5, 8)], ids=str)
@pytest.mark.parametrize("group", GROUPS, ids=str)
def test_values_and_gradients_are_those_of_the_definition(group, shape):
    for dtype in (torch.float64, torch.float32):
        for module, expected, count in calls(group, dtype):
            x = rand(count, 2, *shape, dtype=dtype).requires_grad_()
            leaves = [x, *module.parameters()]
            ours, theirs = module(x), expected(x)
            assert_near_overall(ours, theirs)
            upstream = rand(*ours.shape, dtype=dtype, seed=3)
            pairs = zip(*(torch.autograd.grad(y, leaves, upstream) for y in (ours, theirs)), strict=True)
            for a, b in pairs:
                assert_near_overall(a, b, scale=4)


@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("dtype", DTYPES, ids=str)
def test_any_strides_and_dtypes(dtype, layout):
    group = as_group("D3")
    for module, expected, count in calls(group, dtype):
        x = LAYOUTS[layout](rand(count, 2, 6, 6, dtype=dtype))
        wide = accumulate_dtype(dtype)
        with torch.no_grad():
            actual = module(x)
            module.to(wide)
            assert actual.dtype == dtype
            assert_near_overall(actual, expected(x.to(wide)), scale=4)


@pytest.mark.parametrize("name", ["C3", "D2", "D3"])
@pytest.mark.parametrize("kind", [LiftConv2d, GroupConv2d, PooledGroupConv2d])
def test_gradients(kind, name):
    group = as_group(name)
    module = made(kind, 1, 2, 2, group=group, dtype=torch.float64, stride=2, padding=1)
    x = rand(1 if kind is LiftConv2d else group.order, 1, 3, 4, dtype=torch.float64)
    leaves = [t.detach().clone().requires_grad_() for t in (x, module.weight, module.bias)]

    def run(x, weight, bias):
        return torch.func.functional_call(module, {"weight": weight, "bias": bias}, (x,))

    assert torch.autograd.gradcheck(run, leaves)
    if kind is not LiftConv2d:  # a convolution of the orbit says that it can't be differentiated twice
        assert torch.autograd.gradgradcheck(run, leaves)


@pytest.mark.parametrize("group", EXACT, ids=str)
def test_exact_elements_make_the_group_convolution_of_cohen_and_welling(group):
    """In the frame of the image the map of e is ``Σ_h g_e·W[e⁻¹h] ∗ f_h``, of maps ``f_h = g_h·x[h]``."""
    order, (batch, channels, out) = group.order, (2, 3, 4)
    conv = made(GroupConv2d, channels, out, 3, group, bias=False, dtype=torch.float64)
    x = rand(order * batch, channels, 6, 6, dtype=torch.float64)
    every = torch.arange(order).repeat_interleave(batch)
    maps = act(x, every, group=group).unflatten(0, (order, batch))
    result = act(conv(x), every, group=group).unflatten(0, (order, batch))
    own = conv.weight.unflatten(1, (order, channels)).movedim(1, 0)
    filters = torch.stack([turned(w, group, k) for k, w in enumerate(own)])  # W[k]
    for e in range(order):
        total = sum(
            F.conv2d(maps[h], turned(filters[group.compose(group.inverse(e), h)], group, e)) for h in range(order)
        )
        assert_near(result[e], total)


@pytest.mark.parametrize("options", OPTIONS[:3], ids=str)
@pytest.mark.parametrize("group", GROUPS, ids=str)
def test_pooled_is_the_mean_of_what_is_summed(group, options):
    for dtype in DTYPES:
        pooled = made(PooledGroupConv2d, 2, 3, group=group, dtype=dtype, **options)
        whole = made(GroupConv2d, 2, 3, group=group, dtype=torch.float64, **options)
        x = rand(2 * group.order, 2, 6, 7 if group.n < 3 else 6, dtype=dtype)
        with torch.no_grad():
            actual, whole = pooled(x), whole.to(dtype).double()
            maps = whole(x.double())
            if group.permutes(*maps.shape[2:]):
                assert_near_overall(actual, maps.mean((2, 3)))
            # Without turning: the means of all places, each seen from its member.
            z = F.conv2d(x.double(), torch.cat(whole.weight.chunk(group.order, 1)), None, *_sizes(whole))
            places = z.mean((2, 3)).unflatten(0, (group.order, 2)).unflatten(2, (group.order, 3))
            members = range(group.order)
            expected = torch.cat([sum(places[group.compose(e, k), :, k] for k in members) for e in members])
        assert actual.dtype == dtype
        assert_near_overall(actual, expected if whole.bias is None else expected + whole.bias)


def _sizes(conv):
    return conv.stride, conv.padding, conv.dilation


def matrix(table, e):
    code, b00, b01, b10, b11 = table[ROW * e : ROW * (e + 1)]
    turn = torch.linalg.matrix_power(torch.tensor([[0.0, 1], [-1, 0]], dtype=torch.float64), int(code) % 4)
    flip = torch.tensor([[-1.0 if code >= 4 else 1, 0], [0, 1]], dtype=torch.float64)
    return torch.tensor([[b00, b01], [b10, b11]], dtype=torch.float64) @ turn @ flip


@pytest.mark.parametrize("shape", [(8, 8), (6, 9)], ids=str)
@pytest.mark.parametrize("group", GROUPS, ids=str)
def test_frames(group, shape):
    """A map that is carried from e·k looks as that of e: ``(R·g_k·R⁻¹)·(R·g_ek⁻¹) = R·g_e⁻¹``."""
    lift, carry = lifting_table(group, *shape), carrying_table(group, *shape)
    # A table reads the source at its matrix times the position, so matrices compose from the right.
    for e, k in itertools.product(range(group.order), repeat=2):
        torch.testing.assert_close(matrix(lift, group.compose(e, k)) @ matrix(carry, k), matrix(lift, e))


@pytest.mark.parametrize("group", GROUPS, ids=str)
def test_no_member_is_exact_unless_all_are(group):
    table = rows(lifting_table(group, 8, 8))
    interpolates = {factor(*row, square=True)[1] != IDENTITY for row in table}
    assert interpolates == {not group.permutes(8, 8)}
    # Angles to the grid come in pairs that a reflection swaps, so no side is preferred.
    angles = sorted(round(torch.atan2(torch.tensor(b[2]).abs(), torch.tensor(b[0])).item(), 6) for _, b in table)
    quarter = torch.pi / 2
    if interpolates == {True}:
        torch.testing.assert_close(torch.tensor(angles), torch.tensor(sorted(quarter - a for a in angles)))


def test_statistics_are_shared_by_members():
    """They are those over members, images and pixels, so training is equivariant too."""
    group = as_group("D4")
    torch.manual_seed(0)
    norm, x = GroupBatchNorm(3).train(), rand(8 * 5, 3, 6, 6, dtype=torch.float32)
    y = norm(x)
    members = x.unflatten(0, (8, 5))
    mean, var = members.mean((0, 1, 3, 4)), members.var((0, 1, 3, 4), correction=0)
    assert_near(y, (x - mean[:, None, None]) / (var[:, None, None] + norm.eps).sqrt())
    assert_near(norm.running_mean, 0.1 * mean)
    conv = GroupConv2d(3, 4, 3, group, **with_norm(4)).train()
    for h in range(8):
        assert_near(conv(left(group, h, x)), left(group, h, conv(x)), scale=10)


@pytest.mark.parametrize("kind", [LiftConv2d, GroupConv2d])
def test_folded_equals_modules(kind):
    group = as_group("C3")
    module = made(kind, 2, 3, 3, group=group, dtype=torch.float64, **with_norm(3))
    x = rand(6, 2, 7, 7, dtype=torch.float64)
    with torch.no_grad():
        folded = module(x)
    assert_near(folded, module(x.requires_grad_()))


@pytest.mark.parametrize("kind", [LiftConv2d, GroupConv2d, PooledGroupConv2d])
def test_no_images(kind):
    x = rand(0, 2, 6, 6).requires_grad_()
    module = kind(2, 3, 3, group="D3")
    y = module(x)
    assert y.shape == ((0, 3) if kind is PooledGroupConv2d else (0, 3, 4, 4))
    y.sum().backward()
    assert not module.weight.grad.any() and x.grad.shape == x.shape


@pytest.mark.parametrize("kind", [LiftConv2d, GroupConv2d, PooledGroupConv2d])
def test_modules_are_copied_saved_and_compiled(kind):
    group, x = as_group("D3"), rand(6, 2, 6, 6)
    torch.manual_seed(0)
    module, other = kind(2, 3, 3, group=group), kind(2, 3, 3, group=group)
    other.load_state_dict(module.state_dict())
    expected = module(x)
    assert list(module.state_dict()) == ["weight", "bias"]
    for same in (other, copy.deepcopy(module)):
        assert_same(same(x), expected)
    torch._dynamo.reset()
    compiled = torch.compile(module, backend="aot_eager", fullgraph=True)
    found = compiled(x)
    assert_near(found, expected)
    upstream = rand(*expected.shape, seed=4)
    grads = (torch.autograd.grad(y, module.weight, upstream)[0] for y in (found, expected))
    assert_near_overall(*grads)


def test_a_pooled_convolution_under_autocast_sums_in_float32():
    group = as_group("C4")
    module, x = made(PooledGroupConv2d, 2, 3, 3, group=group), rand(8, 2, 6, 6)
    with torch.autocast("cpu", torch.bfloat16):
        assert_same(module(x), made(PooledGroupConv2d, 2, 3, 3, group=group)(x).detach())


@pytest.mark.parametrize("kind", [GroupConv2d, PooledGroupConv2d])
@pytest.mark.parametrize(
    ("x", "error", "match"),
    [
        (rand(7, 2, 6, 6), ValueError, r"x: expected E·B rows with E = 4, got \(7, 2, 6, 6\)"),
        (rand(8, 3, 6, 6), ValueError, r"x: expected 2 channels, got \(8, 3, 6, 6\)"),
        (rand(2, 6, 6), ValueError, r"x: expected \(B, C, H, W\), got \(2, 6, 6\)"),
        (torch.zeros(8, 2, 6, 6, dtype=torch.int64), TypeError, "x: expected float64"),
    ],
    ids=["rows", "channels", "rank", "type"],
)
def test_wrong_rows(kind, x, error, match):
    with pytest.raises(error, match=match):
        kind(2, 3, 3, group="C4")(x)


def test_maps_that_are_too_small():
    with pytest.raises(ValueError, match="x: expected a map that is not smaller than the kernel, got 2 for 3"):
        PooledGroupConv2d(2, 3, 3, group="C4")(rand(8, 2, 2, 2))
    with pytest.raises(ValueError, match="group: expected"):
        GroupConv2d(2, 3, 3, "E4")
