"""Gradients on the device, through autograd, against those of the reference on the CPU."""

import pytest
import torch

import equifast
from equifast import reference
from equifast.groups import as_group

from ..cases import assert_near_overall, differentiable, rand
from .device import DEVICE, DRY, gpu, move

pytestmark = gpu

#: As `equifast` has them for users, beside those that only modules and losses use.
OPS = equifast.ops


def gradients(library, function, leaves):
    leaves = [leaf.detach().requires_grad_() for leaf in leaves]
    out = function(library, *leaves)
    outs = [o for o in (out if isinstance(out, tuple) else (out,)) if o.requires_grad]
    upstream = [rand(*o.shape, dtype=o.dtype, seed=9).to(o.device) for o in outs]
    return torch.autograd.grad(outs, leaves, upstream, allow_unused=True)


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.bfloat16], ids=str)
@pytest.mark.parametrize(("group", "shape"), [("C4", (7, 7)), ("D3", (6, 9))], ids=str)
def test_gradients_are_the_references(group, shape, dtype, on_device_ids):
    if DRY and dtype != torch.float64:
        pytest.skip("float64 is enough for the interpreter")
    for name, function, leaves in differentiable(as_group(group), shape, dtype):
        # Of rounded leaves in float64: bfloat16 gradients of bfloat16 sums say little about each other.
        wide = [leaf.double() for leaf in leaves]
        true = gradients(reference, function, wide)
        with on_device_ids():
            ours = gradients(OPS, function, [move(leaf) for leaf in leaves])
        for i, (a, b) in enumerate(zip(ours, true, strict=True)):
            assert (a is None) == (b is None), name
            if a is not None:
                assert a.device.type == DEVICE.type
                assert_near_overall(a.cpu(), b, scale=20, about=f"{name}, leaf {i}")


@pytest.fixture
def on_device_ids(monkeypatch):
    """Cases hold ids on the CPU, in closures: `act` and its like get them on the device."""
    import contextlib

    act = OPS.act

    @contextlib.contextmanager
    def patched():
        with monkeypatch.context() as patch:
            patch.setattr(OPS, "act", lambda x, element, **options: act(x, element.to(DEVICE), **options))
            yield

    return patched


@pytest.mark.parametrize("group", ["C4", "C8"])
def test_gradcheck(group):
    """First and second derivatives of warps, first ones of layers and scores, by finite differences."""
    order = as_group(group).order

    def leaf(*shape, seed=0):
        return rand(*shape, dtype=torch.float64, seed=seed).to(DEVICE).requires_grad_()

    x, weight = leaf(1, 1, 3, 3), leaf(2, 1, 2, 2, seed=1)
    average = leaf(order, 1, 3, 3), leaf(1, order, seed=1)
    torch.autograd.gradcheck(lambda x: OPS.orbit(x, group), x, fast_mode=True)
    torch.autograd.gradcheck(lambda x, w: OPS.orbit_conv2d(x, w, group=group), (x, weight), fast_mode=True)
    torch.autograd.gradcheck(lambda y, w: OPS.orbit_average(y, w, group=group), average, fast_mode=True)
    torch.autograd.gradcheck(
        lambda v, r: OPS.orbit_losses(v, r, group=group, normalize=True)[3:],
        (leaf(order, 4), leaf(4, seed=1)),
        fast_mode=True,
    )
    torch.autograd.gradgradcheck(lambda x: OPS.orbit(x, group), x, fast_mode=True)
    torch.autograd.gradgradcheck(lambda y, w: OPS.orbit_average(y, w, group=group), average, fast_mode=True)


def test_gradients_are_the_same_every_time():
    """No atomics: two runs, the same bits."""
    size = (1, 3, 8, 8) if DRY else (16, 3, 64, 64)
    x, weight = move(rand(*size)), move(rand(8, 3, 3, 3, seed=1))
    vectors, r = move(rand(8 * size[0], 32)), move(rand(32, seed=1))

    def once():
        leaves = [t.detach().requires_grad_() for t in (x, weight, vectors, r)]
        found = OPS.orbit_losses(leaves[2], leaves[3], group="C8", normalize=True)
        layer = OPS.orbit_conv2d(leaves[0], leaves[1], group="C8", stride=2)
        members = OPS.orbit(leaves[0], "C8")
        loss = found.prior + found.contrastive + layer.square().sum() + members.square().sum()
        return [layer, members, *torch.autograd.grad(loss, leaves)]

    for first, second in zip(once(), once(), strict=True):
        assert torch.equal(first, second)
