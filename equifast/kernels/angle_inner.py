"""`angle_inner`: what the loss changes by the angle and the reflection flag of each image, in one pass over x, its
canonical images and the gradient there.

A block sums every parts-th tile of one image; torch adds up the parts, in a fixed order.
"""

from __future__ import annotations

from functools import lru_cache

import torch
import triton
import triton.language as tl
from torch import Tensor

from ..dtypes import accumulate_dtype
from . import _tables
from ._launch import Config, Kernel, Problem, accumulator, ceil_div, power_of_two
from ._sample import BITS, ONE, STEP, middle, offset, source_tile
from ._transform import spans_wide, tile_count, tile_pixels
from .orbit_inner import FEW, PART


@triton.jit
def along(first, size, BORDER: tl.constexpr):
    """A pixel of an axis and the next, both within it, and whether they were."""
    second = first + 1
    near, far = tl.minimum(tl.maximum(first, 0), size - 1), tl.minimum(tl.maximum(second, 0), size - 1)
    if BORDER:
        return near, far, first == first, first == first
    else:
        return near, far, (first >= 0) & (first < size), (second >= 0) & (second < size)


@triton.jit
def slope(
    image, column, row, right, below, u, v, c, live, H, W, sh, sw, BORDER: tl.constexpr, TYPE: tl.constexpr
):  # fmt: skip
    """``d/dθ`` of what is interpolated in the cell of pixels from (row, column), at fractions (below, right) of it.

    All (I, J), but offsets c of channels (C,), live and the result (I, J, C).
    """
    x0, x1, left, further = along(column, W, BORDER)
    y0, y1, above, lower = along(row, H, BORDER)
    at = image + c[None, None, :]
    x0, x1, y0, y1 = x0 * sw, x1 * sw, y0 * sh, y1 * sh
    v00 = tl.load(at + (y0 + x0)[:, :, None], mask=live & (above & left)[:, :, None], other=0).to(TYPE)
    v01 = tl.load(at + (y0 + x1)[:, :, None], mask=live & (above & further)[:, :, None], other=0).to(TYPE)
    v10 = tl.load(at + (y1 + x0)[:, :, None], mask=live & (lower & left)[:, :, None], other=0).to(TYPE)
    v11 = tl.load(at + (y1 + x1)[:, :, None], mask=live & (lower & further)[:, :, None], other=0).to(TYPE)
    along_x = v01 - v00
    along_y = v10 - v00
    twist = v11 - v10 - along_x
    along_x += below[:, :, None] * twist
    along_y += right[:, :, None] * twist
    return along_x * v[:, :, None] - along_y * u[:, :, None]


@triton.jit
def _angle_inner_kernel(
    partial, x, image, grad, element, matrices,
    parts, turns, B, C, H, W, xb, xc, xh, xw, ib, ic, ih, iw, gb, gc, gh, gw, eb,
    BORDER: tl.constexpr, TYPE: tl.constexpr, WIDE: tl.constexpr,
    BLOCK_I: tl.constexpr, BLOCK_J: tl.constexpr, BLOCK_C: tl.constexpr,
):  # fmt: skip
    part, b = tl.program_id(0) % parts, (tl.program_id(0) // parts).to(tl.int64)
    x += b * xb
    image += b * ib
    grad += b * gb
    e = tl.load(element + b * eb).to(tl.int32)
    reflected = e >= turns
    turn = tl.where(reflected, e - turns, e)
    # As in `act`: ids beyond the table must not read what is not ours.
    row = matrices + 4 * tl.where((turn >= 0) & (turn < turns), turn, 0)
    xx, xy, yx, yy = tl.load(row), tl.load(row + 1), tl.load(row + 2), tl.load(row + 3)
    # The sums take pixels in any order: where turned rows are steep, a row of the tile is a column of the gradient, so
    # that it lies along rows of x.
    steep = tl.abs(xx) < tl.abs(xy)
    height, width = tl.where(steep, W, H), tl.where(steep, H, W)
    x_down, x_right = tl.where(steep, xx, xy), tl.where(steep, xy, xx)
    y_down, y_right = tl.where(steep, yx, yy), tl.where(steep, yy, yx)
    by_angle = tl.zeros([BLOCK_I, BLOCK_J, BLOCK_C], TYPE)
    by_flag = tl.zeros([BLOCK_I, BLOCK_J, BLOCK_C], TYPE)
    for tile in range(part, tile_count(height, width, BLOCK_I, BLOCK_J, False), parts):
        tile_i, tile_j, i, j, live = tile_pixels(tile, height, width, BLOCK_I, BLOCK_J, False, WIDE)
        live_i, live_j = tile_i < height, tile_j < width
        # R(−θ)x reads x at (u, v) about the centre; so du/dθ = v and dv/dθ = −u.
        u = offset(x_right, j, width) + offset(x_down, i, height)
        v = offset(y_right, j, width) + offset(y_down, i, height)
        column, right = split(u + middle(W), TYPE)
        down, below = split(v + middle(H), TYPE)
        u, v = u.to(TYPE) * STEP, v.to(TYPE) * STEP
        # Where a sample falls on a pixel, the cell to the left and above counts as much as the one from there.
        on_column, on_row = right == 0, below == 0
        both = (on_column | on_row)[:, :, None]
        for first in range(0, C, BLOCK_C):
            c = (first + tl.arange(0, BLOCK_C)).to(i.dtype)
            live_c = c < C
            g, change = pair(
                grad, image, tile_i, tile_j, c, live_i, live_j, live_c, W, gc, gh, gw, ic, ih, iw,
                reflected, steep, TYPE,
            )  # fmt: skip
            everything = live[:, :, None] & live_c[None, None, :]
            lower = slope(
                x, column.to(i.dtype), down.to(i.dtype), right, below, u, v, c * xc, everything, H, W, xh, xw,
                BORDER, TYPE,
            )  # fmt: skip
            upper = slope(
                x, (column - on_column).to(i.dtype), (down - on_row).to(i.dtype),
                tl.where(on_column, 1.0, right), tl.where(on_row, 1.0, below), u, v, c * xc, everything & both,
                H, W, xh, xw, BORDER, TYPE,
            )  # fmt: skip
            by_angle += g * tl.where(both, 0.5 * (lower + upper), lower)
            by_flag += g * change
    place = partial + (part.to(tl.int64) * B + b) * 2
    tl.store(place, tl.sum(tl.reshape(by_angle, [BLOCK_I * BLOCK_J * BLOCK_C]), 0))
    tl.store(place + 1, tl.sum(tl.reshape(by_flag, [BLOCK_I * BLOCK_J * BLOCK_C]), 0))


@triton.jit
def split(position, TYPE: tl.constexpr):
    """The pixel at or before a position in steps, and the fraction from there."""
    return (position >> BITS).to(tl.int32), (position & (ONE - 1)).to(tl.int32).to(TYPE) * STEP


@triton.jit
def pair(
    grad, image, i, j, c, live_i, live_j, live_c, W, gc, gh, gw, ic, ih, iw, reflected, steep, TYPE: tl.constexpr
):  # fmt: skip
    """The gradient, flipped back if reflected, and what a flip changes of the image: (I, J, C) of a tile whose rows are
    columns of theirs if steep, i (I,), j (J,), channels c (C,)."""
    if steep:
        g = tl.trans(source_tile(grad, j, i, c * gc, live_j, live_i, live_c, W, gh, gw, reflected), (1, 0, 2))
        change = tl.trans(flip_change(image, j, i, c * ic, live_j, live_i, live_c, W, ih, iw, TYPE), (1, 0, 2))
    else:
        g = source_tile(grad, i, j, c * gc, live_i, live_j, live_c, W, gh, gw, reflected)
        change = flip_change(image, i, j, c * ic, live_i, live_j, live_c, W, ih, iw, TYPE)
    return g.to(TYPE), change


@triton.jit
def flip_change(image, i, j, c, live_i, live_j, live_c, W, sh, sw, TYPE: tl.constexpr):
    live = live_i[:, None, None] & live_j[None, :, None] & live_c[None, None, :]
    at = image + i[:, None, None] * sh + c[None, None, :]
    here = tl.load(at + j[None, :, None] * sw, mask=live, other=0).to(TYPE)
    return tl.load(at + (W - 1 - j)[None, :, None] * sw, mask=live, other=0).to(TYPE) - here


KERNEL = Kernel(_angle_inner_kernel)


def angle_inner(
    x: Tensor, image: Tensor, grad: Tensor, element: Tensor, table, turns: int, padding_mode: str
) -> Tensor:
    batch, *size = x.shape
    pixels = size[1] * size[2]
    parts = ceil_div(pixels, PART if batch * pixels > FEW * PART else PART // 4)
    partial = torch.empty((parts, batch, 2), dtype=accumulate_dtype(x.dtype), device=x.device)
    if not x.numel():
        return partial.new_zeros((batch, 2))
    images = x, image, grad
    strides = (*x.stride(), *image.stride(), *grad.stride(), *element.stride())
    scalars = (parts, turns, batch, *size, *strides)
    dtypes = x.dtype, image.dtype, grad.dtype
    tensors = (partial, *images, element, _matrices(tuple(table), turns, x.device))
    KERNEL.launch((scalars, dtypes, padding_mode), tensors, lambda: _problem(images, scalars, padding_mode))
    return partial.sum(0) if parts > 1 else partial[0]


@lru_cache(maxsize=256)
def _matrices(table: tuple[float, ...], turns: int, device: torch.device) -> Tensor:
    """(turns, 4) float64: where each rotation reads, exactly those by quarter turns."""
    listed = [action.matrix for action in _tables.actions(table, True)[:turns]]
    return torch.tensor(listed, dtype=torch.float64, device=device)


def _problem(images: tuple[Tensor, ...], scalars: tuple[int, ...], padding_mode: str) -> Problem:
    x = images[0]
    parts, _, batch = scalars[:3]
    constants = {
        "BORDER": padding_mode == "border",
        "TYPE": accumulator(x.dtype),
        "WIDE": any(map(spans_wide, images)),
    }
    chosen = configs(x)
    flags = tuple(str(value) for value in constants.values())
    similar = x.dtype, *flags, chosen[0].constants["BLOCK_C"], power_of_two(max(x.shape[-2:]))
    return Problem(lambda config: batch * parts, scalars, constants, chosen, similar)


def configs(x: Tensor) -> list[Config]:
    """Tiles of one or two values a thread, all eight neighbours of each in flight; narrow ones gather from fewer rows
    at a time. Several channels at once where those lie together in memory."""
    channels, height, width = x.shape[-3:]
    block_c = min(power_of_two(channels), 32) if x.stride(-3) == 1 else 1
    shapes = [(8, 32), (32, 8), (8, 16), (16, 8), (4, 16), (8, 8), (4, 8), (4, 4)]
    side = power_of_two(max(height, width, 4))
    fitting = [(i, j) for i, j in shapes if i * j * block_c <= 256 and max(i, j) <= side] or shapes[-1:]
    registers = 168 if x.element_size() < 8 else 255
    return [Config({"BLOCK_I": i, "BLOCK_J": j, "BLOCK_C": block_c}, registers=registers) for i, j in fitting[:3]]
