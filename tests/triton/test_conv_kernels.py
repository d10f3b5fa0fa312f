"""The Triton kernels of `orbit_conv2d` and `orbit_conv2d_pool` in Triton's interpreter."""

import importlib
import itertools

import pytest
import torch
import torch.nn.functional as F

from equifast import geometry, reference
from equifast.groups import as_group

from ..cases import DTYPES, LAYOUTS, assert_near, assert_near_overall, rand

triton = pytest.importorskip("triton")
if not triton.knobs.runtime.interpret:
    pytest.skip("needs TRITON_INTERPRET=1 before import", allow_module_level=True)

conv = importlib.import_module("equifast.kernels.orbit_conv2d")
pool = importlib.import_module("equifast.kernels.orbit_conv2d_pool")
members = importlib.import_module("equifast.kernels.host.members")

GROUPS = ["C1", "C4", "C5", "C8", "D1", "D3", "D4", "D8"]
ACTIVATIONS = ["none", "relu", "gelu", "silu"]
PLAIN = ((1, 1), (0, 0), (1, 1))
#: Stride, padding and dilation.
OPTIONS = [PLAIN, ((2, 2), (1, 1), (1, 1)), ((2, 1), (1, 2), (1, 2)), ((1, 9), (2, 0), (2, 1))]


def arguments(group, *, batch=1, shape=(6, 6), channels=(2, 5), kernel=(2, 3), dtype=torch.float32, bias=True):
    """(x, weight, bias, table)."""
    inputs, outputs = channels
    x, weight = rand(batch, inputs, *shape, dtype=dtype), rand(outputs, inputs, *kernel, dtype=dtype, seed=1)
    table = list(as_group(group).action_table(inverse=True))
    return x, weight, rand(outputs, dtype=dtype, seed=2) if bias else None, table


def expected(group, x, weight, bias, options, padding_mode="border", activation="none"):
    """In float64, of members that are rounded as they are in memory."""
    rows = reference.orbit(x, group, padding_mode=padding_mode).double()
    y = F.conv2d(rows, weight.double(), None if bias is None else bias.double(), *options)
    return y if activation == "none" else getattr(F, activation)(y)


def force(monkeypatch, number):
    """Configuration ``number`` of those there are; how many there are."""
    original, counts = conv.configs, []

    def one(*args, **kwargs):
        listed = original(*args, **kwargs)
        counts.append(len(listed))
        return listed[number % len(listed) :][:1]

    for module, kernel in ((conv, conv.KERNEL), (pool, pool.KERNEL)):
        monkeypatch.setattr(module, "configs", one)
        monkeypatch.setattr(kernel, "_launches", {})
    return counts


@pytest.mark.parametrize("number", range(4))
@pytest.mark.parametrize("dtype", [*DTYPES, "tf32"], ids=str)
def test_every_configuration(dtype, number, monkeypatch):
    if dtype == "tf32":
        dtype = torch.float32
    else:
        monkeypatch.setattr(conv, "input_precision", lambda dtype: "ieee")
        monkeypatch.setattr(pool, "input_precision", lambda dtype: "ieee")
    counts = force(monkeypatch, number)
    for outputs, inputs, layout in ((1, 3, "contiguous"), (20, 17, "channels_last"), (140, 2, "contiguous")):
        if counts and number >= max(counts):
            break
        x, weight, bias, table = arguments("C4", batch=2, shape=(7, 7), channels=(inputs, outputs), dtype=dtype)
        x, options = LAYOUTS[layout](x), ((2, 1), (1, 0), (1, 1))
        like = expected("C4", x, weight, bias, options, activation="silu")
        assert_near(conv.orbit_conv2d(x, weight, bias, table, *options, "border", "silu"), like, scale=2)
        features = pool.orbit_conv2d_pool(x, weight, bias, table, *options, "border", "silu")
        assert_near(features, like.mean((2, 3)), scale=2)


def test_wide_offsets(monkeypatch):
    """The 64-bit arithmetic of images past 2³¹."""
    for module, kernel in ((conv, conv.KERNEL), (pool, pool.KERNEL)):
        monkeypatch.setattr(module, "span", lambda *args: 1 << 31)
        monkeypatch.setattr(kernel, "_launches", {})
    for layout, inputs in (("contiguous", 2), ("channels_last", 16)):
        x, weight, bias, table = arguments("C8", shape=(6, 6), channels=(inputs, 4))
        x = LAYOUTS[layout](x)
        like = expected("C8", x, weight, bias, OPTIONS[1])
        assert_near(conv.orbit_conv2d(x, weight, bias, table, *OPTIONS[1], "border", "none"), like)
        assert_near(pool.orbit_conv2d_pool(x, weight, bias, table, *OPTIONS[1], "border", "none"), like.mean((2, 3)))


@pytest.mark.parametrize("group", GROUPS)
def test_orbit_conv2d_pool(group, monkeypatch):
    """Few images are cut into parts, and summed."""
    turns = itertools.count(GROUPS.index(group))
    for parts, options, shape in ((1, OPTIONS[2], (5, 6)), (3, PLAIN, (11, 11)), (2, OPTIONS[1], (18, 6))):
        turn = next(turns)
        monkeypatch.setattr(pool, "_parts", lambda *args, parts=parts: parts)
        dtype, activation = DTYPES[turn % 4], ACTIVATIONS[turn // 2 % 4]
        x, weight, bias, table = arguments(group, shape=shape, dtype=dtype, bias=turn % 3 > 0)
        out = pool.orbit_conv2d_pool(x, weight, bias, table, *options, "border", activation)
        like = expected(group, x, weight, bias, options, activation=activation).mean((2, 3))
        assert out.dtype == dtype
        assert_near(out, like)


def gradients(grad, x, weight, table, stride, padding, dilation, padding_mode, needs):
    """What the op ``orbit_conv2d_backward`` returns, by autograd: its own kernels have tests of their own."""
    leaves = [t.detach().requires_grad_() for t in (x, weight, weight.new_zeros(weight.shape[0]))]
    members = torch.cat([reference.sample(leaves[0], row, padding_mode) for row in geometry.rows(table)])
    out = F.conv2d(members, *leaves[1:], stride, padding, dilation)
    return torch.autograd.grad(out, leaves, grad)


@pytest.mark.parametrize("group", GROUPS)
def test_orbit_conv2d_pool_backward(group, monkeypatch):
    """One image at a time, or all."""
    monkeypatch.setattr(torch.ops.equifast, "orbit_conv2d_backward", gradients)
    turns = itertools.count(GROUPS.index(group))
    for needs in ([True, True, True], [False, True, False]):
        turn = next(turns)
        dtype, activation = DTYPES[turn % 4], ACTIVATIONS[turn // 2 % 4]
        order = as_group(group).order
        x, weight, bias, table = arguments(group, batch=2, shape=(5, 5), dtype=dtype)
        monkeypatch.setattr(pool, "CHUNK_BYTES", (1 + turn % 2) * order * 5 * 4 * 3 * dtype.itemsize)
        grad = rand(2 * order, 5, dtype=dtype, seed=3)
        options = (table, *PLAIN, "border", activation, needs)
        ours = pool.orbit_conv2d_pool_backward(grad, x, weight, bias, *options)
        leaves = [t.double().requires_grad_() for t in (x, weight, bias)]
        features = expected(group, *leaves, PLAIN, activation=activation).mean((2, 3))
        theirs = torch.autograd.grad(features, leaves, grad.double())
        for actual, like, needed in zip(ours, theirs, needs, strict=True):
            assert actual.shape == (like.shape if needed else (0,)) and actual.dtype == dtype
            if needed:
                assert_near_overall(actual, like, scale=4)


@pytest.mark.parametrize("square", [True, False])
@pytest.mark.parametrize("group", [*GROUPS, "C6", "C12", "D5"])
def test_members_come_once_and_few_bases_at_a_time(group, square):
    group = as_group(group)
    groups = members.member_batches(group.action_table(inverse=True), square, torch.device("cpu"))
    listed = sorted(e for g in groups for e in g.table[:, 0].tolist())
    assert listed == list(range(group.order))
    assert all(len(g.bases) <= max(1, group.order // 4) and g.count == len(g.table) for g in groups)


def test_tensor_cores_round_where_pytorch_lets_them():
    setting = torch.backends.cudnn.conv
    before = setting.fp32_precision
    try:
        for value in ("tf32", "ieee"):
            setting.fp32_precision = value
            assert conv.input_precision(torch.float32) == value
            assert conv.input_precision(torch.float64) == "ieee"
    finally:
        setting.fp32_precision = before
