"""How coordinates move: ``M·p + shift``, with one matrix and one shift for each element of the group."""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

import torch
from torch import Tensor

from .. import checks
from ..dtypes import accumulate_dtype
from ..geometry import matrices_of
from ..transform_set import Transforms
from ._entries import Check, Targets, check_targets, is_tv_tensor, like, plain


class Motion(NamedTuple):
    """How the coordinates of B images move: p goes to ``M·p + shift``. In the type that coordinates are computed in."""

    matrix: Tensor  # (B, 1, 2, 2)
    shift: Tensor  # (B, 1, 2)

    def points(self, points: Tensor) -> Tensor:
        """``M·p + shift`` for points (B, N, 2)."""
        return products(self.matrix, points).sum(-1) + self.shift


def motion(
    group: Transforms, element: Tensor, size: tuple[int, int], *, pixel: int, inverse: bool, like: Tensor
) -> Motion:
    """The motion of g, or of g⁻¹ if ``inverse``, about the centre of the image, for the ids ``element`` (B,).

    The centre is ((W − 1)/2, (H − 1)/2) if coordinates name pixels (``pixel=1``), and (W/2, H/2) if they name the edges
    between pixels (``pixel=0``).
    """
    height, width = size
    # A member made with ``inverse`` reads at g itself, the other one at g⁻¹.
    matrices = matrices_of(group.action_table(inverse=not inverse))
    # Made on the CPU, since some devices have no float64. In float64 the shift of an exact element is exact.
    matrix = torch.tensor(matrices, dtype=torch.float64).unflatten(1, (2, 2))
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
    """Check that the dtype of coordinates can be computed in, and that a tv_tensor is for images of this size."""
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
    format_of: Callable[[Tensor], str] = lambda entry: "",
) -> Targets:
    """Check the targets and move them: a batch in one call of ``move``, a list in one call for all similar entries.

    Entries are similar if they have the same dtype and the same format. ``move`` takes coordinates (B, N, k) in the
    type that they are computed in, the ids (B,) of their images, and their format.
    """
    check_targets(name, targets, element, check)
    if isinstance(targets, Tensor):
        values = plain(targets).flatten(1, -2)
        return like(targets, _rounded(values, element, format_of(targets), move).reshape(targets.shape))
    similar: dict[tuple[torch.dtype, str], list[int]] = {}
    for i, entry in enumerate(targets):
        similar.setdefault((entry.dtype, format_of(entry)), []).append(i)
    moved = list(targets)
    for (_, entry_format), images in similar.items():
        rows = [plain(targets[i]).flatten(0, -2) for i in images]
        counts = [values.shape[0] for values in rows]
        image = torch.tensor(images).repeat_interleave(torch.tensor(counts), output_size=sum(counts))  # of each row
        ids = element[image.to(element.device)]
        moved_rows = _rounded(torch.cat(rows)[:, None], ids, entry_format, move).flatten(0, 1)
        for i, values in zip(images, moved_rows.split(counts), strict=True):
            moved[i] = like(targets[i], values.reshape(targets[i].shape))
    return moved


def _rounded(values: Tensor, element: Tensor, entry_format: str, move: Callable) -> Tensor:
    """Values (B, N, k), moved in float32 or float64 and rounded once to their own dtype; integers become float32."""
    dtype = values.dtype if values.is_floating_point() else torch.float32
    return move(values.to(accumulate_dtype(dtype)), element, entry_format).to(dtype)
