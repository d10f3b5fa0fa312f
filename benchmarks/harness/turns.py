"""Rotations of each image by its own angle, as people write them: ``(x, degrees) -> x`` turned counterclockwise.

Beyond the edge is 0 in all of them, as torchvision has nothing else.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from . import published
from .measure import Unavailable, reason

Turn = Callable[[Tensor, Tensor], Tensor]


def by_kornia() -> Turn:
    """`kornia.geometry.rotate`, with one angle for each image."""
    try:
        published.declare_torchvision_operators()
        from kornia.geometry import rotate
    except Exception as error:
        raise Unavailable(reason(error)) from error
    return lambda x, degrees: rotate(x, degrees.to(x.dtype), padding_mode="zeros")


def by_torchvision() -> Turn:
    """`torchvision.transforms.functional.rotate`, which takes one angle: a loop over the images."""
    try:
        published.declare_torchvision_operators()
        from torchvision.transforms.functional import InterpolationMode, rotate
    except Exception as error:
        raise Unavailable(reason(error)) from error

    def turn(x: Tensor, degrees: Tensor) -> Tensor:
        pairs = zip(x.split(1), degrees.tolist(), strict=True)
        return torch.cat([rotate(image, angle, InterpolationMode.BILINEAR) for image, angle in pairs])

    return turn


#: What makes each, by the name of its contender. The first is the one that others are compared with.
TURNS: dict[str, Callable[[], Turn]] = {
    "eager": lambda: published.turn,
    "kornia": by_kornia,
    "torchvision": by_torchvision,
}
