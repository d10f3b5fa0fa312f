"""Nearest pixels under a group action, found in integers."""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

from ..geometry import STEPS
from ..groups import Group

#: log2 of the steps in a pixel. As for interpolation (`geometry.STEPS`), positions are whole numbers of steps. So a
#: tie between two pixels is a tie on every machine.
STEP_BITS = int(STEPS).bit_length() - 1
HALF = 1 << (STEP_BITS - 1)

#: Types of the same width that every operator of torch knows.
SIGNED = {torch.uint16: torch.int16, torch.uint32: torch.int32, torch.uint64: torch.int64}

INTEGERS = (torch.bool, torch.uint8, torch.int8, torch.int16, torch.int32, torch.int64, *SIGNED)


class Sources(NamedTuple):
    """Where the pixels of B moved images come from."""

    pixel: Tensor  # (B, H·W), the nearest pixel of the source, or the nearest one at its edge
    inside: Tensor  # (B, H, W), whether the nearest pixel belongs to the source

    def of(self, images: slice) -> Sources:
        return Sources(self.pixel[images], self.inside[images])


def nearest_pixels(element: Tensor, group: Group, inverse: bool, height: int, width: int) -> Sources:
    """The pixel of the source nearest to each pixel of ``g·x``, or of ``g⁻¹·x`` if ``inverse``; ids (B,).

    A position halfway between two pixels takes the one farther from the centre. On the middle line between the two
    central pixels neither is farther: there the other coordinate decides, one way round for rotations and the other
    way round for reflections. This rule turns with the image, and flips with the image and the action.
    """
    # Where there are fewer elements than images, one map for each element, handed out to the images.
    shared = group.order < element.shape[0]
    ids = torch.arange(group.order, device=element.device) if shared else element
    # An output comes from where the inverse of the action takes it.
    acting = [e if inverse else group.inverse(e) for e in range(group.order)]
    # On the CPU, since some devices have no float64: (E, 4), row-major matrices.
    matrix = torch.tensor([group.matrix(g) for g in acting], dtype=torch.float64)
    offsets = [torch.arange(n, dtype=torch.float64) - (n - 1) / 2 for n in (width, height)]
    # (E, W or H) each, in steps from the centre. Rounded products make sums that are symmetric about it.
    steps = [(matrix[:, k, None] * offsets[k % 2] * STEPS).round().long() for k in range(4)]
    x_by_column, x_by_row, y_by_column, y_by_row = (step.to(element.device)[ids] for step in steps)
    x = x_by_column[:, None, :] + x_by_row[:, :, None]  # [B, H, W]
    y = y_by_column[:, None, :] + y_by_row[:, :, None]
    way_round = torch.tensor([1 - 2 * group.split(g)[1] for g in acting], device=element.device)[ids, None, None]
    column = _outwards(x, torch.where(x == 0, way_round * y, x) < 0, width)
    row = _outwards(y, torch.where(y == 0, -way_round * x, y) < 0, height)
    edge_column, edge_row = column.clamp(0, width - 1), row.clamp(0, height - 1)
    inside = (edge_column == column) & (edge_row == row)
    sources = Sources((edge_row * width + edge_column).flatten(1), inside)
    return Sources(sources.pixel[element], sources.inside[element]) if shared else sources


def _outwards(offset: Tensor, negative: Tensor, size: int) -> Tensor:
    """Index of the pixel nearest to an offset in steps from the centre; of two, the lower one where ``negative``."""
    position = offset + (size - 1) * HALF
    # Floor of position + ½. One step less changes nothing but a tie, which then goes down.
    return (position + HALF - negative.long()) >> STEP_BITS


def take(planes: Tensor, sources: Sources, fill: float | None) -> Tensor:
    """Planes (B, N, H, W) of integers read at their sources, with ``fill`` outside, or the edge if it is None."""
    values = planes.view(SIGNED.get(planes.dtype, planes.dtype))
    index = sources.pixel[:, None].expand(-1, planes.shape[1], -1)
    moved = values.flatten(2).gather(2, index).reshape(planes.shape)
    if fill is not None:
        # Filled as its own dtype, then read as the signed one.
        outside = torch.tensor(fill, dtype=planes.dtype).view(values.dtype).to(planes.device)
        moved = torch.where(sources.inside[:, None], moved, outside)
    return moved.view(planes.dtype)
