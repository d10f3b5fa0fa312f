"""How sums over the pixels of an image are cut into parts, one for each block."""

from __future__ import annotations

from .sizes import ceil_div

#: Pixels of an image that a block sums.
PART = 4096

#: Below this many blocks a block sums a quarter of that, so that more blocks share the work. Not measured.
FEW_BLOCKS = 512


def image_parts(batch: int, pixels: int) -> int:
    """The number of parts of each image."""
    return ceil_div(pixels, PART if batch * pixels > FEW_BLOCKS * PART else PART // 4)
