"""A centre crop and a resize that commute with turns: what a scoring network sees of large images."""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from .. import checks


class CropResize(nn.Module):
    """A centre crop, then an antialiased bilinear resize: (B, C, H, W) → (B, C, h, w).

    Both commute with every turn and flip that maps the pixel grid onto itself, up to rounding, as a `preprocess` has
    to. The crop shares the centre of the image exactly: it is one pixel larger where its size would be odd and that of
    the image even, or the other way round.

    Equivalent to: ``F.interpolate(x[:, :, top:-top, left:-left], resize, mode="bilinear", antialias=True)``.

    Args:
        crop: share of each side to keep, 0 < crop ≤ 1; None keeps all.
        resize: h = w, or (h, w); None keeps the size.

    Raises:
        ValueError: for a share or a size that can't be.
    """

    def __init__(self, crop: float | None = None, resize: int | tuple[int, int] | None = None) -> None:
        super().__init__()
        if crop is not None and not 0 < crop <= 1:
            raise ValueError(f"crop: expected a share of each side, 0 < crop ≤ 1, got {crop}")
        size = (resize, resize) if isinstance(resize, int) else resize
        if size is not None and (len(size) != 2 or min(size) < 1):
            raise ValueError(f"resize: expected a size of at least 1, or (h, w), got {resize}")
        self.crop = crop
        self.resize = size

    def forward(self, x: Tensor) -> Tensor:
        checks.images("x", x)
        if self.crop is not None:
            top, left = (_margin(n, self.crop) for n in x.shape[2:])
            x = x[:, :, top : x.shape[2] - top, left : x.shape[3] - left]
        if self.resize is None or tuple(x.shape[2:]) == self.resize:
            return x
        # On a CPU, PyTorch has no antialiasing in narrow types.
        wide = x.to(torch.promote_types(x.dtype, torch.float32))
        return F.interpolate(wide, self.resize, mode="bilinear", antialias=True).to(x.dtype)

    def extra_repr(self) -> str:
        return f"crop={self.crop}, resize={self.resize}"


def _margin(size: int, share: float) -> int:
    """Pixels to cut off at either end of a side, so that at least ``share`` of it stays."""
    return (size - math.ceil(size * share - 1e-9)) // 2
