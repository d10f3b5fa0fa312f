"""What is held in the device's memory, and tensors of more than 2^31 elements."""

import math

import pytest
import torch

import equifast
from equifast.groups import as_group

from ..cases import assert_near, assert_near_overall, assert_same, rand
from .device import DEVICE, device_only, gpu, move

pytestmark = [*gpu, device_only, pytest.mark.usefixtures("as_users_have_it")]

GIB = 2**30


@pytest.fixture
def forty_gib():
    torch.cuda.empty_cache()
    if (free := torch.cuda.mem_get_info(DEVICE)[0]) < 40 * GIB:
        pytest.skip(f"needs 40 GiB of free device memory, there are {free // GIB}")
    yield
    torch.cuda.empty_cache()


def peak(function) -> int:
    """Bytes above what was there before; its second call, as the first one may tune kernels."""
    function()
    torch.cuda.synchronize(DEVICE)
    torch.cuda.reset_peak_memory_stats(DEVICE)
    before = torch.cuda.memory_allocated(DEVICE)
    function()
    torch.cuda.synchronize(DEVICE)
    return torch.cuda.max_memory_allocated(DEVICE) - before


@pytest.mark.parametrize("training", [False, True])
@pytest.mark.parametrize("group", ["C4", "C8", "D8"])
def test_no_orbit_at_full_resolution(group, training):
    x = move(rand(16, 3, 224, 224))

    def small(x):
        return torch.nn.functional.interpolate(x, (64, 64))

    module = equifast.nn.TinyCanonicalizer(3, group, channels=16, preprocess=small).to(DEVICE).train(training)

    def step():
        form = module(x)
        if training:
            loss = form.prior_loss() + form.contrastive_loss() + form.image.square().mean()
            torch.autograd.grad(loss, list(module.parameters()))

    with torch.set_grad_enabled(training):
        assert peak(step) < as_group(group).order * x.nbytes


def test_a_layer_never_holds_the_orbit():
    x, weight = move(rand(16, 3, 224, 224)).requires_grad_(), move(rand(8, 3, 7, 7, seed=1)).requires_grad_()
    orbit_bytes = 16 * x.nbytes

    def step():
        out = equifast.orbit_conv2d(x, weight, group="D8", stride=8)
        torch.autograd.grad(out, (x, weight), torch.ones_like(out))

    assert peak(step) < orbit_bytes / 2


def test_warps_past_2_to_the_31(forty_gib):
    """Whatever went to a wrapped index would be missing at the end."""
    shape, dtype = (3, 128, 128), torch.bfloat16
    image = move(rand(1, *shape, dtype=dtype))
    for name in ("C2", "C8"):
        group = as_group(name)
        batch = 2**31 // (group.order * math.prod(shape)) + 2
        out = equifast.orbit(image.expand(batch, *shape), group).unflatten(0, (group.order, batch))
        assert out.numel() > 2**31
        assert_same(out[:, [0, 1, -2, -1]], equifast.orbit(image, group)[:, None].expand(-1, 4, *shape))
        average = equifast.orbit_average(
            out.flatten(0, 1), torch.full((batch, group.order), 1 / group.order, device=DEVICE), group=group
        )
        one = equifast.orbit_average(
            equifast.orbit(image, group), torch.full((1, group.order), 1 / group.order, device=DEVICE), group=group
        )
        assert_near(average[[0, -1]], one.expand(2, *shape))
        del out, average
    batch = 2**31 // math.prod(shape) + 2
    x = image.expand(batch, *shape).contiguous()
    element = torch.arange(batch, device=DEVICE) % 8
    moved = equifast.act(x, element, group="C8")
    for i in (0, 1, batch - 2, batch - 1):
        assert_same(moved[i : i + 1], equifast.act(image, element[i : i + 1], group="C8"))


def test_an_image_past_2_to_the_31(forty_gib):
    """Offsets within one image need 64 bits."""
    side = 46352
    x = torch.zeros(1, 1, side, side, dtype=torch.bfloat16, device=DEVICE)
    x[0, 0, -1, -7:] = torch.arange(1, 8, device=DEVICE)
    assert x.numel() > 2**31
    out = equifast.act(x, torch.tensor([1], device=DEVICE), group="C4")
    assert_same(out, torch.rot90(x, 1, (2, 3)))


@pytest.mark.parametrize("channels_last", [False, True])
def test_layers_past_2_to_the_31(forty_gib, channels_last):
    batch, shape = 2**31 // (4 * 64 * 64 * 64) + 2, (3, 66, 66)
    x = move(rand(1, *shape, dtype=torch.bfloat16)).expand(batch, *shape)
    if channels_last:
        x = x.contiguous(memory_format=torch.channels_last)
    weight = move(rand(64, 3, 3, 3, dtype=torch.bfloat16, seed=1))
    out = equifast.orbit_conv2d(x, weight, group="C4").unflatten(0, (4, batch))
    assert out.numel() > 2**31
    one = equifast.orbit_conv2d(x[:1], weight, group="C4")
    assert_near_overall(out[:, [0, batch // 2, -1]], one[:, None].expand(-1, 3, -1, -1, -1), scale=2)
