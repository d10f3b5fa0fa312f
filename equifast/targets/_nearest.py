"""For each pixel of a moved image, the nearest pixel of its source. Positions are integers, so the result is exact."""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

from ..geometry import STEPS, matrices_of, rows
from ..transform_set import Transforms

#: log2 of the steps in a pixel. As for interpolation (`geometry.STEPS`), positions are whole numbers of steps. So a
#: position that is halfway between two pixels is so on every machine.
STEP_BITS = int(STEPS).bit_length() - 1
HALF = 1 << (STEP_BITS - 1)

#: For unsigned types, the signed type of the same width: every operator of torch has kernels for it.
SIGNED = {torch.uint16: torch.int16, torch.uint32: torch.int32, torch.uint64: torch.int64}

INTEGERS = (torch.bool, torch.uint8, torch.int8, torch.int16, torch.int32, torch.int64, *SIGNED)


class Sources(NamedTuple):
    """Where the pixels of B moved images come from."""

    pixel: Tensor  # (B, H·W), the index of the nearest pixel of the source; outside the source, of one on its edge
    inside: Tensor  # (B, H, W), whether the nearest pixel belongs to the source

    def of(self, images: slice) -> Sources:
        return Sources(self.pixel[images], self.inside[images])


def nearest_pixels(element: Tensor, group: Transforms, inverse: bool, height: int, width: int) -> Sources:
    """For each pixel of ``g·x``, or of ``g⁻¹·x`` if ``inverse``, the nearest pixel of x; ``element`` has ids (B,).

    A position halfway between two pixels takes the one farther from the centre. On the middle line between the two
    central pixels neither is farther. There the sign of the second coordinate decides, and reflections decide the
    opposite of rotations. So the rule turns with the image, and is mirrored if the image and the action are.
    """
    # With fewer elements than images, the maps are made once for each element, and each image takes that of its id.
    shared = group.order < element.shape[0]
    ids = torch.arange(group.order, device=element.device) if shared else element
    # An output pixel reads the source at its own position, moved by the inverse of the action.
    table = group.action_table(inverse=inverse)
    # Made on the CPU, since some devices have no float64.
    matrix = torch.tensor(matrices_of(table), dtype=torch.float64)  # [E, 4], row-major
    offsets = [torch.arange(n, dtype=torch.float64) - (n - 1) / 2 for n in (width, height)]
    # Four tables [E, W or H], in steps from the centre. Each product is rounded, so sums are symmetric about it.
    steps = [(matrix[:, k, None] * offsets[k % 2] * STEPS).round().long() for k in range(4)]
    x_by_column, x_by_row, y_by_column, y_by_row = (step.to(element.device)[ids] for step in steps)
    x = x_by_column[:, None, :] + x_by_row[:, :, None]  # [B, H, W]
    y = y_by_column[:, None, :] + y_by_row[:, :, None]
    # [B, 1, 1]: 1 for rotations, −1 for reflections.
    orientation = torch.tensor([-1 if code >= 4 else 1 for code, _ in rows(table)], device=element.device)[
        ids, None, None
    ]
    column = _outwards(x, torch.where(x == 0, orientation * y, x) < 0, width)
    row = _outwards(y, torch.where(y == 0, -orientation * x, y) < 0, height)
    edge_column, edge_row = column.clamp(0, width - 1), row.clamp(0, height - 1)
    inside = (edge_column == column) & (edge_row == row)
    sources = Sources((edge_row * width + edge_column).flatten(1), inside)
    return Sources(sources.pixel[element], sources.inside[element]) if shared else sources


def _outwards(offset: Tensor, negative: Tensor, size: int) -> Tensor:
    """Index of the pixel nearest to an offset in steps from the centre.

    Of two pixels that are equally near, the lower one where ``negative``, else the higher one.
    """
    position = offset + (size - 1) * HALF
    # The floor of position + ½. To subtract one step changes ties only, which are then rounded down.
    return (position + HALF - negative.long()) >> STEP_BITS


def take(planes: Tensor, sources: Sources, fill: float | None) -> Tensor:
    """Read planes of integers (B, N, H, W) at their sources.

    A pixel whose source is outside the image is ``fill``, or the nearest pixel on the edge if ``fill`` is None.
    """
    values = planes.view(SIGNED.get(planes.dtype, planes.dtype))
    index = sources.pixel[:, None].expand(-1, planes.shape[1], -1)
    moved = values.flatten(2).gather(2, index).reshape(planes.shape)
    if fill is not None:
        # Made in the dtype of the planes, whose bits are then read as the signed type.
        outside = torch.tensor(fill, dtype=planes.dtype).view(values.dtype).to(planes.device)
        moved = torch.where(sources.inside[:, None], moved, outside)
    return moved.view(planes.dtype)
