"""The transpose of an interpolation, gathered: each source pixel sums the outputs that had read it, in a fixed order.

An output p reads at M·p, with M orthogonal, so the readers of s lie within √2 of Mᵀ·s on either axis: among nine
pixels. With border padding, a pixel on the edge of the image has more: all p whose positions were clamped to it. They
lie on a ray outwards, which is followed a pixel at a time; by blocks of their own, as few pixels have such rays.
"""

from __future__ import annotations

import triton
import triton.language as tl

from ._sample import BITS, ONE, STEP, middle, offset, tent


@triton.jit
def edge_count(H, W):
    """Pixels on the edge of an image."""
    return tl.minimum(H, 2) * W + tl.maximum(H - 2, 0) * tl.minimum(W, 2)


@triton.jit
def edge_pixel(q, H, W):
    """Row and column of the q-th of them: the first and the last row, then the rest of the outer columns."""
    rows = tl.minimum(H, 2) * W
    rest = q - rows
    height = tl.maximum(H - 2, 1)
    i = tl.where(q < rows, q // W * (H - 1), 1 + rest % height)
    j = tl.where(q < rows, q % W, rest // height * (W - 1))
    return i, j


@triton.jit
def outside(at, size):
    """Steps by which a position lies after the last pixel, or, negative, before the first."""
    return tl.minimum(at, 0) + tl.maximum(at - (tl.cast(size - 1, tl.int64) << BITS), 0)


@triton.jit
def distance(at, index, size, BORDER: tl.constexpr):
    """Steps from a pixel to a position, clamped as the position is; at most two pixels."""
    if BORDER:
        at = tl.minimum(tl.maximum(at, 0), tl.cast(size - 1, tl.int64) << BITS)
    steps = at - (index.to(tl.int64) << BITS)
    return tl.minimum(tl.maximum(steps, -2 * ONE), 2 * ONE).to(tl.int32)


@triton.jit
def three(coefficient, first, size):
    return (
        offset(coefficient, first, size),
        offset(coefficient, first + 1, size),
        offset(coefficient, first + 2, size),
    )


@triton.jit
def readers(image, row, i, j, toward_x, toward_y, k, c, live, H, W, sh, sw, BORDER: tl.constexpr, TYPE: tl.constexpr):
    """Σ weight · image over the readers of (i, j) inside the image (toward 0, 0; k = 0), or over those that read k to
    k + 1 pixels beyond it in one of the four directions.

    i, j (I, J) after broadcasting; offsets c of channels (C,); live (I, J, C). Returns (I, J, C).
    """
    xx, xy = tl.load(row + 1), tl.load(row + 2)
    yx, yy = tl.load(row + 3), tl.load(row + 4)
    u = j.to(tl.float32) - (W - 1) * 0.5 + toward_x * (k + 0.5)
    v = i.to(tl.float32) - (H - 1) * 0.5 + toward_y * (k + 0.5)
    centre_j = xx.to(tl.float32) * u + yx.to(tl.float32) * v + (W - 1) * 0.5
    centre_i = xy.to(tl.float32) * u + yy.to(tl.float32) * v + (H - 1) * 0.5
    first_j = tl.floor(centre_j - 1.5).to(i.dtype) + 1
    first_i = tl.floor(centre_i - 1.5).to(i.dtype) + 1
    x_of_column, y_of_column = three(xx, first_j, W), three(yx, first_j, W)
    ray = toward_x * toward_x + toward_y * toward_y
    total = tl.zeros(live.shape, TYPE)
    for a in range(3):
        p = first_i + a
        x_of_row = offset(xy, p, H) + middle(W)
        y_of_row = offset(yy, p, H) + middle(H)
        for b in tl.static_range(3):
            q = first_j + b
            x, y = x_of_column[b] + x_of_row, y_of_column[b] + y_of_row
            mine = (p >= 0) & (p < H) & (q >= 0) & (q < W)
            if BORDER:
                # Of the readers beyond, each is claimed once: by its whole pixels beyond, along x before y.
                out_x, out_y = outside(x, W), outside(y, H)
                out = out_x * toward_x + out_y * toward_y
                mine &= ((out_x == 0) | (toward_x != 0)) & ((out_y == 0) | (ray != 0))
                mine &= (out + (ONE - 1)) >> BITS == k + ray
            across = tent(distance(x, j, W, BORDER)).to(TYPE) * STEP
            weight = tent(distance(y, i, H, BORDER)).to(TYPE) * STEP * across
            weight = tl.where(mine, weight, 0)
            reads = live & (weight > 0)[:, :, None]
            value = tl.load(image + (p * sh + q * sw)[:, :, None] + c[None, None, :], mask=reads, other=0)
            total += weight[:, :, None] * value.to(TYPE)
    return total


@triton.jit
def edge_readers(image, row, i, j, c, live, H, W, sh, sw, TYPE: tl.constexpr):
    """Σ weight · image over all readers of pixels on the edge, with border padding."""
    half_w, half_h = tl.cast(W - 1, tl.float64) * 0.5, tl.cast(H - 1, tl.float64) * 0.5
    reach_x = tl.abs(tl.load(row + 1)) * half_w + tl.abs(tl.load(row + 2)) * half_h - half_w
    reach_y = tl.abs(tl.load(row + 3)) * half_w + tl.abs(tl.load(row + 4)) * half_h - half_h
    total = tl.zeros(live.shape, TYPE)
    for toward_y in range(-1, 2):
        for toward_x in range(-1, 2):
            x, y = toward_x * toward_x, toward_y * toward_y
            here = (x == 0) | (j == (toward_x + 1) // 2 * (W - 1))
            here &= (y == 0) | (i == (toward_y + 1) // 2 * (H - 1))
            here = live & here[:, :, None]
            some = tl.max(tl.reshape(here, [here.numel]).to(tl.int32), 0) * (1 - x * y)
            steps = tl.floor(x * reach_x + y * reach_y).to(tl.int32) + 1
            for k in range(0, steps * some):
                total += readers(image, row, i, j, toward_x, toward_y, k, c, here, H, W, sh, sw, True, TYPE)
    return total
