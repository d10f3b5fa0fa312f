"""Every op on the device against its eager definition on the CPU, at real sizes against the reference on the device."""

import os

import pytest
import torch
import torch.nn.functional as F

from equifast import act, orbit, orbit_conv2d, orbit_conv2d_pool, orbit_losses, reference
from equifast.groups import as_group

from ..cases import (
    DEVICE_KINDS,
    EXACT,
    LAYOUTS,
    TOLERANCES,
    assert_near,
    assert_near_overall,
    assert_same,
    exact_elements,
    ids,
    rand,
)
from ..definitions import CHEAP, expected
from ..samples import samples as all_samples
from .device import BACKENDS, DEVICE, DRY, device_only, gpu, large, move, moved, with_kernels

pytestmark = gpu

#: The interpreter takes seconds for each of all samples, so it gets but two of an op, of every kind.
samples = all_samples if not DRY else lambda dtype, **options: thinned(all_samples(dtype, **options))


def thinned(found):
    seen = {}
    for sample in found:
        seen[sample.op] = seen.get(sample.op, 0) + 1
        if seen[sample.op] in (1, 6):
            yield sample


def test_kernels_run_these():
    """Of the backend that is forced, or of those that compete."""
    forced = os.environ.get("EQUIFAST_BACKEND") or "auto"
    assert BACKENDS and set(BACKENDS) <= ({"cuda", "triton"} if forced == "auto" else {forced})


@pytest.mark.parametrize(("dtype", "batch", "layout"), DEVICE_KINDS, ids=str)
def test_every_op_is_its_eager_definition(dtype, batch, layout):
    for sample in samples(dtype, batch=batch, layout=layout):
        for out, true in zip(moved(sample).run(), expected(sample), strict=True):
            assert out.device.type == DEVICE.type
            assert (out.shape, out.dtype) == (true.shape, true.dtype), sample
            # Sums of a few more roundings than what they stand for; orbit_inner cancels.
            scale = 10 if "inner" in sample.op or "backward" in sample.op else 4
            assert_near(out.cpu(), true, scale=scale)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=str)
def test_opcheck(dtype):
    """Strides of the fake outputs among others."""
    for sample in with_kernels(dtype):
        if DRY and sample.op.endswith("backward"):
            continue
        on_device = moved(sample)
        torch.library.opcheck(getattr(torch.ops.equifast, sample.op).default, on_device.args, test_utils=CHEAP)


@pytest.mark.parametrize("dtype", TOLERANCES, ids=str)
@pytest.mark.parametrize("group", ["C4", "D4", "C8", "D3"])
@pytest.mark.parametrize("layout", ["contiguous", "channels_last"])
def test_warps_are_the_reference_on_the_device_bit_for_bit(group, dtype, layout):
    for shape in ((6, 6), (5, 9)):
        x = move(LAYOUTS[layout](rand(2, 3, *shape, dtype=dtype)))
        assert_same(orbit(x, group), reference.orbit(x, group))
        element = ids(group, 2).to(DEVICE)
        assert_same(act(x, element, group=group), reference.act(x, element, group=group))


@pytest.mark.parametrize("group", ["C4", "D4", "C8"])
def test_laws_bit_for_bit(group):
    """Orbits, and convolutions of orbits, of a moved image are the permuted ones of the image."""
    group, x, weight = as_group(group), move(rand(2, 3, 9, 9)), move(rand(5, 3, 3, 3, seed=1))
    e, b = group.order, x.shape[0]
    members = orbit(x, group).unflatten(0, (e, b))
    layer = orbit_conv2d(x, weight, group=group, stride=2, padding=1).unflatten(0, (e, b))
    for h in exact_elements(group, (9, 9)):
        there = act(x, torch.full((b,), h, device=DEVICE), group=group)
        order = [group.compose(group.inverse(h), i) for i in range(e)]
        assert_same(orbit(there, group).unflatten(0, (e, b)), members[order])
        out = orbit_conv2d(there, weight, group=group, stride=2, padding=1).unflatten(0, (e, b))
        assert_same(out, layer[order])


@large
@pytest.mark.parametrize("layout", ["contiguous", "channels_last"])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=str)
@pytest.mark.parametrize("group", ["C4", "C8", "D4"])
def test_real_warps(group, dtype, layout):
    x = LAYOUTS[layout](move(rand(32, 3, 96, 96, dtype=dtype)))
    assert_same(orbit(x, group), reference.orbit(x, group))
    x = LAYOUTS[layout](move(rand(64, 3, 224, 224, dtype=dtype)))
    element = ids(group, 64).to(DEVICE)
    assert_same(act(x, element, group=group, inverse=True), reference.act(x, element, group=group, inverse=True))


LAYERS = {"first layer": (32, 96, 16, 7, 2), "wide first layer": (16, 96, 64, 7, 2), "patches": (8, 224, 768, 16, 16)}


@large
@pytest.mark.parametrize("layout", ["contiguous", "channels_last"])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16], ids=str)
@pytest.mark.parametrize("group", ["C4", "C8"])
@pytest.mark.parametrize("layer", LAYERS)
def test_real_layers(layer, group, dtype, layout):
    """Forward and backward, against float64 on the rounded members of the orbit."""
    batch, size, channels, kernel, stride = LAYERS[layer]
    x = LAYOUTS[layout](move(rand(batch, 3, size, size, dtype=dtype)))
    weight, bias = move(rand(channels, 3, kernel, kernel, dtype=dtype, seed=1)), move(rand(channels, dtype=dtype))
    leaves = [t.detach().requires_grad_() for t in (x, weight, bias)]
    wide = [t.detach().double().requires_grad_() for t in (x, weight, bias)]
    out = orbit_conv2d(*leaves, group=group, stride=stride)
    members = reference.orbit(x, group).double()
    assert_near_overall(out, F.conv2d(members, *wide[1:], stride=stride), scale=4, about=layer)
    grad = move(rand(*out.shape, dtype=dtype, seed=2))
    true = torch.autograd.grad(reference.orbit_conv2d(*wide, group=group, stride=stride), wide, grad.double())
    for name, ours, theirs in zip("xwb", torch.autograd.grad(out, leaves, grad), true, strict=True):
        assert_near_overall(ours, theirs, scale=8, about=f"{layer}, gradient of {name}")
    pooled = orbit_conv2d_pool(x, weight, bias, group=group, stride=stride, activation="gelu")
    mean = F.gelu(F.conv2d(members, *wide[1:], stride=stride)).mean((2, 3))
    assert_near_overall(pooled, mean, scale=8, about=f"{layer}, pooled")


@device_only
@pytest.mark.parametrize("layer", LAYERS)
def test_real_layers_in_tf32(layer):
    """Ten bits of mantissa in the products: as near as cuDNN is allowed to be."""
    batch, size, channels, kernel, stride = LAYERS[layer]
    x, weight = move(rand(batch, 3, size, size)), move(rand(channels, 3, kernel, kernel, seed=1))
    torch.backends.cudnn.allow_tf32 = True  # put back by the fixture
    out = orbit_conv2d(x, weight, group="C8", stride=stride)
    true = reference.orbit_conv2d(x.double(), weight.double(), group="C8", stride=stride)
    torch.testing.assert_close(out.double(), true, rtol=0, atol=4e-3 * true.abs().max().item())
    torch.backends.cudnn.allow_tf32 = False
    exact = orbit_conv2d(x, weight, group="C8", stride=stride)
    assert_near_overall(exact, true, scale=4, about="TF32 switched off again")


@large
@pytest.mark.parametrize("normalize", [False, True])
@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.bfloat16], ids=str)
def test_real_losses(dtype, normalize):
    vectors, r = move(rand(8 * 512, 128, dtype=dtype)), move(rand(128, dtype=dtype, seed=1))
    for out, true in zip(
        orbit_losses(vectors, r, group="C8", normalize=normalize),
        reference.orbit_losses(vectors, r, group="C8", normalize=normalize),
        strict=True,
    ):
        if out.dtype not in TOLERANCES:
            clear = reference.orbit_losses(vectors, r, group="C8").activations.topk(2).values.diff().abs()[:, 0] > 1e-3
            torch.testing.assert_close(out[clear], true[clear], **EXACT)
        else:
            assert_near_overall(out, true, scale=4)
