"""`act_boxes`: boxes that follow their images, upright or rotated, in the formats of torchvision."""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

import torch
from torch import Tensor

from .. import checks
from ..groups import Group
from ._coordinates import Motion, check_numbers, motion, move_coordinates, products
from ._entries import Targets, check_action, is_tv_tensor


class Turn(NamedTuple):
    """What happens to the angle r of a rotated box: ``sign·r + degrees``."""

    sign: Tensor  # (B, 1), −1 for reflections
    degrees: Tensor  # (B, 1), counter-clockwise as displayed


def act_boxes(
    boxes: Targets,
    element: Tensor,
    *,
    group: Group | str,
    size: tuple[int, int],
    inverse: bool = False,
) -> Targets:
    """Boxes (x1, y1, x2, y2) under g, or g⁻¹ if ``inverse``: the upright hull of the moved box.

    Equivalent to: the least and the greatest x and y of the four corners, each moved by ``M·(p − centre) + centre``
    with M = ``group.matrix(e)`` and centre = (W/2, H/2). The identity returns the same numbers. An infinite side stays
    infinite: a quarter turn or a flip moves that side alone, and at other angles the hull of an unbounded box is
    unbounded. NaN arises only where infinities of opposite sign have to be added: at other angles if both corners lie
    at infinity on the same side, and under a flip in the format XYWH if x is −infinity and the width infinite.

    A ``tv_tensors.BoundingBoxes`` keeps its class, its format and its ``canvas_size``. XYWH and CXCYWH become the hull
    in the same format. The rotated formats XYWHR, CXCYWHR and XYXYXYXY move rigidly: their sides keep their lengths,
    and after a reflection the corner that was the top right is the top left. Angles are degrees, counter-clockwise as
    displayed, and return in [−180, 180] if they came so.

    Args:
        boxes: (B, N, 4), or a list with one tensor (N_i, 4) for each of B images. In pixels, from edge to edge.
            float64, float32, float16 or bfloat16 come back in the same dtype; integers come back as float32.
        element: int64 ids (B,) in [0, E), as `CanonicalForm.element`.
        group: a ``Group`` or a name such as ``"C4"``.
        size: ``(H, W)`` of the images, which ``canvas_size`` of a ``BoundingBoxes`` has to equal.
        inverse: act with g⁻¹, as canonicalizing an image does.

    Returns:
        A tensor or a list, of the shapes that came.

    Raises:
        ValueError, TypeError: naming the argument, and in a list the entry, such as ``boxes[1]``.
    """
    group = check_action(group, element)
    checks.size("size", size)

    def check(name: str, one: Tensor, batch: int | None) -> None:
        lead: tuple[int, ...] = () if batch is None else (batch,)
        columns = _columns(name, one)
        if one.dim() != len(lead) + 2 or one.shape[: len(lead)] != lead or one.shape[-1] != columns:
            expected = ", ".join(str(n) for n in (*lead, "N", columns))
            raise ValueError(f"{name}: expected ({expected}), got {checks.shape(one)}")
        check_numbers(name, one, size)

    def move(values: Tensor, ids: Tensor, box_format: str) -> Tensor:
        where = motion(group, ids, size, pixel=0, inverse=inverse, like=values)
        if box_format in UPRIGHT:
            return UPRIGHT[box_format](where, values)
        return ROTATED[box_format](where, values, _turn(group, ids, inverse, values))

    return move_coordinates("boxes", boxes, element, check, move, _format)


def _format(boxes: Tensor) -> str:
    """Name of the format of a ``BoundingBoxes``; any other tensor holds corners."""
    box_format = getattr(boxes, "format", None) if is_tv_tensor(boxes) else None
    return "XYXY" if box_format is None else box_format.name


def _columns(name: str, boxes: Tensor) -> int:
    box_format = _format(boxes)
    if box_format not in COLUMNS:
        raise ValueError(f"{name}: expected one of the formats {', '.join(COLUMNS)}, got {box_format}")
    return COLUMNS[box_format]


def _turn(group: Group, element: Tensor, inverse: bool, like: Tensor) -> Turn:
    rows = []
    for e in range(group.order):
        rotation, reflection = group.split(group.inverse(e) if inverse else e)
        rows.append((1 - 2 * reflection, 360 * rotation / group.n))
    sign, degrees = like.new_tensor(rows)[element].unsqueeze(-1).unbind(1)
    return Turn(sign, degrees)


def _xyxy(where: Motion, boxes: Tensor) -> Tensor:
    # [B, N, 2, 2]: how far each coordinate of either corner moves each coordinate of the result.
    first, second = products(where.matrix, boxes[..., :2]), products(where.matrix, boxes[..., 2:])
    low, high = torch.minimum(first, second).sum(-1), torch.maximum(first, second).sum(-1)
    return torch.cat((low + where.shift, high + where.shift), -1)


def _xywh(where: Motion, boxes: Tensor) -> Tensor:
    corner, extent = products(where.matrix, boxes[..., :2]), products(where.matrix, boxes[..., 2:])
    low = (corner + extent.clamp(max=0)).sum(-1) + where.shift
    return torch.cat((low, extent.abs().sum(-1)), -1)


def _cxcywh(where: Motion, boxes: Tensor) -> Tensor:
    extent = products(where.matrix, boxes[..., 2:]).abs().sum(-1)
    return torch.cat((where.points(boxes[..., :2]), extent), -1)


def _xyxyxyxy(where: Motion, boxes: Tensor, turn: Turn) -> Tensor:
    corners = where.points(boxes.unflatten(-1, (4, 2)).flatten(1, 2)).unflatten(1, (-1, 4))  # [B, N, 4, 2]
    reflected = turn.sign[..., None, None] < 0
    return torch.where(reflected, corners[..., [1, 0, 3, 2], :], corners).flatten(-2)


def _cxcywhr(where: Motion, boxes: Tensor, turn: Turn) -> Tensor:
    return torch.cat((where.points(boxes[..., :2]), boxes[..., 2:4], _turned(boxes, turn)), -1)


def _xywhr(where: Motion, boxes: Tensor, turn: Turn) -> Tensor:
    left, width, angle = boxes[..., :2], boxes[..., 2:3], boxes[..., 4:].deg2rad()
    right = left + width * torch.cat((angle.cos(), -angle.sin()), -1)
    corner = torch.where(turn.sign[..., None] < 0, right, left)
    return torch.cat((where.points(corner), boxes[..., 2:4], _turned(boxes, turn)), -1)


def _turned(boxes: Tensor, turn: Turn) -> Tensor:
    """Angles of the moved boxes (B, N, 1), back by a full turn where they leave [−180, 180]."""
    angle = turn.sign[..., None] * boxes[..., 4:] + turn.degrees[..., None]
    return torch.where(angle.abs() > 180, angle - 360 * (angle / 360).round(), angle)


#: Formats whose boxes are upright, with what makes the hull of a moved box from (…, 4).
UPRIGHT: dict[str, Callable[[Motion, Tensor], Tensor]] = {"XYXY": _xyxy, "XYWH": _xywh, "CXCYWH": _cxcywh}

#: Formats that hold an angle or four corners, with what moves such a box rigidly.
ROTATED: dict[str, Callable[[Motion, Tensor, Turn], Tensor]] = {
    "XYWHR": _xywhr,
    "CXCYWHR": _cxcywhr,
    "XYXYXYXY": _xyxyxyxy,
}

#: Numbers that a box of each format takes.
COLUMNS = {"XYXY": 4, "XYWH": 4, "CXCYWH": 4, "XYWHR": 5, "CXCYWHR": 5, "XYXYXYXY": 8}
