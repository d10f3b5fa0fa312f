"""Actions on features, boxes, masks and points, as equiadapt's examples call them. Nothing is changed in place."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence

import torch
from torch import Tensor

from ....groups import Group, quarter_turn
from ....ops import act
from ....representations import channel_action
from ._action import act_by_angle, element_of

REPRESENTATIONS = {"scalar": "trivial", "regular": "regular", "vector": "vector"}


def get_action_on_image_features(
    feature_map: Tensor,
    group_info_dict: Mapping[str, int],
    group_element_dict: Mapping[str, Tensor],
    induced_rep_type: str = "regular",
) -> Tensor:
    """``g·feature_map`` (B, C, H, W) for the element g of each sample, with zeros beyond the edge of the feature map.

    Args:
        group_info_dict: holds "num_rotations".
        group_element_dict: holds "rotation" (B,) in degrees and, for groups with reflections, "reflection" (B,), 0 or
            1. Gradients pass to both, but not from features of type "vector".
        induced_rep_type: "regular" (blocks of E channels, in the order of elements in `equifast.groups`), "scalar" or
            "vector" (pairs of channels, x right and y down).
    """
    if induced_rep_type not in REPRESENTATIONS:
        expected = ", ".join(REPRESENTATIONS)
        raise ValueError(f"induced_rep_type: expected one of {expected}, got {induced_rep_type!r}")
    group = Group(group_info_dict["num_rotations"], "reflection" in group_element_dict)
    element = element_of(group_element_dict, group)
    differentiable = torch.is_grad_enabled() and any(value.requires_grad for value in group_element_dict.values())
    if not differentiable or induced_rep_type == "vector":
        representation = REPRESENTATIONS[induced_rep_type]
        return act(feature_map, element, group=group, representation=representation, padding_mode="zeros")
    if induced_rep_type == "regular":
        feature_map = _permuted(feature_map, element, group)
    return act_by_angle(feature_map, group_element_dict, group, padding_mode="zeros", inverse=False)


def _permuted(features: Tensor, element: Tensor, group: Group) -> Tensor:
    """Permute the channels of each sample as the regular representation of its element does."""
    if features.shape[1] % group.order:
        raise ValueError(f"feature_map: expected channels divisible by {group.order}, got {features.shape[1]}")
    order, _ = channel_action(group, "regular", inverse=False)
    sources = torch.tensor(order, device=features.device).view(group.order, group.order)[element]
    blocks = features.unflatten(1, (-1, group.order)).transpose(1, 2)
    samples = torch.arange(features.shape[0], device=features.device)[:, None]
    return blocks[samples, sources].transpose(1, 2).flatten(1, 2)


def roll_by_gather(feature_map: Tensor, shifts: Tensor) -> Tensor:
    """Roll the third axis of (B, channels, E, H, W), for each sample by its shift (B,), which is rounded."""
    batch, _, order = feature_map.shape[:3]
    planes = torch.arange(order, device=feature_map.device) - shifts.round().long()[:, None]
    samples = torch.arange(batch, device=feature_map.device)[:, None]
    return feature_map.transpose(1, 2)[samples, planes % order].transpose(1, 2)


def flip_boxes(boxes: Tensor, width: int) -> Tensor:
    """Boxes (N, 4), xyxy, of an image of that width, reflected left to right."""
    x1, y1, x2, y2 = boxes.unbind(1)
    return torch.stack((width - x2, y1, width - x1, y2), 1)


def flip_masks(masks: Tensor) -> Tensor:
    """Masks reflected left to right."""
    return masks.flip(-1)


def rotate_points(origin: Sequence[float], point: Sequence[Tensor], angle: Tensor) -> tuple[Tensor, Tensor]:
    """Turn points (x, y), y down, about ``origin``, clockwise as displayed, by ``angle`` in radians."""
    (ox, oy), (px, py) = origin, point
    dx, dy = px - ox, py - oy
    cos, sin = torch.cos(angle), torch.sin(angle)
    return ox + cos * dx - sin * dy, oy + sin * dx + cos * dy


def rotate_boxes(boxes: Tensor, angle: Tensor | float, width: int, height: int | None = None) -> Tensor:
    """The upright hulls of boxes (N, 4), xyxy, that are turned clockwise as displayed by ``angle`` in degrees.

    ``width`` and ``height`` are those of the image. Without ``height`` the image is square.
    """
    wide = boxes.double()
    origin = (width / 2, (width if height is None else height) / 2)
    radians = torch.deg2rad(torch.as_tensor(angle, dtype=torch.float64, device=boxes.device))
    x, y = rotate_points(origin, (wide[:, [0, 2, 2, 0]], wide[:, [1, 1, 3, 3]]), radians)
    hull = torch.stack((x.amin(1), y.amin(1), x.amax(1), y.amax(1)), 1)
    return hull.to(boxes.dtype if boxes.is_floating_point() else torch.float32)


def rotate_masks(masks: Tensor, angle: Tensor | float) -> Tensor:
    """Masks (…, H, W) of any type, turned counter-clockwise as displayed by ``angle`` in degrees.

    Each pixel takes the nearest one, and zero beyond the edge. Multiples of 90° are exact.
    """
    height, width = masks.shape[-2:]
    quarters, rest = divmod(-float(angle), 90.0)
    a, b, c, d = quarter_turn(int(quarters) % 4)
    cos, sin = math.cos(math.radians(rest)), math.sin(math.radians(rest))
    dx = torch.arange(width, dtype=torch.float64, device=masks.device) - (width - 1) / 2
    dy = torch.arange(height, dtype=torch.float64, device=masks.device)[:, None] - (height - 1) / 2
    # The quarter turns are applied last: they are exact, so pixels stay on the grid if there is no rest.
    u, v = cos * dx + sin * dy, cos * dy - sin * dx
    column, row = (a * u + b * v + width / 2).floor().long(), (c * u + d * v + height / 2).floor().long()
    inside = (column >= 0) & (column < width) & (row >= 0) & (row < height)
    moved = masks[..., row.clamp(0, height - 1), column.clamp(0, width - 1)]
    return torch.where(inside, moved, torch.zeros((), dtype=masks.dtype, device=masks.device))
