"""What the laws of `orbit_conv2d` and `orbit_conv2d_pool` can't choose: tiles, offsets, parts and chunks."""

import importlib

import pytest
import torch
import torch.nn.functional as F

from equifast import geometry, reference
from equifast.groups import as_group

from ..cases import DTYPES, LAYOUTS, assert_near, assert_near_overall, rand
from ..convolutions import NUMBERS, PLAIN, layer, output, products_of

conv = importlib.import_module("equifast.kernels.orbit_conv2d")
pool = importlib.import_module("equifast.kernels.orbit_conv2d_pool")
members = importlib.import_module("equifast.kernels.host.members")

GROUPS = ["C1", "C4", "C5", "C8", "D1", "D3", "D4", "D8"]
ACTIVATIONS = ["none", "relu", "gelu", "silu"]
PADDED = ((2, 2), (1, 1), (1, 1))


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
@pytest.mark.parametrize("kind", NUMBERS, ids=str)
def test_every_configuration(kind, number, monkeypatch):
    counts = force(monkeypatch, number)
    sizes = ((7, 7), (2, 3), ((2, 1), (1, 0), (1, 1)))
    for outputs, inputs, layout in ((1, 3, "contiguous"), (20, 17, "channels_last"), (140, 2, "contiguous")):
        if counts and number >= max(counts):
            break
        with products_of(kind) as dtype:
            (_, x, weight, bias), options = layer("C4", sizes, batch=2, channels=(inputs, outputs), dtype=dtype)
            x = LAYOUTS[layout](x)
            like = output("C4", x, weight, bias, options, "silu")
            assert_near(conv.orbit_conv2d(x, weight, bias, *options, "silu"), like, scale=2)
            assert_near(pool.orbit_conv2d_pool(x, weight, bias, *options, "silu"), like.mean((2, 3)), scale=2)


@pytest.mark.parametrize(("layout", "inputs"), [("contiguous", 2), ("channels_last", 16)])
def test_offsets_in_64_bits(layout, inputs, monkeypatch):
    """As for images that span 2^31 values and more, which no test can hold."""
    for module, kernel in ((conv, conv.KERNEL), (pool, pool.KERNEL)):
        monkeypatch.setattr(module, "span", lambda *args: 1 << 31)
        monkeypatch.setattr(kernel, "_launches", {})
    (_, x, weight, bias), options = layer("C8", ((6, 6), (2, 3), PADDED), channels=(inputs, 4))
    x = LAYOUTS[layout](x)
    like = output("C8", x, weight, bias, options)
    assert_near(conv.orbit_conv2d(x, weight, bias, *options, "none"), like)
    assert_near(pool.orbit_conv2d_pool(x, weight, bias, *options, "none"), like.mean((2, 3)))


#: Parts that an image is cut into; image and kernel, and stride, padding, dilation.
PARTS = [
    (1, ((5, 6), (2, 3), ((2, 1), (1, 2), (1, 2)))),
    (3, ((11, 11), (2, 3), PLAIN)),
    (2, ((18, 6), (2, 3), PADDED)),
]


@pytest.mark.parametrize("group", GROUPS)
def test_few_images_are_cut_into_parts_and_summed(group, monkeypatch):
    for turn, (parts, sizes) in enumerate(PARTS, GROUPS.index(group)):
        monkeypatch.setattr(pool, "_parts", lambda *args, parts=parts: parts)
        dtype, activation = DTYPES[turn % 4], ACTIVATIONS[turn // 2 % 4]
        (_, x, weight, bias), options = layer(group, sizes, channels=(2, 5), dtype=dtype)
        bias = bias if turn % 3 > 0 else None
        out = pool.orbit_conv2d_pool(x, weight, bias, *options, activation)
        assert out.dtype == dtype
        assert_near(out, output(group, x, weight, bias, options, activation).mean((2, 3)))


def gradients(grad, x, weight, table, stride, padding, dilation, padding_mode, needs):
    """What the op ``orbit_conv2d_backward`` returns, by autograd: its own kernels have laws of their own."""
    leaves = [t.detach().requires_grad_() for t in (x, weight, weight.new_zeros(weight.shape[0]))]
    rows = torch.cat([reference.sample(leaves[0], row, padding_mode) for row in geometry.rows(table)])
    return torch.autograd.grad(F.conv2d(rows, *leaves[1:], stride, padding, dilation), leaves, grad)


@pytest.mark.parametrize("group", GROUPS)
def test_gradients_of_one_image_at_a_time_or_of_all(group, monkeypatch):
    monkeypatch.setattr(torch.ops.equifast, "orbit_conv2d_backward", gradients)
    for turn, needs in enumerate(([True, True, True], [False, True, False]), GROUPS.index(group)):
        dtype, activation = DTYPES[turn % 4], ACTIVATIONS[turn // 2 % 4]
        order = as_group(group).order
        (_, *tensors), options = layer(group, ((5, 5), (2, 3), PLAIN), channels=(2, 5), batch=2, dtype=dtype)
        monkeypatch.setattr(pool, "CHUNK_BYTES", (1 + turn % 2) * order * 5 * 4 * 3 * dtype.itemsize)
        grad = rand(2 * order, 5, dtype=dtype, seed=3)
        ours = pool.orbit_conv2d_pool_backward(grad, *tensors, *options, activation, needs)
        leaves = [t.double().requires_grad_() for t in tensors]
        theirs = torch.autograd.grad(output(group, *leaves, options, activation).mean((2, 3)), leaves, grad.double())
        for actual, like, needed in zip(ours, theirs, needs, strict=True):
            assert actual.shape == (like.shape if needed else (0,)) and actual.dtype == dtype
            if needed:
                assert_near_overall(actual, like, scale=4)


@pytest.mark.parametrize("square", [True, False])
@pytest.mark.parametrize("group", [*GROUPS, "C6", "C12", "D5"])
def test_members_come_once_and_few_bases_at_a_time(group, square):
    group = as_group(group)
    batches = members.member_batches(group.action_table(inverse=True), square, torch.device("cpu"))
    listed = sorted(e for b in batches for e in b.table[:, 0].tolist())
    assert listed == list(range(group.order))
    assert all(len(b.bases) <= max(1, group.order // 4) and b.count == len(b.table) for b in batches)


def test_tensor_cores_round_where_pytorch_lets_them():
    for number, precision in (("tf32", "tf32"), (torch.float32, "ieee")):
        with products_of(number):
            assert conv.input_precision(torch.float32) == precision
            assert conv.input_precision(torch.float64) == "ieee"
