"""What happens to images before their orbit, and the one condition on it."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from . import checks, reference
from .transform_set import Transforms, as_transforms


def check_preprocess(
    preprocess: Callable[[Tensor], Tensor], x: Tensor, group: Transforms | str, *, tolerance: float = 1e-3
) -> None:
    """Raise an error unless ``preprocess`` commutes with the group: ``preprocess(g·x) = g·preprocess(x)``.

    `canonicalize` chooses by what ``preprocess`` makes of the images. Without this condition, the images of one orbit
    may get several canonical images. It is checked on ``x`` for every g that maps the pixel grids of both onto
    themselves. Centre crops, antialiased bilinear and area resizing, and functions of single pixels fulfil it. Nearest
    resizing and random augmentation do not.

    Args:
        preprocess: (B, C, H, W) → (B, C', h, w), as `canonicalize` takes it.
        x: a few images such as those to come.
        group: such as ``"C4"``.
        tolerance: the largest difference allowed, relative to the largest value.

    Raises:
        ValueError: naming the element that doesn't commute, and by how much the results differ.
    """
    group = as_transforms(group)
    checks.images("x", x)
    with torch.no_grad():
        small = preprocess(x)
        checks.images("preprocess(x)", small)
        scale = small.abs().amax().item() if small.numel() else 0.0
        for h in range(1, group.order):
            if not all(group.is_exact(h, *images.shape[2:]) for images in (x, small)):
                continue
            ours, theirs = preprocess(_act(x, h, group)), _act(small, h, group)
            if ours.shape != theirs.shape:
                raise ValueError(f"preprocess: expected one shape for all images, got {ours.shape} and {theirs.shape}")
            error = (ours - theirs).abs().amax().item() if small.numel() else 0.0
            if not error <= tolerance * scale:
                raise ValueError(
                    f"preprocess: doesn't commute with element {h} of {group}: results differ by up to {error:.3g}, "
                    f"values are up to {scale:.3g}; resize with antialias=True, or use nn.CropResize"
                )


def _act(x: Tensor, element: int, group: Transforms) -> Tensor:
    return reference.act(x, torch.full((x.shape[0],), element, device=x.device), group=group)
