"""Members of an orbit for kernels that convolve them: each is an exact view of x, or of a base image.

A convolution reads a pixel of a member kH·kW/stride² times, so members are not interpolated as they are read. Instead
the distinct base rotations are first applied to x, and the base images are rounded, as `reference.sample` rounds them.
The base images come a few at a time, so nothing as large as the orbit is ever in memory.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache

import torch
from torch import Tensor

from ...geometry import Matrix
from .tables import actions, bases

#: From this many channels on, kernels read an image pixel by pixel, all channels of each, if it is laid out so. The
#: number is not measured: 16 channels of 16 bits are a sector of memory, 32 bytes.
MANY_CHANNELS = 16


@dataclass(frozen=True, eq=False)
class MemberBatch:
    """Members to treat in one launch, and the base rotations that they need.

    ``table`` is (count, 3) int32 on the device: element, exact code, and source. Source 0 is x, source k is base image
    k − 1.
    """

    bases: tuple[Matrix, ...]
    count: int
    table: Tensor


@lru_cache(maxsize=256)
def member_batches(table: tuple[float, ...], square: bool, device: torch.device) -> tuple[MemberBatch, ...]:
    """All members in a few batches of max(1, E // 4) base rotations each. Members that read x are in the first."""
    elements = list(enumerate(actions(table, square)))
    interpolating = bases(table, square)
    step = max(1, len(elements) // 4)
    batches = []
    for start in range(0, max(len(interpolating), 1), step):
        chosen = interpolating[start : start + step]
        sources = {base: k for k, base in enumerate(chosen, 1)}
        rows = [
            (e, action.code, 0 if action.is_exact else sources[action.base])
            for e, action in elements
            if action.base in sources or (action.is_exact and start == 0)
        ]
        on_device = torch.tensor(rows, dtype=torch.int32, device=device).reshape(-1, 3)
        batches.append(MemberBatch(chosen, len(rows), on_device))
    return tuple(batches)


def reads_by_channels(x: Tensor) -> bool:
    """Whether kernels read the pixels of x one by one, all channels of each."""
    return x.stride(1) == 1 and x.shape[1] >= MANY_CHANNELS
