"""The part of an image that stays within it at every rotation."""

from __future__ import annotations

import torch
from torch import Tensor

from .dtypes import accumulate_dtype

#: Width of the mask's smooth edge, as a share of the radius. A hard edge is blurred by interpolation alone, so that
#: filters would tell interpolated members by it.
EDGE = 0.25


def within_disc(x: Tensor) -> Tensor:
    """x times a mask that is 1 within the inscribed disc, 0 on its rim and beyond, and smooth between: like x.

    The mask is the same to the last bit after every exact turn or flip.
    """
    dtype = accumulate_dtype(x.dtype)
    dy, dx = (torch.arange(n, dtype=dtype, device=x.device) - (n - 1) / 2 for n in x.shape[2:])
    radius = (min(x.shape[2:]) - 1) / 2
    inside = ((radius - (dy[:, None] ** 2 + dx**2).sqrt()) / max(EDGE * radius, 1)).clamp(0, 1)
    return x * (inside * inside * (3 - 2 * inside)).to(x.dtype)
