"""`orbit_average`: the weighted sum of an orbit, after each member has been moved back."""

from __future__ import annotations

import torch
from torch import Tensor

from .. import checks
from ..dtypes import accumulate_dtype
from ..geometry import order_of
from ..representations import channel_action
from ..transform_set import Transforms, as_transforms
from . import _resample
from ._rows import by_element
from .registry import register


def orbit_average(
    y: Tensor,
    weights: Tensor,
    *,
    group: Transforms | str,
    representation: str = "trivial",
    padding_mode: str = "border",
) -> Tensor:
    """Σ_e weights[:, e] · g_e·y_e: (E·B, C, H, W) and (B, E) → (B, C, H, W), in one pass.

    With ``weights = probabilities`` it averages over frames; with 1/E it symmetrizes.

    Equivalent to: ``equifast.reference.orbit_average(...)``: act by g_e on each of the E members, multiply, sum.

    Args:
        y: outputs of a network on an orbit, element-major, float64, float32, float16 or bfloat16, any strides.
        weights: (B, E), of the dtype of ``y`` or float32.
        group, representation, padding_mode: as `act`.

    Raises:
        ValueError, TypeError: naming the argument that is off.
    """
    group = as_transforms(group)
    checks.images("y", y)
    checks.orbit_rows("y", y, group.order)
    checks.padding_mode(padding_mode)
    channels = channel_action(group, representation, inverse=False)
    checks.channels("y", y, representation, group.order)
    checks.tensor("weights", weights)
    if weights.dtype not in (y.dtype, torch.float32):
        raise TypeError(f"weights: expected {y.dtype} or torch.float32, got {weights.dtype}")
    if weights.shape != (y.shape[0] // group.order, group.order):
        expected = (y.shape[0] // group.order, group.order)
        raise ValueError(f"weights: expected {expected}, got {checks.shape(weights)}")
    checks.same_device(y=y, weights=weights)
    members = y.unflatten(0, (group.order, weights.shape[0]))
    table = group.action_table(inverse=False)
    wide = weights.to(accumulate_dtype(y.dtype))
    return torch.ops.equifast.orbit_average(members, wide, table, *channels, padding_mode, False)


def _eager(y, weights, table, permutation, mixing, padding_mode, adjoint):
    total = torch.zeros(y.shape[-4:], dtype=accumulate_dtype(y.dtype), device=y.device)
    for e in range(order_of(table)):
        image = _resample.resample(_resample.member_of(y, e), e, table, permutation, mixing, padding_mode, adjoint)
        total = total + (image if weights is None else image * weights[:, e, None, None, None])
    return total.to(y.dtype).contiguous(memory_format=_resample.memory_format(y))


def _fake(y, weights, table, permutation, mixing, padding_mode, adjoint):
    return _resample.new_images(y, y.shape[-4:])


def _setup_context(ctx, inputs, output):
    y, weights, *ctx.action = inputs
    ctx.shared = y.dim() == 4
    ctx.save_for_backward(y if weights is not None else None, weights)


def _backward(ctx, grad):
    y, weights = ctx.saved_tensors
    table, permutation, mixing, padding_mode, adjoint = ctx.action
    channels = _resample.transposed(table, permutation, mixing)
    grad_y = grad_weights = None
    if ctx.needs_input_grad[0] and ctx.shared:
        grad_y = torch.ops.equifast.orbit_average(grad, weights, table, *channels, padding_mode, not adjoint)
    elif ctx.needs_input_grad[0]:
        rows = torch.ops.equifast.orbit(grad, weights, table, *channels, padding_mode, not adjoint)
        grad_y = by_element(rows, order_of(table))
    if ctx.needs_input_grad[1]:
        grad_weights = (
            torch.ops.equifast.orbit_inner(grad, y, table, *channels, padding_mode)
            if adjoint
            else torch.ops.equifast.orbit_inner(y, grad, table, permutation, mixing, padding_mode)
        )
    return grad_y, grad_weights, None, None, None, None, None


register("orbit_average", eager=_eager, fake=_fake, setup_context=_setup_context, backward=_backward)
