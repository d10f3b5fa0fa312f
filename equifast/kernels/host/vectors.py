"""What the hosts of scores and losses share: tiles of vectors, and the problem of one launch."""

from __future__ import annotations

from functools import lru_cache
from typing import NamedTuple

import torch
from torch import Tensor

from .launch import Config, Problem
from .sizes import accumulator, ceil_div, power_of_two

#: A block is small while there are not this many blocks of it. Not measured.
MANY_BLOCKS = 256


class VectorTile(NamedTuple):
    """Whole orbits of some samples, ``rows`` places in all, and ``width`` columns of their vectors at a time."""

    rows: int
    width: int
    blocks: int
    warps: int


@lru_cache(maxsize=1024)
def vector_tile(order: int, size: int, batch: int, dtype: torch.dtype) -> VectorTile:
    """The tile for E·B vectors of ``size`` values. The more blocks there are, the larger they become."""
    places = power_of_two(order)
    # Values of a block, and of a thread. With more, registers would spill.
    most, each = (1024, 2) if dtype == torch.float64 else (4096, 8)
    width = min(max(power_of_two(size), 16), max(most // places, 16), 128)
    rows = max(places, 1024 // width)
    while rows * width < most and batch * places > MANY_BLOCKS * rows:
        rows *= 2
    warps = min(max(rows * width // (32 * each), 4), 16)
    return VectorTile(rows, width, ceil_div(batch, rows // places), warps)


def vector_problem(
    vectors: Tensor,
    order: int,
    scalars: tuple,
    constants: dict[str, int],
    registers: int | None = None,
    registers_small: int | None = None,
) -> Problem:
    """One block for each tile of (E·B, d) vectors.

    ``registers`` is that of `Config` for the largest tiles, ``registers_small`` for all others.
    """
    batch, d = vectors.shape[0] // order, vectors.shape[1]
    tile = vector_tile(order, d, batch, vectors.dtype)
    shape = {
        "PLACES": power_of_two(order),
        "TYPE": accumulator(vectors.dtype),
        "ROWS": tile.rows,
        "BLOCK_D": tile.width,
    }
    config = Config({}, tile.warps, registers=registers if tile.warps == 16 else registers_small)
    return Problem(lambda _: tile.blocks, (batch, order, d, *scalars), constants | shape, [config])


def strides_of(t: Tensor | None, dims: int = 2) -> tuple[int, ...]:
    """The strides of a tensor that may be absent."""
    return (0,) * dims if t is None else t.stride()


def sum_of_blocks(partial: Tensor, like: Tensor) -> Tensor:
    """The sum over blocks, always in the same order, in the dtype of ``like``."""
    return partial.sum(0).to(like.dtype)
