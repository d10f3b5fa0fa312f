"""`orbit_inner`: ⟨ρ(g_e)·S_e u_e, v_e⟩ for every element and image, the gradient of weights over the group."""

from __future__ import annotations

import torch

from ..dtypes import accumulate_dtype
from ..geometry import order_of
from . import _resample
from ._rows import by_element
from .registry import register


def _eager(u, v, table, permutation, mixing, padding_mode):
    columns = [
        (
            _resample.resample(_resample.member_of(u, e), e, table, permutation, mixing, padding_mode, False)
            * _resample.member_of(v, e).to(accumulate_dtype(v.dtype))
        ).sum((1, 2, 3))
        for e in range(order_of(table))
    ]
    return torch.stack(columns, 1)


def _fake(u, v, table, permutation, mixing, padding_mode):
    torch._check(u.dim() == 4 or v.dim() == 4, lambda: "orbit_inner: u or v must be shared by all elements")
    return u.new_empty((u.shape[-4], order_of(table)), dtype=accumulate_dtype(u.dtype))


def _setup_context(ctx, inputs, output):
    u, v, *ctx.action = inputs
    ctx.save_for_backward(u, v)


def _backward(ctx, grad):
    u, v = ctx.saved_tensors
    table, permutation, mixing, padding_mode = ctx.action
    channels = _resample.transposed(table, permutation, mixing)
    grad_u = grad_v = None
    if ctx.needs_input_grad[0]:
        grad_u = _spread(u, v, grad, table, *channels, padding_mode, True)
    if ctx.needs_input_grad[1]:
        grad_v = _spread(v, u, grad, table, permutation, mixing, padding_mode, False)
    return grad_u, grad_v, None, None, None, None


def _spread(like, other, grad, table, *action):
    """The gradient of one operand: the other one, resampled and weighted by ``grad``.

    It is summed over the elements if all of them share the operand, ``like``.
    """
    if like.dim() == 4:
        return torch.ops.equifast.orbit_average(other, grad, table, *action)
    return by_element(torch.ops.equifast.orbit(other, grad, table, *action), order_of(table))


register(
    "orbit_inner",
    eager=_eager,
    fake=_fake,
    setup_context=_setup_context,
    backward=_backward,
)
