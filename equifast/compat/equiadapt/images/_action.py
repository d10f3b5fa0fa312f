"""Images moved by an angle and a reflection flag. Gradients pass to both.

equiadapt describes an element of the group by floating-point numbers: degrees, and 0.0 or 1.0 for a reflection. Here
these numbers are rounded to the id of the element, so the image is moved exactly. Gradients go to the numbers.
"""

from __future__ import annotations

import math
from collections.abc import Mapping

import torch
from torch import Tensor

from ....estimators import asks_for
from ....groups import Group


def element_of(choice: Mapping[str, Tensor], group: Group) -> Tensor:
    """Ids (B,) of the elements nearest to "rotation" in degrees and "reflection"; not finite rotations are 0."""
    turns = (choice["rotation"].detach() * (group.n / 360)).nan_to_num(0, 0, 0).round().long() % group.n
    if not group.reflections:
        return turns
    return turns + group.n * (choice["reflection"].detach() > 0.5).long()


def act_by_angle(x: Tensor, choice: Mapping[str, Tensor], group: Group, *, padding_mode: str, inverse: bool) -> Tensor:
    """``g·x``, or ``g⁻¹·x`` if ``inverse``, for x (B, C, H, W) and the element of each sample."""
    element = element_of(choice, group)
    return _ActByAngle.apply(x, choice["rotation"], choice.get("reflection"), element, group, padding_mode, inverse)


class _ActByAngle(torch.autograd.Function):
    """Forward is `equifast.act`. Backward returns its adjoint for x, and the derivatives by the angle and by the flag.

    With r the flag and θ the angle, the image is read as ``(1 − r)·R(−θ)x + r·F R(−θ)x`` if ``inverse``, and as
    ``(1 − r)·R(θ)x + r·R(θ)F x`` otherwise.
    """

    generate_vmap_rule = True

    @staticmethod
    def forward(x, rotation, reflection, element, group, padding_mode, inverse):
        table = group.action_table(inverse=inverse)
        return torch.ops.equifast.act(x, element, table, [], [], padding_mode, False)

    @staticmethod
    def setup_context(ctx, inputs, output):
        x, rotation, reflection, element, ctx.group, ctx.padding_mode, ctx.inverse = inputs
        ctx.save_for_backward(x, element, output)
        ctx.dtypes = rotation.dtype, None if reflection is None else reflection.dtype

    @staticmethod
    def backward(ctx, grad):
        x, element, image = ctx.saved_tensors
        group, padding_mode = ctx.group, ctx.padding_mode
        dx = by_angle = by_flag = None
        if asks_for(ctx, 0):
            table = group.action_table(inverse=ctx.inverse)
            dx = torch.ops.equifast.act(grad, element, table, [], [], padding_mode, True)
        if asks_for(ctx, 1) or asks_for(ctx, 2):
            sums = _inner(x, image, grad, element, group, padding_mode, ctx.inverse)
            # The sums are derivatives by radians, and the angle is in degrees.
            by_angle = (sums[:, 0] * (math.pi / 180)).to(ctx.dtypes[0])
            if asks_for(ctx, 2) and ctx.dtypes[1] is not None:
                by_flag = sums[:, 1].to(ctx.dtypes[1])
        return dx, by_angle, by_flag, None, None, None, None


def _inner(x, image, grad, element, group, padding_mode, inverse):
    """``⟨grad, ∂image/∂θ⟩`` and ``⟨grad, ∂image/∂r⟩`` of each sample, (B, 2)."""
    table, n = group.action_table(inverse=True), group.n
    if inverse:
        return torch.ops.equifast.angle_inner(x, image, grad, element, table, n, padding_mode)
    # g·x is h⁻¹·x with h = g⁻¹: a rotation by −θ, or the same reflection.
    reflected = element >= n
    turned = torch.where(reflected, element, -element % n)
    sums = torch.ops.equifast.angle_inner(x, image, grad, turned, table, n, padding_mode)
    by_angle = torch.where(reflected, sums[:, 0], -sums[:, 0])
    if not group.reflections:
        return torch.stack((by_angle, torch.zeros_like(by_angle)), 1)
    forward = group.action_table(inverse=False)
    # The image with the same angle and the opposite flag: the difference of the two is the derivative by the flag.
    opposite = torch.ops.equifast.act(x, (element + n) % group.order, forward, [], [], padding_mode, False)
    by_flag = (grad * (image - opposite)).sum((1, 2, 3)).to(sums.dtype)
    return torch.stack((by_angle, torch.where(reflected, by_flag, -by_flag)), 1)
