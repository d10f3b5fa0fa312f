"""Reading a transformed image: what every kernel that moves pixels is made of. As `csrc/geometry.h`, bit for bit.

A tile is (I, J, C): rows and columns of pixels, and channels. Positions are whole numbers of steps of 2⁻²⁴ pixel.
Rows of a table are `_tables.device_rows`: ``(code, 1, 0, 0, 1)`` of an exact element, ``(−1, xx, xy, yx, yy)`` of one
that interpolates.
"""

from __future__ import annotations

import triton
import triton.language as tl

ROW = tl.constexpr(5)
BITS = tl.constexpr(24)
ONE = tl.constexpr(1 << 24)
STEP = tl.constexpr(2.0**-24)

#: Adding and subtracting it rounds a float64 below 2^51 to the nearest integer, ties to even.
ROUND = tl.constexpr(1.5 * 2.0**52)


@triton.jit
def signs(code):
    """(xx, xy, yx, yy) of a code q + 4r, q quarter turns after r flips: the source of (dx, dy) about the centre is
    (xx·dx + xy·dy, yx·dx + yy·dy); see geometry.h, quarter_turn."""
    quarter = code & 3
    cosine = (quarter == 0).to(tl.int32) - (quarter == 2).to(tl.int32)
    sine = (quarter == 1).to(tl.int32) - (quarter == 3).to(tl.int32)
    flip = 1 - 2 * (code >> 2)
    return flip * cosine, sine, -flip * sine, cosine


@triton.jit
def exact_view(code, H, W, sh, sw):
    """A permuted image is a strided view: its pixel (i, j) lies at ``origin + i·down + j·right``.

    code: of an exact element; sh, sw: strides of the image. Returns (origin, down, right).
    """
    xx, xy, yx, yy = signs(code)
    last_column = (xx + xy < 0).to(tl.int32) * (W - 1)
    last_row = (yx + yy < 0).to(tl.int32) * (H - 1)
    return last_row * sh + last_column * sw, xy * sw + yy * sh, xx * sw + yx * sh


@triton.jit
def inverse_code(code):
    """Of the inverse permutation: a flip after a turn is its own inverse."""
    return tl.where(code >= 4, code, -code & 3)


@triton.jit
def offset(coefficient, index, size):
    """``coefficient · (index − (size − 1)/2)`` in steps, rounded to even as the reference does; int64."""
    distance = (2 * index - (size - 1)).to(tl.float64) * 0.5
    return (coefficient * distance * ONE + ROUND - ROUND).to(tl.int64)


@triton.jit
def middle(size):
    """The centre of an axis, in steps from pixel 0; int64."""
    return tl.cast(size - 1, tl.int64) << (BITS - 1)


@triton.jit
def tent(distance):
    """Bilinear weight in steps, at a distance in steps."""
    return tl.maximum(ONE - tl.abs(distance), 0)


@triton.jit
def taps(at, size, BORDER: tl.constexpr, TYPE: tl.constexpr):
    """The first of two neighbours of a position, and the weights of both, exact in float32."""
    whole = (at >> BITS).to(tl.int32)
    fraction = (at & (ONE - 1)).to(tl.int32)
    if BORDER:
        fraction = tl.where((whole >= 0) & (whole < size - 1), fraction, 0)
        whole = tl.minimum(tl.maximum(whole, 0), size - 1)
    first = tl.maximum(tl.minimum(whole, size - 2), 0)
    distance = tl.minimum(tl.maximum(whole - first, -2), 2) * ONE + fraction
    far = tl.where(size > 1, tent(distance - ONE), 0)
    return first, tent(distance).to(TYPE) * STEP, far.to(TYPE) * STEP


@triton.jit
def permuted(image, code, i, j, c, live, H, W, sh, sw):
    """Pixels of an exact member at any places: i, j (I, J), offsets c of channels (C,), live (I, J, C)."""
    origin, down, right = exact_view(code, H, W, sh, sw)
    at = (origin + i * down + j * right)[:, :, None] + c[None, None, :]
    return tl.load(image + at, mask=live, other=0)


@triton.jit
def source_tile(image, row, column, c, live_row, live_column, live_c, W, sh, sw, reverse):
    """Rows and columns of the source, or its columns from the last: alike but for what the compiler can tell of them,
    that ascending columns lie together, and rows begin where vectors of them may."""
    live = live_row[:, None, None] & live_column[None, :, None] & live_c[None, None, :]
    at = row[:, None, None] * sh + c[None, None, :]
    if reverse:
        tile = tl.load(image + at + (W - 1 - column)[None, :, None] * sw, mask=live, other=0)
    else:
        tile = tl.load(image + at + column[None, :, None] * sw, mask=live, other=0)
    return tile


@triton.jit
def permuted_tile(image, code, i, j, c, live_c, H, W, sh, sw, TURNS: tl.constexpr):
    """A tile of an exact member, i (I,), j (J,): read along the rows of the source whichever way they lie in it.

    TURNS: whether any element may turn by a quarter; then images are square.
    """
    xx, xy, yx, yy = signs(code)
    upwards, reverse = yx + yy < 0, xx + xy < 0
    live_i, live_j = i < H, j < W
    down_i, down_j = tl.where(upwards, H - 1 - i, i), tl.where(upwards, H - 1 - j, j)
    if TURNS:
        if code & 1 == 1:
            tile = tl.trans(source_tile(image, down_j, i, c, live_j, live_i, live_c, W, sh, sw, reverse), (1, 0, 2))
        else:
            tile = source_tile(image, down_i, j, c, live_i, live_j, live_c, W, sh, sw, reverse)
    else:
        tile = source_tile(image, down_i, j, c, live_i, live_j, live_c, W, sh, sw, reverse)
    return tile


@triton.jit
def interpolated(image, row, i, j, c, live_c, H, W, sh, sw, BORDER: tl.constexpr, TYPE: tl.constexpr):
    """Bilinear pixels of a member in the accumulate type: i (I, 1), j (1, J), offsets c of channels (C,).

    Neighbours are clamped: pixels of the tile beyond the image read safely, and are dropped by whoever stores.
    """
    x = offset(tl.load(row + 1), j, W) + offset(tl.load(row + 2), i, H) + middle(W)
    y = offset(tl.load(row + 3), j, W) + offset(tl.load(row + 4), i, H) + middle(H)
    x0, ax, bx = taps(x, W, BORDER, TYPE)
    y0, ay, by = taps(y, H, BORDER, TYPE)
    right = tl.where(W > 1, sw, 0)
    below = tl.where(H > 1, sh, 0)
    at = image + (y0.to(i.dtype) * sh + x0 * sw)[:, :, None] + c[None, None, :]
    live = live_c[None, None, :]
    v00 = tl.load(at, mask=live, other=0).to(TYPE)
    v01 = tl.load(at + right, mask=live, other=0).to(TYPE)
    v10 = tl.load(at + below, mask=live, other=0).to(TYPE)
    v11 = tl.load(at + right + below, mask=live, other=0).to(TYPE)
    # Opposite corners first: a quarter turn or a flip swaps the two sums, and addition commutes exactly.
    straight = v00 * (ay * ax)[:, :, None] + v11 * (by * bx)[:, :, None]
    return straight + (v01 * (ay * bx)[:, :, None] + v10 * (by * ax)[:, :, None])
