"""Maps of all members in the order in which each member sees the others."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor

from ..groups import Group


def seen(places: Tensor, group: Group) -> Tensor:
    """``out[k, e] = places[e·k, k]``: (E·B, E·C, H, W) → (E, E·B, C, H, W), the place k first.

    Row h·B + b of ``places`` has E blocks of C channels, one for each place that member h may have; member e·k has the
    place k as seen from member e. Each value is copied once, and the memory format stays.
    """
    return _Seen.apply(places, group, False)


def _pairs(places: Tensor, out: Tensor, group: Group) -> Iterator[tuple[Tensor, Tensor]]:
    """The part of ``places`` and the part of ``out`` that are equal, for each place and member."""
    order = group.order
    members = places.unflatten(0, (order, places.shape[0] // order)).unflatten(2, (order, out.shape[2]))
    views = out.unflatten(1, (order, places.shape[0] // order))
    for k in range(order):
        for e in range(order):
            yield members[group.compose(e, k), :, k], views[k, e]


def _new(like: Tensor, shape: tuple[int, ...]) -> Tensor:
    """Uninitialized images, in the memory format of ``like``; its own images are those of its last four dimensions."""
    images = like.flatten(0, -4) if like.dim() > 4 else like
    if images.is_contiguous() or not images.is_contiguous(memory_format=torch.channels_last):
        return like.new_empty(shape)
    *rows, channels, height, width = shape
    return like.new_empty((*rows, height, width, channels)).movedim(-1, -3)


class _Seen(torch.autograd.Function):
    """`seen`, or with ``back`` its inverse, which is its adjoint too."""

    @staticmethod
    def forward(source: Tensor, group: Group, back: bool) -> Tensor:
        order = group.order
        *_, rows, channels, height, width = source.shape
        if back:
            out = _new(source, (rows, order * channels, height, width))
            for part, view in _pairs(out, source, group):
                part.copy_(view)
        else:
            out = _new(source, (order, rows, channels // order, height, width))
            for part, view in _pairs(source, out, group):
                view.copy_(part)
        return out

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple, output: Tensor) -> None:
        _, ctx.group, ctx.back = inputs

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, None, None]:
        return _Seen.apply(grad, ctx.group, not ctx.back), None, None
