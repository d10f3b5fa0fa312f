"""`angle_inner`: what the loss changes by the angle and by the reflection flag of each image.

It is one pass over x, its canonical images and the gradient there. A block sums every parts-th tile of one image. Then
torch adds up the parts, in a fixed order.
"""

from __future__ import annotations

from functools import lru_cache

import torch
import triton
import triton.language as tl
from torch import Tensor

from ..dtypes import accumulate_dtype
from .device.resample import tile_count, tile_pixels
from .device.sample import BITS, ONE, STEP, middle, offset, source_tile
from .host import tables
from .host.launch import Config, Kernel, Problem
from .host.resample import reach
from .host.sizes import accumulator, index_type, power_of_two
from .host.sums import image_parts


@triton.jit
def two_pixels(first, size, BORDER: tl.constexpr):
    """A pixel of an axis and the next: both clamped into the axis, and whether each counts."""
    second = first + 1
    near, far = tl.minimum(tl.maximum(first, 0), size - 1), tl.minimum(tl.maximum(second, 0), size - 1)
    if BORDER:
        return near, far, first == first, first == first
    else:
        return near, far, (first >= 0) & (first < size), (second >= 0) & (second < size)


@triton.jit
def cell_slope(
    image, column, row, right, below, u, v, c, in_bounds, H, W, sh, sw, BORDER: tl.constexpr, TYPE: tl.constexpr
):  # fmt: skip
    """``d/dθ`` of the pixel interpolated in a cell of four source pixels: ``v · ∂/∂x − u · ∂/∂y``, [I, J, C].

    (row, column): the cell's first pixel; (below, right): the fractions of the position in it; (u, v): the position
    about the centre; all [I, J]. c [C], in_bounds [I, J, C].
    """
    x0, x1, left_counts, right_counts = two_pixels(column, W, BORDER)
    y0, y1, top_counts, bottom_counts = two_pixels(row, H, BORDER)
    at = image + c[None, None, :]
    x0, x1, y0, y1 = x0 * sw, x1 * sw, y0 * sh, y1 * sh
    v00 = tl.load(at + (y0 + x0)[:, :, None], mask=in_bounds & (top_counts & left_counts)[:, :, None], other=0)
    v01 = tl.load(at + (y0 + x1)[:, :, None], mask=in_bounds & (top_counts & right_counts)[:, :, None], other=0)
    v10 = tl.load(at + (y1 + x0)[:, :, None], mask=in_bounds & (bottom_counts & left_counts)[:, :, None], other=0)
    v11 = tl.load(at + (y1 + x1)[:, :, None], mask=in_bounds & (bottom_counts & right_counts)[:, :, None], other=0)
    v00, v01, v10, v11 = v00.to(TYPE), v01.to(TYPE), v10.to(TYPE), v11.to(TYPE)
    along_x = v01 - v00
    along_y = v10 - v00
    twist = v11 - v10 - along_x
    along_x += below[:, :, None] * twist
    along_y += right[:, :, None] * twist
    return along_x * v[:, :, None] - along_y * u[:, :, None]


@triton.jit
def split(position, TYPE: tl.constexpr):
    """The pixel at or before a position in steps, and the fraction of a pixel from there."""
    return (position >> BITS).to(tl.int32), (position & (ONE - 1)).to(tl.int32).to(TYPE) * STEP


@triton.jit
def gradient_and_flip(
    grad, image, i, j, c, i_in_bounds, j_in_bounds, c_in_bounds, W, gc, gh, gw, ic, ih, iw, is_reflected, is_transposed,
    TYPE: tl.constexpr,
):  # fmt: skip
    """The gradient, flipped back if ``is_reflected``, and ``F·image − image``: [I, J, C] each.

    i [I], j [J], c [C]. If ``is_transposed``, rows of the tile are columns of the images.
    """
    if is_transposed:
        g = source_tile(grad, j, i, c * gc, j_in_bounds, i_in_bounds, c_in_bounds, W, gh, gw, is_reflected)
        g = tl.trans(g, (1, 0, 2))
        change = flip_change(image, j, i, c * ic, j_in_bounds, i_in_bounds, c_in_bounds, W, ih, iw, TYPE)
        change = tl.trans(change, (1, 0, 2))
    else:
        g = source_tile(grad, i, j, c * gc, i_in_bounds, j_in_bounds, c_in_bounds, W, gh, gw, is_reflected)
        change = flip_change(image, i, j, c * ic, i_in_bounds, j_in_bounds, c_in_bounds, W, ih, iw, TYPE)
    return g.to(TYPE), change


@triton.jit
def flip_change(image, i, j, c, i_in_bounds, j_in_bounds, c_in_bounds, W, sh, sw, TYPE: tl.constexpr):
    """``F·image − image`` at a tile, where F flips the columns: [I, J, C]. i [I], j [J], c [C]."""
    mask = i_in_bounds[:, None, None] & j_in_bounds[None, :, None] & c_in_bounds[None, None, :]
    at = image + i[:, None, None] * sh + c[None, None, :]
    value = tl.load(at + j[None, :, None] * sw, mask=mask, other=0).to(TYPE)
    return tl.load(at + (W - 1 - j)[None, :, None] * sw, mask=mask, other=0).to(TYPE) - value


@triton.jit
def _angle_inner_kernel(
    partial, x, image, grad, element, matrices,
    parts, turns, B, C, H, W, xb, xc, xh, xw, ib, ic, ih, iw, gb, gc, gh, gw, eb,
    BORDER: tl.constexpr, TYPE: tl.constexpr, INDEX: tl.constexpr,
    BLOCK_I: tl.constexpr, BLOCK_J: tl.constexpr, BLOCK_C: tl.constexpr,
):  # fmt: skip
    """``partial[part, b] = (⟨grad, d/dθ R(−θ)x⟩, ⟨grad, F·image − image⟩)`` over the tiles of one part of image b.

    1. Find the rotation of the image's element, and whether it is reflected.
    2. Choose whether the tile is transposed.
    3. For each tile, work out where its pixels read x.
    4. For each block of channels, add up both products.
    5. Sum over the block, and store.
    """
    # 1. The rotation.
    part, b = tl.program_id(0) % parts, (tl.program_id(0) // parts).to(tl.int64)
    x += b * xb
    image += b * ib
    grad += b * gb
    e = tl.load(element + b * eb).to(tl.int32)
    is_reflected = e >= turns
    turn = tl.where(is_reflected, e - turns, e)
    # As in `act`: an id outside the table must not make the kernel read foreign memory.
    row = matrices + 4 * tl.where((turn >= 0) & (turn < turns), turn, 0)
    xx, xy, yx, yy = tl.load(row), tl.load(row + 1), tl.load(row + 2), tl.load(row + 3)

    # 2. The sums may take pixels in any order. Where turned rows are steep, a row of the tile is a column of the
    # gradient, so that the tile runs along rows of x.
    is_transposed = tl.abs(xx) < tl.abs(xy)
    height, width = tl.where(is_transposed, W, H), tl.where(is_transposed, H, W)
    x_down, x_right = tl.where(is_transposed, xx, xy), tl.where(is_transposed, xy, xx)
    y_down, y_right = tl.where(is_transposed, yx, yy), tl.where(is_transposed, yy, yx)
    by_angle = tl.zeros([BLOCK_I, BLOCK_J, BLOCK_C], TYPE)
    by_flag = tl.zeros([BLOCK_I, BLOCK_J, BLOCK_C], TYPE)
    for tile in range(part, tile_count(height, width, BLOCK_I, BLOCK_J, False), parts):
        # 3. R(−θ)x reads x at (u, v) about the centre; so du/dθ = v and dv/dθ = −u. All [BLOCK_I, BLOCK_J].
        tile_i, tile_j, i, j, in_bounds = tile_pixels(tile, height, width, BLOCK_I, BLOCK_J, False, INDEX)
        i_in_bounds, j_in_bounds = tile_i < height, tile_j < width
        u = offset(x_right, j, width) + offset(x_down, i, height)
        v = offset(y_right, j, width) + offset(y_down, i, height)
        column, right = split(u + middle(W), TYPE)
        down, below = split(v + middle(H), TYPE)
        u, v = u.to(TYPE) * STEP, v.to(TYPE) * STEP
        # Where a sample falls on a pixel, the cells on either side of it count alike.
        on_column, on_row = right == 0, below == 0
        on_pixel = (on_column | on_row)[:, :, None]
        for first in range(0, C, BLOCK_C):
            # 4. All [BLOCK_I, BLOCK_J, BLOCK_C].
            c = (first + tl.arange(0, BLOCK_C)).to(i.dtype)
            c_in_bounds = c < C
            g, change = gradient_and_flip(
                grad, image, tile_i, tile_j, c, i_in_bounds, j_in_bounds, c_in_bounds, W, gc, gh, gw, ic, ih, iw,
                is_reflected, is_transposed, TYPE,
            )  # fmt: skip
            all_in_bounds = in_bounds[:, :, None] & c_in_bounds[None, None, :]
            after = cell_slope(
                x, column.to(i.dtype), down.to(i.dtype), right, below, u, v, c * xc, all_in_bounds, H, W, xh, xw,
                BORDER, TYPE,
            )  # fmt: skip
            before = cell_slope(
                x, (column - on_column).to(i.dtype), (down - on_row).to(i.dtype),
                tl.where(on_column, 1.0, right), tl.where(on_row, 1.0, below), u, v, c * xc, all_in_bounds & on_pixel,
                H, W, xh, xw, BORDER, TYPE,
            )  # fmt: skip
            by_angle += g * tl.where(on_pixel, 0.5 * (after + before), after)
            by_flag += g * change

    # 5. The sums.
    target = partial + (part.to(tl.int64) * B + b) * 2
    tl.store(target, tl.sum(tl.reshape(by_angle, [BLOCK_I * BLOCK_J * BLOCK_C]), 0))
    tl.store(target + 1, tl.sum(tl.reshape(by_flag, [BLOCK_I * BLOCK_J * BLOCK_C]), 0))


KERNEL = Kernel(_angle_inner_kernel)


def angle_inner(
    x: Tensor, image: Tensor, grad: Tensor, element: Tensor, table, turns: int, padding_mode: str
) -> Tensor:
    batch, *size = x.shape
    parts = image_parts(batch, size[1] * size[2])
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
    """(turns, 4) float64: the matrix of each rotation. Those of quarter turns are exact."""
    listed = [action.matrix for action in tables.actions(table, True)[:turns]]
    return torch.tensor(listed, dtype=torch.float64, device=device)


def _problem(images: tuple[Tensor, ...], scalars: tuple[int, ...], padding_mode: str) -> Problem:
    x = images[0]
    parts, _, batch = scalars[:3]
    constants = {
        "BORDER": padding_mode == "border",
        "TYPE": accumulator(x.dtype),
        "INDEX": index_type(max(map(reach, images))),
    }
    chosen = configs(x)
    flags = tuple(str(value) for value in constants.values())
    tuning_key = x.dtype, *flags, chosen[0].constants["BLOCK_C"], power_of_two(max(x.shape[-2:]))
    return Problem(lambda config: batch * parts, scalars, constants, chosen, tuning_key)


#: Rows and columns of tiles, the largest first. Narrow ones gather from fewer rows of x at a time.
SHAPES = [(8, 32), (32, 8), (8, 16), (16, 8), (4, 16), (8, 8), (4, 8), (4, 4)]


def configs(x: Tensor) -> list[Config]:
    """Tiles of one or two values a thread, since all eight neighbours of each value are in flight.

    A tile has several channels where those lie together in memory.
    """
    channels, height, width = x.shape[-3:]
    block_c = min(power_of_two(channels), 32) if x.stride(-3) == 1 else 1
    side = power_of_two(max(height, width, 4))
    fitting = [(i, j) for i, j in SHAPES if i * j * block_c <= 256 and max(i, j) <= side] or SHAPES[-1:]
    registers = 168 if x.element_size() < 8 else 255
    return [Config({"BLOCK_I": i, "BLOCK_J": j, "BLOCK_C": block_c}, registers=registers) for i, j in fitting[:3]]
