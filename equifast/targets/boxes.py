"""`act_boxes`: boxes that follow their images, upright or rotated, in the formats of torchvision."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import NamedTuple

import torch
from torch import Tensor

from .. import checks
from ..geometry import Matrix, matrices_of, stretch
from ..groups import Group
from ..transform_set import Transforms
from ._coordinates import Motion, check_numbers, motion, move_coordinates, products
from ._entries import Targets, check_action, is_tv_tensor


class AngleMap(NamedTuple):
    """How a rotated box changes: its angle r becomes ``sign·r + degrees``, and its sides grow by ``scale``."""

    sign: Tensor  # (B, 1), 1 for rotations, −1 for reflections
    degrees: Tensor  # (B, 1), counter-clockwise as displayed
    scale: Tensor  # (B, 1), 1 for elements of a group


def act_boxes(
    boxes: Targets,
    element: Tensor,
    *,
    group: Transforms | str,
    size: tuple[int, int],
    inverse: bool = False,
) -> Targets:
    """Boxes (x1, y1, x2, y2) under g, or g⁻¹ if ``inverse``: the upright hull of the moved box.

    Equivalent to: the least and the greatest x and y of the four corners, each moved by ``M·(p − centre) + centre``
    with M = ``group.matrix(e)`` and centre = (W/2, H/2). The identity returns the same numbers. An infinite side stays
    infinite: a quarter turn or a flip moves that side alone, and at other angles the hull of an unbounded box is
    unbounded. NaN arises only where infinities of opposite sign have to be added: at other angles if both corners are
    infinitely far on the same side, and under a flip in the format XYWH if x is −infinity and the width infinite.

    A ``tv_tensors.BoundingBoxes`` keeps its class, its format and its ``canvas_size``. XYWH and CXCYWH become the hull
    in the same format. The rotated formats XYWHR, CXCYWHR and XYXYXYXY move rigidly: their sides keep their lengths,
    or grow with the image where a `TransformSet` scales it both ways alike; maps that stretch or shear are refused;
    and after a reflection the corner that was the top right is the top left. Angles are in degrees, counter-clockwise
    as displayed, and those within [−180, 180] stay within.

    Args:
        boxes: (B, N, 4), or a list with one tensor (N_i, 4) for each of B images. In pixels, from edge to edge.
            float64, float32, float16 and bfloat16 are returned in the same dtype, integers in float32.
        element: int64 ids (B,) in [0, E), as `CanonicalForm.element`.
        group: a ``Group``, a ``TransformSet`` or a name such as ``"C4"``.
        size: ``(H, W)`` of the images, which ``canvas_size`` of a ``BoundingBoxes`` has to equal.
        inverse: act with g⁻¹, as canonicalizing an image does.

    Returns:
        A tensor or a list, with the shapes of ``boxes``.

    Raises:
        ValueError, TypeError: naming the argument, and in a list the entry, such as ``boxes[1]``.
    """
    group = check_action(group, element)
    checks.size("size", size)

    def check(name: str, values: Tensor, batch: int | None) -> None:
        lead: tuple[int, ...] = () if batch is None else (batch,)
        columns = _columns(name, values)
        if values.dim() != len(lead) + 2 or values.shape[: len(lead)] != lead or values.shape[-1] != columns:
            expected = ", ".join(str(n) for n in (*lead, "N", columns))
            raise ValueError(f"{name}: expected ({expected}), got {checks.shape(values)}")
        check_numbers(name, values, size)

    def move(values: Tensor, ids: Tensor, box_format: str) -> Tensor:
        position = motion(group, ids, size, pixel=0, inverse=inverse, like=values)
        if box_format in UPRIGHT:
            return UPRIGHT[box_format](position, values)
        return ROTATED[box_format](position, values, _angle_map(group, ids, inverse, values))

    return move_coordinates("boxes", boxes, element, check, move, _format)


def _format(boxes: Tensor) -> str:
    """Name of the format of a ``BoundingBoxes``. Any other tensor has the format XYXY."""
    box_format = getattr(boxes, "format", None) if is_tv_tensor(boxes) else None
    return "XYXY" if box_format is None else box_format.name


def _columns(name: str, boxes: Tensor) -> int:
    """How many numbers describe one box, or an error if the format is unknown."""
    box_format = _format(boxes)
    if box_format not in COLUMNS:
        raise ValueError(f"{name}: expected one of the formats {', '.join(COLUMNS)}, got {box_format}")
    return COLUMNS[box_format]


def _angle_map(group: Transforms, element: Tensor, inverse: bool, like: Tensor) -> AngleMap:
    """What g, or g⁻¹ if ``inverse``, does to the angles of boxes, for the ids ``element`` (B,)."""
    rows: list[tuple[float, float, float]] = []
    for e, matrix in enumerate(matrices_of(group.action_table(inverse=not inverse))):
        if isinstance(group, Group):
            rotation, reflection = group.split(group.inverse(e) if inverse else e)
            rows.append((1 - 2 * reflection, 360 * rotation / group.n, 1))
        else:
            rows.append(_similarity(matrix, f"map {e} of a {group}"))
    sign, degrees, scale = like.new_tensor(rows)[element].unsqueeze(-1).unbind(1)
    return AngleMap(sign, degrees, scale)


def _similarity(matrix: Matrix, name: str) -> tuple[float, float, float]:
    """The sign, the degrees and the scale of a matrix that keeps right angles, by `AngleMap`."""
    least, most = stretch(matrix)
    if most - least > 1e-9 * most:
        raise ValueError(f"boxes: a rotated box stays one under maps that keep right angles, but {name} doesn't")
    sign = 1 if matrix[0] * matrix[3] > matrix[1] * matrix[2] else -1
    return sign, math.degrees(math.atan2(matrix[1], matrix[3])), (least + most) / 2


def _xyxy(position: Motion, boxes: Tensor) -> Tensor:
    # [B, N, 2, 2]: the terms M[i, k]·p[k] of either corner p. The hull takes the smaller and the larger of each pair.
    first, second = products(position.matrix, boxes[..., :2]), products(position.matrix, boxes[..., 2:])
    low, high = torch.minimum(first, second).sum(-1), torch.maximum(first, second).sum(-1)
    return torch.cat((low + position.shift, high + position.shift), -1)


def _xywh(position: Motion, boxes: Tensor) -> Tensor:
    corner, extent = products(position.matrix, boxes[..., :2]), products(position.matrix, boxes[..., 2:])
    low = (corner + extent.clamp(max=0)).sum(-1) + position.shift
    return torch.cat((low, extent.abs().sum(-1)), -1)


def _cxcywh(position: Motion, boxes: Tensor) -> Tensor:
    extent = products(position.matrix, boxes[..., 2:]).abs().sum(-1)
    return torch.cat((position.points(boxes[..., :2]), extent), -1)


def _xyxyxyxy(position: Motion, boxes: Tensor, angle_map: AngleMap) -> Tensor:
    corners = position.points(boxes.unflatten(-1, (4, 2)).flatten(1, 2)).unflatten(1, (-1, 4))  # [B, N, 4, 2]
    reflected = angle_map.sign[..., None, None] < 0
    return torch.where(reflected, corners[..., [1, 0, 3, 2], :], corners).flatten(-2)


def _cxcywhr(position: Motion, boxes: Tensor, angle_map: AngleMap) -> Tensor:
    sides = _moved_sides(boxes, angle_map)
    return torch.cat((position.points(boxes[..., :2]), sides, _moved_angle(boxes, angle_map)), -1)


def _xywhr(position: Motion, boxes: Tensor, angle_map: AngleMap) -> Tensor:
    left, width, angle = boxes[..., :2], boxes[..., 2:3], boxes[..., 4:].deg2rad()
    right = left + width * torch.cat((angle.cos(), -angle.sin()), -1)
    corner = torch.where(angle_map.sign[..., None] < 0, right, left)
    sides = _moved_sides(boxes, angle_map)
    return torch.cat((position.points(corner), sides, _moved_angle(boxes, angle_map)), -1)


def _moved_sides(boxes: Tensor, angle_map: AngleMap) -> Tensor:
    """Width and height of the moved boxes (B, N, 2)."""
    return boxes[..., 2:4] * angle_map.scale[..., None]


def _moved_angle(boxes: Tensor, angle_map: AngleMap) -> Tensor:
    """Angles of the moved boxes (B, N, 1). Full turns are taken off those outside [−180, 180]."""
    angle = angle_map.sign[..., None] * boxes[..., 4:] + angle_map.degrees[..., None]
    return torch.where(angle.abs() > 180, angle - 360 * (angle / 360).round(), angle)


#: For each upright format, the function that returns the hulls of moved boxes (B, N, 4) in the same format.
UPRIGHT: dict[str, Callable[[Motion, Tensor], Tensor]] = {"XYXY": _xyxy, "XYWH": _xywh, "CXCYWH": _cxcywh}

#: For each format with an angle or with four corners, the function that moves boxes rigidly.
ROTATED: dict[str, Callable[[Motion, Tensor, AngleMap], Tensor]] = {
    "XYWHR": _xywhr,
    "CXCYWHR": _cxcywhr,
    "XYXYXYXY": _xyxyxyxy,
}

#: For each format, how many numbers describe one box.
COLUMNS = {"XYXY": 4, "XYWH": 4, "CXCYWH": 4, "XYWHR": 5, "CXCYWHR": 5, "XYXYXYXY": 8}
