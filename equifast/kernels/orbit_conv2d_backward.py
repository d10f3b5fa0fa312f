"""`orbit_conv2d_backward`: which kernels make which gradient. The kernels are in the two files beside this one."""

from __future__ import annotations

from functools import lru_cache

import torch
from torch import Tensor

from ..geometry import IDENTITY, Matrix
from .host.convolve import input_precision
from .host.members import member_batches
from .host.tables import actions, bases
from .orbit import base_images
from .orbit_average import orbit_average
from .orbit_conv2d_grad_input import grad_input
from .orbit_conv2d_grad_weight import grad_weight


def orbit_conv2d_backward(
    grad: Tensor, x: Tensor, weight: Tensor, table, stride, padding, dilation, padding_mode: str, needs
) -> tuple[Tensor, Tensor, Tensor]:
    if not grad.numel():
        shapes = [s if n else (0,) for s, n in zip((x.shape, weight.shape, weight.shape[:1]), needs, strict=True)]
        return x.new_zeros(shapes[0]), weight.new_zeros(shapes[1]), weight.new_zeros(shapes[2])
    table = tuple(table)
    geometry = (*weight.shape[2:], *stride, *padding, *dilation)
    grads = [t.new_empty(0) for t in (x, weight, weight)]
    if needs[0]:
        grads[0] = _grad_x(grad, x, weight, table, geometry, padding_mode)
    if needs[1]:
        grads[1], grads[2] = _grad_parameters(grad, x, weight, table, geometry, padding_mode, needs[2])
    elif needs[2]:
        wide = torch.promote_types(weight.dtype, torch.float32)
        grads[2] = grad.sum((0, 2, 3), dtype=wide).to(weight.dtype)
    return grads[0], grads[1], grads[2]


def _grad_parameters(grad, x, weight, table, geometry, padding_mode, bias: bool) -> tuple[Tensor, Tensor]:
    """Sum over the members that read x, then over those that read base images of x, a few of them at a time."""
    square = x.shape[2] == x.shape[3]
    precision = input_precision(x.dtype)
    total: Tensor | None = None
    total_bias: Tensor | None = None
    for chosen, members in _launches(table, square, x.device):
        images = base_images(x, chosen, padding_mode) if chosen else None
        source = x[None] if images is None else images.unflatten(0, (len(chosen), -1))
        part, part_bias = grad_weight(grad, source, members, geometry, bias, precision)
        total = part if total is None else total.add_(part)
        if part_bias is not None:
            total_bias = part_bias if total_bias is None else total_bias.add_(part_bias)
    assert total is not None  # each member is in one of the launches
    grad_bias = weight.new_empty(0) if total_bias is None else total_bias.to(weight.dtype)
    return total.to(weight.dtype).view(weight.shape), grad_bias


def _grad_x(grad, x, weight, table, geometry, padding_mode) -> Tensor:
    """Sum over the elements of one base in the frame of its image, then apply the transpose of its interpolation."""
    square = x.shape[2] == x.shape[3]
    precision = input_precision(x.dtype)
    frames = _frames(table, square, x.device)
    if [base for base, _ in frames] == [IDENTITY]:
        return grad_input(grad, x.new_empty(x.shape), weight, frames[0][1], geometry, square, precision)
    wide = torch.promote_types(x.dtype, torch.float32)
    total: Tensor | None = None
    for base, members in frames:
        frame = x.new_empty(x.shape, dtype=wide)
        grad_input(grad, frame, weight, members, geometry, square, precision)
        part = frame if base == IDENTITY else _interpolation_adjoint(frame, base, padding_mode)
        total = part if total is None else total.add_(part)
    assert total is not None  # each element is in one of the frames
    return total.to(x.dtype)


def _interpolation_adjoint(frame: Tensor, base: Matrix, padding_mode: str) -> Tensor:
    return orbit_average(frame, None, [0.0, *base], [], [], padding_mode, True)


@lru_cache(maxsize=256)
def _launches(table: tuple[float, ...], square: bool, device: torch.device) -> list[tuple[tuple[Matrix, ...], Tensor]]:
    """The bases to interpolate, none for x itself, and (count, 3) int32 of the members: element, exact code, image."""
    batches = [(IDENTITY,), *(batch.bases for batch in member_batches(table, square, device) if batch.bases)]
    elements = list(enumerate(actions(table, square)))
    launches = []
    for chosen in batches:
        members = [(e, a.code, chosen.index(a.base)) for e, a in elements if a.base in chosen]
        if members:
            on_device = torch.tensor(members, dtype=torch.int32, device=device)
            launches.append(((), on_device) if chosen == (IDENTITY,) else (chosen, on_device))
    return launches


@lru_cache(maxsize=256)
def _frames(table: tuple[float, ...], square: bool, device: torch.device) -> list[tuple[Matrix, Tensor]]:
    """Each base, x's own frame first, and (count, 2) int32 of its elements: id and exact code."""
    elements = list(enumerate(actions(table, square)))
    frames = []
    for base in (IDENTITY, *bases(table, square)):
        members = [(e, a.code) for e, a in elements if a.base == base]
        if members:
            frames.append((base, torch.tensor(members, dtype=torch.int32, device=device)))
    return frames
