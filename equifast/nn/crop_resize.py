"""A centre crop and a resize that commute with turns and flips, to show a scoring network less of large images."""

from __future__ import annotations

import math

from torch import Tensor, nn

from .. import checks
from ..ops.crop_resize import crop_resize


class CropResize(nn.Module):
    """A centre crop, then an antialiased bilinear resize: (B, C, H, W) → (B, C, h, w).

    The crop commutes exactly with every turn and flip of the image, the resize up to rounding, as a ``preprocess`` has
    to. For that the crop has the same centre as the image: its sides are even where those of the image are even, and
    odd where those are odd. Where the share gives another length, the side is made one pixel longer.

    Equivalent to: ``F.interpolate(x[:, :, top:-top, left:-left], resize, mode="bilinear", antialias=True)``, in one
    op, `equifast.crop_resize`. Without a resize the result is a view of x.

    Args:
        crop: share of each side to keep, 0 < crop ≤ 1; or "square" for the largest square; or None to keep all.
        resize: one length for both sides, or (h, w); or None to keep the size.

    Raises:
        ValueError: for a share or a size that is out of range.
    """

    def __init__(self, crop: float | str | None = None, resize: int | tuple[int, int] | None = None) -> None:
        super().__init__()
        if crop not in (None, "square") and (isinstance(crop, str) or not 0 < crop <= 1):
            raise ValueError(f"crop: expected 'square' or a share of each side, 0 < crop ≤ 1, got {crop!r}")
        size = (resize, resize) if isinstance(resize, int) else resize
        if size is not None and (len(size) != 2 or min(size) < 1):
            raise ValueError(f"resize: expected a size of at least 1, or (h, w), got {resize}")
        self.crop = crop
        self.resize = size

    def forward(self, x: Tensor) -> Tensor:
        checks.images("x", x)
        top, left, height, width = crop = self._rectangle(*x.shape[2:])
        if self.resize is None or (height, width) == self.resize:
            return x[:, :, top : top + height, left : left + width]
        return crop_resize(x, self.resize, crop=crop)

    def _rectangle(self, height: int, width: int) -> tuple[int, int, int, int]:
        """(top, left, height, width) of the crop of an image of this height and width."""
        if self.crop is None:
            return 0, 0, height, width
        kept = (min(height, width),) * 2 if isinstance(self.crop, str) else (height * self.crop, width * self.crop)
        top, left = _margin(height, kept[0]), _margin(width, kept[1])
        return top, left, height - 2 * top, width - 2 * left

    def extra_repr(self) -> str:
        return f"crop={self.crop}, resize={self.resize}"


def _margin(size: int, kept: float) -> int:
    """How many pixels to cut off at each end of a side, so that at least ``kept`` of them stay."""
    return (size - math.ceil(kept - 1e-6)) // 2
