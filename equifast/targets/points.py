"""`act_points`: pixel positions that follow their images."""

from __future__ import annotations

from torch import Tensor

from .. import checks
from ..transform_set import Transforms
from ._coordinates import check_numbers, motion, move_coordinates
from ._entries import Targets, check_action


def act_points(
    points: Targets,
    element: Tensor,
    *,
    group: Transforms | str,
    size: tuple[int, int],
    inverse: bool = False,
) -> Targets:
    """Pixel positions (x, y) under g, or g⁻¹ if ``inverse``: ``M·(p − centre) + centre``.

    Equivalent to: ``(points - centre) @ M.T + centre`` for each image, with M = ``group.matrix(e)`` and
    centre = ((W−1)/2, (H−1)/2). The identity returns the same numbers. A quarter turn or a flip moves an infinite
    coordinate to ±infinity and leaves the other coordinate finite; at other angles both become infinite, and NaN where
    two infinities of opposite sign meet.

    Args:
        points: (B, N, 2), or a list with one tensor (N_i, 2) for each of B images; further dimensions before the last,
            such as (N, K, 2) for skeletons, are allowed. In pixels. float64, float32, float16 and bfloat16 are returned
            in the same dtype, integers in float32. A ``tv_tensors.KeyPoints`` stays one.
        element: int64 ids (B,) in [0, E), as `CanonicalForm.element`.
        group: a ``Group``, a ``TransformSet`` or a name such as ``"C4"``.
        size: ``(H, W)`` of the images, which ``canvas_size`` of a ``KeyPoints`` has to equal.
        inverse: act with g⁻¹, as canonicalizing an image does.

    Returns:
        A tensor or a list, with the shapes of ``points``.

    Raises:
        ValueError, TypeError: naming the argument, and in a list the entry, such as ``points[1]``.
    """
    group = check_action(group, element)
    checks.size("size", size)

    def check(name: str, values: Tensor, batch: int | None) -> None:
        lead = "" if batch is None else f"{batch}, "
        dims = 2 if batch is None else 3
        if values.dim() < dims or values.shape[-1] != 2 or (batch is not None and values.shape[0] != batch):
            expected = f"({lead}N, 2) or ({lead}N, …, 2)"
            raise ValueError(f"{name}: expected {expected}, got {checks.shape(values)}")
        check_numbers(name, values, size)

    def move(values: Tensor, ids: Tensor, entry_format: str) -> Tensor:
        return motion(group, ids, size, pixel=1, inverse=inverse, like=values).points(values)

    return move_coordinates("points", points, element, check, move)
