"""The gradients of `orbit_conv2d`: here what is shared, the kernels in the two files beside it."""

from __future__ import annotations

from functools import lru_cache

import torch
from torch import Tensor

from ..geometry import IDENTITY, Matrix
from ._members import base_images, groups_of_members
from ._tables import actions, bases
from .orbit_conv2d import allows_tf32
from .orbit_conv2d_grad_input import grad_input
from .orbit_conv2d_grad_weight import grad_weight


def orbit_conv2d_backward(
    grad: Tensor, x: Tensor, weight: Tensor, table, stride, padding, dilation, padding_mode: str, needs
) -> tuple[Tensor, Tensor, Tensor]:
    like = (x, weight, weight)
    shapes = (x.shape, weight.shape, weight.shape[:1])
    if not grad.numel():
        return tuple(t.new_zeros(s if n else (0,)) for t, s, n in zip(like, shapes, needs, strict=True))
    table = tuple(table)
    options = (*weight.shape[2:], *stride, *padding, *dilation)
    grads = [t.new_empty(0) for t in like]
    if needs[0]:
        grads[0] = _grad_x(grad, x, weight, table, options, padding_mode)
    if needs[1]:
        grads[1], grads[2] = _grad_parameters(grad, x, weight, table, options, padding_mode, needs[2])
    elif needs[2]:
        wide = torch.promote_types(weight.dtype, torch.float32)
        grads[2] = grad.sum((0, 2, 3), dtype=wide).to(weight.dtype)
    return tuple(grads)


def _grad_parameters(grad, x, weight, table, options, padding_mode, bias: bool) -> tuple[Tensor, Tensor]:
    """Sums over the members that read x, then over those that read an image interpolated from it, a few at a time."""
    square = x.shape[2] == x.shape[3]
    precision = input_precision(x.dtype)
    total, total_bias = None, None
    for group, members in _launches(table, square, x.device):
        source = x[None] if not group else base_images(x, group, padding_mode).unflatten(0, (len(group), -1))
        part, part_bias = grad_weight(grad, source, members, options, bias, precision)
        total = part if total is None else total.add_(part)
        if bias:
            total_bias = part_bias if total_bias is None else total_bias.add_(part_bias)
    grad_bias = total_bias.to(weight.dtype) if bias else weight.new_empty(0)
    return total.to(weight.dtype).view(weight.shape), grad_bias


def _grad_x(grad, x, weight, table, options, padding_mode) -> Tensor:
    """Sums over the elements of one base in the frame of its image, then the transpose of its interpolation."""
    square = x.shape[2] == x.shape[3]
    precision = input_precision(x.dtype)
    frames = _frames(table, square, x.device)
    if [base for base, _ in frames] == [IDENTITY]:
        return grad_input(grad, x.new_empty(x.shape), weight, frames[0][1], options, square, precision)
    wide = torch.promote_types(x.dtype, torch.float32)
    total = None
    for base, members in frames:
        frame = x.new_empty(x.shape, dtype=wide)
        grad_input(grad, frame, weight, members, options, square, precision)
        part = frame if base == IDENTITY else _interpolation_adjoint(frame, base, padding_mode)
        total = part if total is None else total.add_(part)
    return total.to(x.dtype)


def _interpolation_adjoint(frame: Tensor, base: Matrix, padding_mode: str) -> Tensor:
    from .orbit_average import orbit_average

    return orbit_average(frame, None, [0.0, *base], [], [], padding_mode, True)


def input_precision(dtype: torch.dtype) -> str:
    """What Triton is to multiply float32 in."""
    return "tf32" if allows_tf32(dtype) else "ieee"


@lru_cache(maxsize=256)
def _launches(table: tuple[float, ...], square: bool, device: torch.device) -> list[tuple[tuple[Matrix, ...], Tensor]]:
    """Bases to interpolate, none for x itself; and (count, 3) int32 of the members: element, exact code, image."""
    groups = [(IDENTITY,), *(group.bases for group in groups_of_members(table, square, device) if group.bases)]
    elements = list(enumerate(actions(table, square)))
    launches = []
    for group in groups:
        members = [(e, a.code, group.index(a.base)) for e, a in elements if a.base in group]
        if members:
            on_device = torch.tensor(members, dtype=torch.int32, device=device)
            launches.append(((), on_device) if group == (IDENTITY,) else (group, on_device))
    return launches


@lru_cache(maxsize=256)
def _frames(table: tuple[float, ...], square: bool, device: torch.device) -> list[tuple[Matrix, Tensor]]:
    """Each base, x's own frame first, and (count, 2) int32 of its elements: number and exact code."""
    elements = list(enumerate(actions(table, square)))
    frames = []
    for base in (IDENTITY, *bases(table, square)):
        members = [(e, a.code) for e, a in elements if a.base == base]
        if members:
            frames.append((base, torch.tensor(members, dtype=torch.int32, device=device)))
    return frames
