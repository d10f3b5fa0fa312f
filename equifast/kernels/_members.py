"""Members of an orbit for kernels that convolve them: each is an exact view of x, or of an image interpolated once.

A pixel of a member is read kH·kW/stride² times, so members that interpolate are not interpolated as they are read:
their distinct base rotations are first applied to x, and rounded, as `reference.sample` does. Nothing of orbit size is
made: the bases come a few at a time.
"""

from __future__ import annotations

from functools import lru_cache
from typing import NamedTuple

import torch
from torch import Tensor

from ..geometry import Matrix
from ._tables import actions, bases

#: From so many channels on, kernels read an image channel by channel if it lies so.
MANY_CHANNELS = 16


class Members(NamedTuple):
    """Elements to treat in one launch, and the base rotations that they need.

    ``table`` is (count, 3) int32 on the device: element, exact code, and source: 0 for x, k for base image k − 1.
    """

    bases: tuple[Matrix, ...]
    count: int
    table: Tensor


@lru_cache(maxsize=256)
def groups_of_members(table: tuple[float, ...], square: bool, device: torch.device) -> tuple[Members, ...]:
    """Every element in one of few groups, of max(1, E // 4) interpolated bases each; what reads x is in the first."""
    elements = list(enumerate(actions(table, square)))
    listed = bases(table, square)
    step = max(1, len(elements) // 4)
    groups = []
    for start in range(0, max(len(listed), 1), step):
        mine = listed[start : start + step]
        sources = {base: k for k, base in enumerate(mine, 1)}
        rows = [
            (e, action.code, 0 if action.exact else sources[action.base])
            for e, action in elements
            if action.base in sources or (action.exact and start == 0)
        ]
        groups.append(Members(mine, len(rows), torch.tensor(rows, dtype=torch.int32, device=device).reshape(-1, 3)))
    return tuple(groups)


def by_channels(x: Tensor) -> bool:
    """Whether kernels read the pixels of x one by one, all channels of each."""
    return x.stride(1) == 1 and x.shape[1] >= MANY_CHANNELS


def base_images(x: Tensor, bases: tuple[Matrix, ...], padding_mode: str) -> Tensor | None:
    """x interpolated by each base: (K·B, C, H, W), row k·B + b, read in the same order as x; None if K is 0."""
    if not bases:
        return None
    rows = [value for base in bases for value in (0.0, *base)]
    from .orbit import orbit

    images = orbit(x, None, rows, [], [], padding_mode, False)
    return images.contiguous(memory_format=torch.channels_last) if by_channels(x) else images
