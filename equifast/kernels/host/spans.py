"""Bounds on the offsets of the gradient kernels."""

from __future__ import annotations

from torch import Tensor

#: Pixels by which the largest tile may lie beyond the edge of an image.
RAGGED = 256


def padded_span(images: Tensor, geometry: tuple[int, ...]) -> int:
    """A bound on offsets within one image, those of padding and ragged tiles included."""
    beyond = RAGGED + 2 * max(geometry)
    return sum(step * (size + beyond) for step, size in zip(images.stride()[-3:], images.shape[-3:], strict=True))
