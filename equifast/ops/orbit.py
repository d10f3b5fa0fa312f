"""`orbit`: every element of the group applied to every image."""

from __future__ import annotations

import torch
from torch import Tensor

from .. import checks
from ..geometry import order_of
from ..transform_set import Transforms, as_transforms
from . import _resample
from ._rows import by_element
from .registry import register


def orbit(x: Tensor, group: Transforms | str, *, padding_mode: str = "border") -> Tensor:
    """Every g_e⁻¹·x, element-major: (B, C, H, W) → (E·B, C, H, W), row e·B + b.

    Elements that map the pixel grid onto itself (90° multiples and flips of square images, 180° and flips of any) are
    exact permutations; all others are bilinear about the pixel centre.

    An interpolated pixel is NaN if one of the four pixels around its position is NaN, even a pixel with weight 0, as in
    ``grid_sample``. For a position on the edge or beyond it, those four are the nearest pixels of the image. Exact
    elements only move a NaN.

    Equivalent to: ``equifast.reference.orbit(x, group, padding_mode=padding_mode)``; for C4 on square images,
    ``torch.cat([torch.rot90(x, -j, (2, 3)) for j in range(4)])``.

    Args:
        x: images, float64, float32, float16 or bfloat16, any strides; B may be 0.
        group: a ``Group``, a ``TransformSet`` or a name such as ``"C4"`` or ``"D8"``.
        padding_mode: outside the image, ``"border"`` repeats its edge, ``"zeros"`` is 0.

    Raises:
        ValueError, TypeError: naming the argument that is off.

    Source: the orbit of EquiOptAdapt (arXiv 2405.14089).
    """
    checks.images("x", x)
    checks.padding_mode(padding_mode)
    table = as_transforms(group).action_table(inverse=True)
    return torch.ops.equifast.orbit(x, None, table, [], [], padding_mode, False)


def _eager(x, weights, table, permutation, mixing, padding_mode, adjoint):
    members = torch.stack(
        [_resample.resample(x, e, table, permutation, mixing, padding_mode, adjoint) for e in range(order_of(table))]
    )
    if weights is not None:
        members = members * weights.t()[:, :, None, None, None]
    return members.flatten(0, 1).to(x.dtype).contiguous(memory_format=_resample.memory_format(x))


def _fake(x, weights, table, permutation, mixing, padding_mode, adjoint):
    return _resample.new_images(x, (order_of(table) * x.shape[0], *x.shape[1:]))


def _setup_context(ctx, inputs, output):
    x, weights, *ctx.action = inputs
    ctx.save_for_backward(x if weights is not None else None, weights)


def _backward(ctx, grad):
    x, weights = ctx.saved_tensors
    table, permutation, mixing, padding_mode, adjoint = ctx.action
    channels = _resample.transposed(table, permutation, mixing)
    grad = by_element(grad, order_of(table))
    grad_x = grad_weights = None
    if ctx.needs_input_grad[0]:
        grad_x = torch.ops.equifast.orbit_average(grad, weights, table, *channels, padding_mode, not adjoint)
    if ctx.needs_input_grad[1]:
        grad_weights = (
            torch.ops.equifast.orbit_inner(grad, x, table, *channels, padding_mode)
            if adjoint
            else torch.ops.equifast.orbit_inner(x, grad, table, permutation, mixing, padding_mode)
        )
    return grad_x, grad_weights, None, None, None, None, None


register("orbit", eager=_eager, fake=_fake, setup_context=_setup_context, backward=_backward)
