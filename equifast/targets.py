"""Boxes, points and masks that follow their images through a group action, and back.

Two coordinate conventions, both x right and y down, both turning about the centre of the image:

* points name pixels: (0, 0) is the centre of the first pixel, so the centre of the image is ((W−1)/2, (H−1)/2);
* boxes name edges, as COCO and torchvision have them: (x1, y1, x2, y2) with 0 ≤ x ≤ W, so the centre is (W/2, H/2),
  and the box of the pixels i … k is (i, k + 1).

So wherever the action permutes pixels, the box of a moved mask is the moved box of the mask, exactly. Nothing is
changed in place, and nothing is clipped: at 45° a corner may leave the image. ``inverse=True`` acts with g⁻¹, as
`equifast.act` does: that is how targets follow an image into its canonical form.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TypeVar

import torch
from torch import Tensor

from . import checks, ops
from .groups import Group, as_group
from .reference import accumulate_dtype

Targets = TypeVar("Targets", Tensor, Sequence[Tensor])


def act_points(
    points: Targets,
    element: Tensor,
    *,
    group: Group | str,
    size: tuple[int, int],
    inverse: bool = False,
) -> Targets:
    """Pixel positions (x, y) under g, or g⁻¹ if ``inverse``: ``M·(p − centre) + centre``.

    Args:
        points: (B, N, 2), or one tensor (N_i, 2) for each of B images. Integers come back as float32.
        element: ids (B,).
        size: ``(H, W)`` of the images.
    """
    group = _checked(group, element)
    flat, owner, rebuild = _gather("points", points, element, 2)
    return rebuild(_rotate(flat, _matrices(group, inverse, flat)[element[owner]], size, pixel=1))


def act_boxes(
    boxes: Targets,
    element: Tensor,
    *,
    group: Group | str,
    size: tuple[int, int],
    inverse: bool = False,
) -> Targets:
    """Boxes (x1, y1, x2, y2) under g, or g⁻¹ if ``inverse``: the upright hull of all four moved corners.

    Args:
        boxes: (B, N, 4), or one tensor (N_i, 4) for each of B images. Integers come back as float32.
        element: ids (B,).
        size: ``(H, W)`` of the images.
    """
    group = _checked(group, element)
    flat, owner, rebuild = _gather("boxes", boxes, element, 4)
    corners = flat[:, [[0, 1], [2, 1], [2, 3], [0, 3]]]
    matrices = _matrices(group, inverse, flat)[element[owner]]
    moved = _rotate(corners, matrices[:, None], size, pixel=0)
    return rebuild(torch.cat((moved.amin(1), moved.amax(1)), 1))


def act_masks(
    masks: Targets,
    element: Tensor,
    *,
    group: Group | str,
    inverse: bool = False,
    padding_mode: str = "border",
) -> Targets:
    """Masks under g, or g⁻¹ if ``inverse``, about their own centre, whatever their size.

    Floating masks move as images do, by `equifast.act`; integer and boolean ones take the nearest pixel, which is the
    exact permutation wherever there is one.

    Args:
        masks: (B, H, W) or (B, N, H, W), or one tensor (N_i, H, W) for each of B images.
        element: ids (B,).
    """
    group = _checked(group, element)
    checks.padding_mode(padding_mode)
    if isinstance(masks, Tensor):
        checks.same_device(element=element, masks=masks)
        if masks.dim() not in (3, 4) or masks.shape[0] != element.shape[0]:
            expected = f"({element.shape[0]}, H, W) or ({element.shape[0]}, N, H, W)"
            raise ValueError(f"masks: expected {expected}, got {tuple(masks.shape)}")
        planes = masks[:, None] if masks.dim() == 3 else masks
        return _move_planes(planes, element, group, inverse, padding_mode).reshape(masks.shape)
    counts = _counts("masks", masks, element, 3)
    if not counts:
        return []
    planes = torch.cat(list(masks))[:, None]
    moved = _move_planes(planes, element[_owners(counts, element)], group, inverse, padding_mode)
    return list(moved.squeeze(1).split(counts))


def _checked(group: Group | str, element: Tensor) -> Group:
    group = as_group(group)
    checks.tensor("element", element)
    checks.elements("element", element, element.numel(), group.order)
    return group


def _counts(name: str, targets: Sequence[Tensor], element: Tensor, dim: int, last: int | None = None) -> list[int]:
    """Targets an image, once every tensor of a per-image list has been checked."""
    if len(targets) != element.shape[0]:
        raise ValueError(f"{name}: expected one tensor for each of {element.shape[0]} images, got {len(targets)}")
    for i, one in enumerate(targets):
        if one.dim() != dim or (last is not None and one.shape[-1] != last):
            expected = "(N, H, W)" if last is None else f"(N, {last})"
            raise ValueError(f"{name}[{i}]: expected {expected}, got {tuple(one.shape)}")
        checks.same_device(**{"element": element, f"{name}[{i}]": one})
    return [one.shape[0] for one in targets]


def _owners(counts: list[int], element: Tensor) -> Tensor:
    """Index of its image for each of the concatenated targets."""
    images = torch.arange(len(counts), device=element.device)
    repeats = torch.tensor(counts, dtype=torch.int64, device=element.device)
    return images.repeat_interleave(repeats, output_size=sum(counts))


def _gather(name: str, targets: Targets, element: Tensor, last: int):
    """All targets as floating (M, last), the image of each (M,), and the function that undoes the gathering."""
    if isinstance(targets, Tensor):
        if targets.dim() != 3 or targets.shape[0] != element.shape[0] or targets.shape[2] != last:
            raise ValueError(f"{name}: expected ({element.shape[0]}, N, {last}), got {tuple(targets.shape)}")
        checks.same_device(**{"element": element, name: targets})
        shape = targets.shape
        images = torch.arange(shape[0], device=element.device)
        owner = images.repeat_interleave(shape[1], output_size=shape[0] * shape[1])
        return _floating(targets.reshape(-1, last)), owner, lambda flat: flat.reshape(shape)
    counts = _counts(name, targets, element, 2, last)
    flat = torch.cat([element.new_empty(0, last), *targets])
    return _floating(flat), _owners(counts, element), lambda flat: list(flat.split(counts)) if counts else []


def _floating(values: Tensor) -> Tensor:
    return values if values.is_floating_point() else values.float()


def _matrices(group: Group, inverse: bool, like: Tensor) -> Tensor:
    """The 2×2 matrix of every g, or g⁻¹ if ``inverse``, on coordinates: (E, 2, 2)."""
    acting = (group.inverse(e) if inverse else e for e in range(group.order))
    values = [group.matrix(e) for e in acting]
    return torch.tensor(values, dtype=accumulate_dtype(like.dtype), device=like.device).unflatten(1, (2, 2))


def _rotate(points: Tensor, matrices: Tensor, size: tuple[int, int], *, pixel: int) -> Tensor:
    """``M·(p − c) + c`` for points (…, 2), with c the centre of pixels (``pixel=1``) or of edges (0)."""
    height, width = size
    centre = matrices.new_tensor(((width - pixel) / 2, (height - pixel) / 2))
    offset = points.to(matrices.dtype) - centre
    return ((matrices * offset[..., None, :]).sum(-1) + centre).to(points.dtype)


def _move_planes(planes: Tensor, element: Tensor, group: Group, inverse: bool, padding_mode: str) -> Tensor:
    """Planes (B, N, H, W) of any type under the element of each sample."""
    if planes.is_floating_point() and planes.shape[1]:
        return ops.act(planes, element, group=group, inverse=inverse, padding_mode=padding_mode)
    height, width = planes.shape[-2:]
    like = torch.empty(0, dtype=torch.float64, device=planes.device)
    # Output p reads the source at the inverse of the action.
    m = _matrices(group, not inverse, like)[element].flatten(1)[:, :, None, None]
    dx = torch.arange(width, dtype=torch.float64, device=planes.device) - (width - 1) / 2
    dy = torch.arange(height, dtype=torch.float64, device=planes.device)[:, None] - (height - 1) / 2
    column = (m[:, 0] * dx + m[:, 1] * dy + width / 2).floor()
    row = (m[:, 2] * dx + m[:, 3] * dy + height / 2).floor()
    inside_column, inside_row = column.clamp(0, width - 1), row.clamp(0, height - 1)
    index = (inside_row * width + inside_column).long().flatten(1)[:, None].expand(-1, planes.shape[1], -1)
    moved = planes.flatten(2).gather(2, index).reshape(planes.shape)
    if padding_mode == "border":
        return moved
    return moved * ((inside_column == column) & (inside_row == row))[:, None]
