"""Reading a resampled image: positions, weights, exact views and interpolation. As `csrc/geometry.h`, bit for bit.

Tiles are (I, J, C): rows and columns of pixels, and channels. Positions are integers that count steps of 2⁻²⁴ pixel.
A table row is one of `host.tables.device_rows`: ``(code, 1, 0, 0, 1)`` of an exact element, ``(−1, xx, xy, yx, yy)`` of
an element that interpolates.
"""

from __future__ import annotations

import triton
import triton.language as tl

from ... import geometry

#: Values in a table row.
ROW = tl.constexpr(geometry.ROW)

#: Steps in a pixel: log2 of their number, their number, and the length of one.
BITS = tl.constexpr(24)
ONE = tl.constexpr(1 << 24)
STEP = tl.constexpr(2.0**-24)

#: Adding and then subtracting this rounds a float64 below 2^51 to the nearest integer, ties to even.
ROUND = tl.constexpr(1.5 * 2.0**52)


@triton.jit
def signs(code):
    """The matrix (xx, xy, yx, yy) of a code q + 4r, which stands for q quarter turns after r flips.

    The output at (dx, dy) about the centre is the source at (xx·dx + xy·dy, yx·dx + yy·dy). As `quarter_turn` in
    csrc/geometry.h.
    """
    quarter = code & 3
    cosine = (quarter == 0).to(tl.int32) - (quarter == 2).to(tl.int32)
    sine = (quarter == 1).to(tl.int32) - (quarter == 3).to(tl.int32)
    flip = 1 - 2 * (code >> 2)
    return flip * cosine, sine, -flip * sine, cosine


@triton.jit
def exact_view(code, H, W, sh, sw):
    """The permuted image as a strided view (origin, down, right): pixel (i, j) is at ``origin + i·down + j·right``.

    sh, sw: row and column strides of the image.
    """
    xx, xy, yx, yy = signs(code)
    last_column = (xx + xy < 0).to(tl.int32) * (W - 1)
    last_row = (yx + yy < 0).to(tl.int32) * (H - 1)
    return last_row * sh + last_column * sw, xy * sw + yy * sh, xx * sw + yx * sh


@triton.jit
def inverse_code(code):
    """The code of the inverse permutation. A flip followed by a turn is its own inverse."""
    return tl.where(code >= 4, code, -code & 3)


@triton.jit
def offset(coefficient, index, size):
    """``coefficient · (index − (size − 1)/2)`` in steps, int64, rounded to even as the reference rounds it."""
    distance = (2 * index - (size - 1)).to(tl.float64) * 0.5
    return (coefficient * distance * ONE + ROUND - ROUND).to(tl.int64)


@triton.jit
def middle(size):
    """The centre of an axis, ``(size − 1)/2``, in steps from pixel 0; int64."""
    return tl.cast(size - 1, tl.int64) << (BITS - 1)


@triton.jit
def tent(distance):
    """The bilinear weight ``max(1 − |distance|, 0)``; weight and distance in steps."""
    # Not ONE itself, which the interpreters of Triton 3.7 and 3.8 can't have on the left.
    return tl.maximum(tl.cast(ONE, tl.int32) - tl.abs(distance), 0)


@triton.jit
def taps(position, size, BORDER: tl.constexpr, TYPE: tl.constexpr):
    """The two neighbours of a position on one axis: (index of the first, its weight, weight of the second).

    The weights are exact in float32.
    """
    whole = (position >> BITS).to(tl.int32)
    fraction = (position & (ONE - 1)).to(tl.int32)
    if BORDER:
        fraction = tl.where((whole >= 0) & (whole < size - 1), fraction, 0)
        whole = tl.minimum(tl.maximum(whole, 0), size - 1)
    first = tl.maximum(tl.minimum(whole, size - 2), 0)
    distance = tl.minimum(tl.maximum(whole - first, -2), 2) * ONE + fraction
    far = tl.where(size > 1, tent(distance - ONE), 0)
    return first, tent(distance).to(TYPE) * STEP, far.to(TYPE) * STEP


@triton.jit
def permuted(image, code, i, j, c, in_bounds, H, W, sh, sw):
    """Pixels (i, j) of the permuted image, wherever they are: [I, J, C].

    i, j [I, J]; c [C], the channels' offsets in memory; in_bounds [I, J, C].
    """
    origin, down, right = exact_view(code, H, W, sh, sw)
    at = (origin + i * down + j * right)[:, :, None] + c[None, None, :]  # [I, J, C]
    return tl.load(image + at, mask=in_bounds, other=0)


@triton.jit
def source_tile(image, row, column, c, row_in_bounds, column_in_bounds, c_in_bounds, W, sh, sw, is_reversed):
    """A tile of the source itself, [I, J, C]; its columns count from the last one if ``is_reversed``.

    row [I], column [J], c [C]. Both branches read the same pixels. But in each of them the compiler knows the sign of
    the step from column to column, so it can load several neighbouring pixels at once.
    """
    in_bounds = row_in_bounds[:, None, None] & column_in_bounds[None, :, None] & c_in_bounds[None, None, :]  # [I, J, C]
    at = row[:, None, None] * sh + c[None, None, :]  # [I, 1, C]
    if is_reversed:
        tile = tl.load(image + at + (W - 1 - column)[None, :, None] * sw, mask=in_bounds, other=0)
    else:
        tile = tl.load(image + at + column[None, :, None] * sw, mask=in_bounds, other=0)
    return tile


@triton.jit
def permuted_tile(image, code, i, j, c, c_in_bounds, H, W, sh, sw, TURNS: tl.constexpr):
    """A tile of the permuted image, [I, J, C], read along the rows of the source whichever way they run in the tile.

    i [I], j [J], c [C]. TURNS: whether any element of the table may turn by a quarter; images are then square.
    """
    xx, xy, yx, yy = signs(code)
    upwards, is_reversed = yx + yy < 0, xx + xy < 0
    i_in_bounds, j_in_bounds = i < H, j < W
    down_i, down_j = tl.where(upwards, H - 1 - i, i), tl.where(upwards, H - 1 - j, j)
    if TURNS:
        if code & 1 == 1:
            tile = source_tile(image, down_j, i, c, j_in_bounds, i_in_bounds, c_in_bounds, W, sh, sw, is_reversed)
            tile = tl.trans(tile, (1, 0, 2))  # [J, I, C] → [I, J, C]
        else:
            tile = source_tile(image, down_i, j, c, i_in_bounds, j_in_bounds, c_in_bounds, W, sh, sw, is_reversed)
    else:
        tile = source_tile(image, down_i, j, c, i_in_bounds, j_in_bounds, c_in_bounds, W, sh, sw, is_reversed)
    return tile


@triton.jit
def interpolated(image, row, i, j, c, c_in_bounds, H, W, sh, sw, BORDER: tl.constexpr, TYPE: tl.constexpr):
    """Σ over four neighbours of weight · pixel, in TYPE: [I, J, C].

    row: of the table. i [I, 1], j [1, J], c [C]. Neighbours are clamped into the image, so a pixel of the tile beyond
    the image reads safely; whoever stores the tile drops it.
    """
    x = offset(tl.load(row + 1), j, W) + offset(tl.load(row + 2), i, H) + middle(W)  # [I, J]
    y = offset(tl.load(row + 3), j, W) + offset(tl.load(row + 4), i, H) + middle(H)
    x0, ax, bx = taps(x, W, BORDER, TYPE)
    y0, ay, by = taps(y, H, BORDER, TYPE)
    right = tl.where(W > 1, sw, 0)
    below = tl.where(H > 1, sh, 0)
    at = image + (y0.to(i.dtype) * sh + x0 * sw)[:, :, None] + c[None, None, :]  # [I, J, C]
    mask = c_in_bounds[None, None, :]
    v00 = tl.load(at, mask=mask, other=0).to(TYPE)
    v01 = tl.load(at + right, mask=mask, other=0).to(TYPE)
    v10 = tl.load(at + below, mask=mask, other=0).to(TYPE)
    v11 = tl.load(at + right + below, mask=mask, other=0).to(TYPE)
    # Opposite corners are added first: a quarter turn or a flip swaps the two sums, and addition commutes exactly.
    straight = v00 * (ay * ax)[:, :, None] + v11 * (by * bx)[:, :, None]
    return straight + (v01 * (ay * bx)[:, :, None] + v10 * (by * ax)[:, :, None])
