"""`act`: one element of the group for each image."""

from __future__ import annotations

import torch
from torch import Tensor

from .. import checks
from ..geometry import order_of
from ..representations import channel_action
from ..transform_set import Transforms, as_transforms
from . import _resample
from .registry import register


def act(
    x: Tensor,
    element: Tensor,
    *,
    group: Transforms | str,
    inverse: bool = False,
    representation: str = "trivial",
    padding_mode: str = "border",
) -> Tensor:
    """Per-sample g·x, or g⁻¹·x if ``inverse``: (B, C, H, W) and ids (B,) → (B, C, H, W), in one pass.

    Equivalent to: ``equifast.reference.act(...)``; for exact elements, ``torch.rot90`` and ``flip`` of each sample;
    for others, ``grid_sample`` with one grid a sample.

    An interpolated pixel is NaN if one of the four pixels around its position is NaN, even a pixel with weight 0, as in
    ``grid_sample``. For a position on the edge or beyond it, those four are the nearest pixels of the image. Exact
    elements only move a NaN.

    Args:
        x: images or features, float64, float32, float16 or bfloat16, any strides; B may be 0.
        element: int64 ids in [0, E), as `CanonicalForm.element`.
        group: a ``Group``, a ``TransformSet`` or a name such as ``"C4"``.
        inverse: act with g⁻¹. That canonicalizes an image, and acting with g undoes it.
        representation: ``"trivial"``; ``"regular"``, blocks of E channels with out[k] = in[g⁻¹k]; ``"vector"``,
            pairs of channels (x right, y down).
        padding_mode: outside the image, ``"border"`` repeats its edge, ``"zeros"`` is 0.

    Raises:
        ValueError, TypeError: naming the argument that is off.
    """
    group = as_transforms(group)
    checks.images("x", x)
    checks.elements("element", element, x.shape[0], group.order)
    checks.same_device(x=x, element=element)
    checks.padding_mode(padding_mode)
    channels = channel_action(group, representation, inverse=inverse)
    checks.channels("x", x, representation, group.order)
    table = group.action_table(inverse=inverse)
    return torch.ops.equifast.act(x, element, table, *channels, padding_mode, False)


# There may be more ids than images, k times as many: then images are taken from the beginning again, and row i·B + b is
# image b by element[i·B + b].


def _eager(x, element, table, permutation, mixing, padding_mode, adjoint):
    if element.shape[0] == 0:
        return _fake(x, element, table, permutation, mixing, padding_mode, adjoint)
    chosen = element.unique().tolist()
    images = [(element == e).nonzero().squeeze(1) for e in chosen]
    parts = [
        _resample.resample(x[of_e % len(x)], e, table, permutation, mixing, padding_mode, adjoint)
        for e, of_e in zip(chosen, images, strict=True)
    ]
    out = torch.cat(parts)[torch.cat(images).argsort()]
    return out.to(x.dtype).contiguous(memory_format=_resample.memory_format(x))


def _composed(x, element, table, permutation, mixing, padding_mode, adjoint):
    """Every member, and then one for each image."""
    action = (table, permutation, mixing, padding_mode, adjoint)
    members = torch.cat([_resample.resample(x, e, *action) for e in range(order_of(table))])
    batch, count = x.shape[0], element.shape[0]
    images = torch.arange(batch, device=x.device)
    if count != batch:
        images = images.repeat(count // batch)
    return members.index_select(0, element * batch + images).to(x.dtype)


def _fake(x, element, table, permutation, mixing, padding_mode, adjoint):
    return _resample.new_images(x, (element.shape[0], *x.shape[1:]))


def _setup_context(ctx, inputs, output):
    x, element, *ctx.action = inputs
    ctx.batch = x.shape[0]
    ctx.save_for_backward(element)


def _backward(ctx, grad):
    (element,) = ctx.saved_tensors
    table, permutation, mixing, padding_mode, adjoint = ctx.action
    channels = _resample.transposed(table, permutation, mixing)
    grad_x = torch.ops.equifast.act(grad, element, table, *channels, padding_mode, not adjoint)
    if element.shape[0] != ctx.batch:
        grad_x = grad_x.unflatten(0, (element.shape[0] // ctx.batch, ctx.batch)).sum(0)
    return grad_x, None, None, None, None, None, None


register("act", eager=_eager, composed=_composed, fake=_fake, setup_context=_setup_context, backward=_backward)
