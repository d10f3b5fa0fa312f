"""How coordinates move: ``M·p + shift``, with one matrix and one shift for each element of the group."""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

import torch
from torch import Tensor

from .. import checks
from ..dtypes import accumulate_dtype
from ..groups import Group
from ._entries import Check, Targets, check_targets, is_tv_tensor, like, plain


class Motion(NamedTuple):
    """Where the coordinates of B images go, in the type that they are computed in."""

    matrix: Tensor  # (B, 1, 2, 2)
    shift: Tensor  # (B, 1, 2)

    def points(self, points: Tensor) -> Tensor:
        """``M·p + shift`` for points (B, N, 2)."""
        return products(self.matrix, points).sum(-1) + self.shift


def motion(group: Group, element: Tensor, size: tuple[int, int], *, pixel: int, inverse: bool, like: Tensor) -> Motion:
    """The motion of g, or g⁻¹ if ``inverse``, about the centre of pixels (``pixel=1``) or of edges (0)."""
    height, width = size
    acting = (group.inverse(e) if inverse else e for e in range(group.order))
    # On the CPU, since some devices have no float64. In it the shift of an exact element is exact.
    matrix = torch.tensor([group.matrix(g) for g in acting], dtype=torch.float64).unflatten(1, (2, 2))
    centre = matrix.new_tensor(((width - pixel) / 2, (height - pixel) / 2))
    shift = centre - (matrix * centre).sum(-1)
    table = torch.cat((matrix, shift[..., None]), -1).to(like.device, like.dtype)
    rows = table[element][:, None]  # [B, 1, 2, 3]
    return Motion(rows[..., :2], rows[..., 2])


def products(matrix: Tensor, points: Tensor) -> Tensor:
    """The terms ``M[i, k]·p[k]`` of the product with points (…, 2): (…, 2, 2).

    A zero in the matrix gives zero, even times infinity or NaN. So an exact element, whose matrix is a signed
    permutation, moves an infinite coordinate and leaves the other one alone.
    """
    return torch.where(matrix == 0, 0, matrix * points[..., None, :])


def check_numbers(name: str, values: Tensor, size: tuple[int, int]) -> None:
    """Whether coordinates can be computed with, and whether a tv_tensor was made for images of this size."""
    if values.is_floating_point() or values.is_complex():
        checks.floating(name, values)
    canvas = getattr(values, "canvas_size", None) if is_tv_tensor(values) else None
    if canvas is not None and tuple(canvas) != tuple(size):
        raise ValueError(f"{name}: expected canvas_size {tuple(size)}, the size of the images, got {tuple(canvas)}")


def move_coordinates(
    name: str,
    targets: Targets,
    element: Tensor,
    check: Check,
    move: Callable[[Tensor, Tensor, str], Tensor],
    kind: Callable[[Tensor], str] = lambda entry: "",
) -> Targets:
    """Check the targets, and move a batch at once, or the entries of a list that share a dtype and a kind.

    ``move`` takes coordinates (B, N, k) in the type they are computed in, the ids (B,) and the kind of the entries.
    """
    check_targets(name, targets, element, check)
    if isinstance(targets, Tensor):
        return like(targets, _computed(plain(targets).flatten(1, -2), element, kind(targets), move, targets.shape))
    alike: dict[tuple[torch.dtype, str], list[int]] = {}
    for i, entry in enumerate(targets):
        alike.setdefault((entry.dtype, kind(entry)), []).append(i)
    moved = list(targets)
    for (_, shared), images in alike.items():
        rows = [plain(targets[i]).flatten(0, -2) for i in images]
        counts = [one.shape[0] for one in rows]
        owner = torch.tensor(images).repeat_interleave(torch.tensor(counts), output_size=sum(counts))
        together = torch.cat(rows)[:, None]
        computed = _computed(together, element[owner.to(element.device)], shared, move, (-1, together.shape[-1]))
        for i, one in zip(images, computed.split(counts), strict=True):
            moved[i] = like(targets[i], one.reshape(targets[i].shape))
    return moved


def _computed(values: Tensor, element: Tensor, kind: str, move: Callable, shape: tuple[int, ...]) -> Tensor:
    """Values (B, N, k) moved in float32 or float64 and rounded once to their own dtype; integers become float32."""
    dtype = values.dtype if values.is_floating_point() else torch.float32
    return move(values.to(accumulate_dtype(dtype)), element, kind).to(dtype).reshape(shape)
