"""The transpose of an interpolation, gathered: each source pixel sums the outputs that had read it, in a fixed order.

An output p reads at M·p. If M is orthogonal, as for a group, the readers of a source pixel s lie within √2 of Mᵀ·s on
either axis: they are among nine pixels. With border padding, a pixel on the edge of the image has more readers: all p
whose positions were clamped to it. They lie on a ray that leaves the image, and the code follows the ray a pixel at a
time. Few pixels have such rays, so the pixels on the edge have tiles of their own.

For any other M, the positions that read a pixel fill a rectangle, so their outputs fill a parallelogram. The code goes
through its rows (`any_readers`). Beyond an edge that a pixel is on, the rectangle has no end.
"""

from __future__ import annotations

import triton
import triton.language as tl

from .sample import BITS, ONE, STEP, middle, offset, tent

#: A coefficient that moves no position of an image by as much as the slack of rough bounds.
TINY = tl.constexpr(2.0**-15)


@triton.jit
def edge_count(H, W):
    """The number of pixels on the edge of an image."""
    return tl.minimum(H, 2) * W + tl.maximum(H - 2, 0) * tl.minimum(W, 2)


@triton.jit
def edge_pixel(q, H, W):
    """Row and column of the q-th pixel on the edge: the first and the last row, then the rest of the outer columns."""
    rows = tl.minimum(H, 2) * W
    rest = q - rows
    height = tl.maximum(H - 2, 1)
    i = tl.where(q < rows, q // W * (H - 1), 1 + rest % height)
    j = tl.where(q < rows, q % W, rest // height * (W - 1))
    return i, j


@triton.jit
def outside(position, size):
    """Steps from the last pixel to a position after it; negative, from the first pixel to a position before it."""
    return tl.minimum(position, 0) + tl.maximum(position - (tl.cast(size - 1, tl.int64) << BITS), 0)


@triton.jit
def distance(position, index, size, BORDER: tl.constexpr):
    """Steps from a pixel to a position, at most two pixels. With BORDER, the position is clamped into the image."""
    if BORDER:
        position = tl.minimum(tl.maximum(position, 0), tl.cast(size - 1, tl.int64) << BITS)
    steps = position - (index.to(tl.int64) << BITS)
    return tl.minimum(tl.maximum(steps, -2 * ONE), 2 * ONE).to(tl.int32)


@triton.jit
def three_offsets(coefficient, first, size):
    """`offset` of three pixels in a row."""
    return (
        offset(coefficient, first, size),
        offset(coefficient, first + 1, size),
        offset(coefficient, first + 2, size),
    )


@triton.jit
def readers(
    image, row, i, j, toward_x, toward_y, k, c, in_bounds, H, W, sh, sw, BORDER: tl.constexpr, TYPE: tl.constexpr
):  # fmt: skip
    """Σ weight · image over some of the readers of the source pixels (i, j): [I, J, C].

    toward_x, toward_y: 0, 0 and k = 0 for readers whose positions are inside the image; else one of four directions,
    for readers whose positions are k to k + 1 pixels beyond it.

    row: of the table. i, j: [I, J] after broadcasting; c [C]; in_bounds [I, J, C].
    """
    xx, xy = tl.load(row + 1), tl.load(row + 2)
    yx, yy = tl.load(row + 3), tl.load(row + 4)
    # The centre of the nine outputs: Mᵀ times the source position.
    u = j.to(tl.float32) - (W - 1) * 0.5 + toward_x * (k + 0.5)
    v = i.to(tl.float32) - (H - 1) * 0.5 + toward_y * (k + 0.5)
    centre_j = xx.to(tl.float32) * u + yx.to(tl.float32) * v + (W - 1) * 0.5
    centre_i = xy.to(tl.float32) * u + yy.to(tl.float32) * v + (H - 1) * 0.5
    first_j = tl.floor(centre_j - 1.5).to(i.dtype) + 1
    first_i = tl.floor(centre_i - 1.5).to(i.dtype) + 1
    x_of_column, y_of_column = three_offsets(xx, first_j, W), three_offsets(yx, first_j, W)
    ray = toward_x * toward_x + toward_y * toward_y
    total = tl.zeros(in_bounds.shape, TYPE)
    for a in range(3):
        p = first_i + a
        x_of_row = offset(xy, p, H) + middle(W)
        y_of_row = offset(yy, p, H) + middle(H)
        for b in tl.static_range(3):
            q = first_j + b
            x, y = x_of_column[b] + x_of_row, y_of_column[b] + y_of_row
            counts = (p >= 0) & (p < H) & (q >= 0) & (q < W)  # [I, J]
            if BORDER:
                # A reader beyond the image is claimed once: by its whole pixels beyond, along x before y.
                out_x, out_y = outside(x, W), outside(y, H)
                beyond = out_x * toward_x + out_y * toward_y
                counts &= ((out_x == 0) | (toward_x != 0)) & ((out_y == 0) | (ray != 0))
                counts &= (beyond + (ONE - 1)) >> BITS == k + ray
            across = tent(distance(x, j, W, BORDER)).to(TYPE) * STEP
            weight = tent(distance(y, i, H, BORDER)).to(TYPE) * STEP * across
            weight = tl.where(counts, weight, 0)
            mask = in_bounds & (weight > 0)[:, :, None]
            value = tl.load(image + (p * sh + q * sw)[:, :, None] + c[None, None, :], mask=mask, other=0)
            total += weight[:, :, None] * value.to(TYPE)
    return total


@triton.jit
def columns_between(low, high, of_column, of_row):
    """The least and the greatest u with ``low ≤ of_column·u + of_row ≤ high``, about the centre of the image.

    A coefficient of about 0 is taken for a small one. Then either all u of the image fulfil this, or none.
    """
    of_column = tl.where(tl.abs(of_column) < TINY, TINY, of_column)
    first, last = (low - of_row) / of_column, (high - of_row) / of_column
    return tl.minimum(first, last), tl.maximum(first, last)


@triton.jit
def any_readers(
    image, row, i, j, c, in_bounds, H, W, sh, sw, BORDER: tl.constexpr, IS_EDGE: tl.constexpr, TYPE: tl.constexpr
):  # fmt: skip
    """Σ weight · image over all readers of the source pixels (i, j), for any matrix: [I, J, C].

    IS_EDGE: whether the pixels are on the edge, with border padding. Bounds are rough, in float32, and on the safe
    side; the weights are exact, and 0 for outputs that are no readers.

    row: of the table. i, j: [I, J] after broadcasting; c [C]; in_bounds [I, J, C].
    """
    xx, xy = tl.load(row + 1), tl.load(row + 2)
    yx, yy = tl.load(row + 3), tl.load(row + 4)
    determinant = xx * yy - xy * yx
    v_of_x, v_of_y = (-yx / determinant).to(tl.float32), (xx / determinant).to(tl.float32)
    half_w, half_h = (W - 1) * 0.5, (H - 1) * 0.5
    # More than the roundings of positions as large as the image amount to, and than all positions.
    slack, far = 0.0625 + (H + W) * TINY, 16.0 * (H + W)
    # The rectangle of positions, about the centre of the image: [I, J].
    x, y = j.to(tl.float32) - half_w + 0.0 * i.to(tl.float32), i.to(tl.float32) - half_h + 0.0 * j.to(tl.float32)
    left, right, top, bottom = x - 1 - slack, x + 1 + slack, y - 1 - slack, y + 1 + slack
    if IS_EDGE:
        left, right = tl.where(j == 0, -far, left), tl.where(j == W - 1, far, right)
        top, bottom = tl.where(i == 0, -far, top), tl.where(i == H - 1, far, bottom)
    here = tl.max(in_bounds.to(tl.int32), 2) > 0  # [I, J]
    # The rows of the parallelogram: v_of_x · x + v_of_y · y at its corners.
    least = tl.minimum(v_of_x * left, v_of_x * right) + tl.minimum(v_of_y * top, v_of_y * bottom)
    greatest = tl.maximum(v_of_x * left, v_of_x * right) + tl.maximum(v_of_y * top, v_of_y * bottom)
    first_row = tl.maximum(tl.floor(least + half_h - slack), 0.0).to(tl.int32)
    last_row = tl.minimum(tl.ceil(greatest + half_h + slack), H - 1.0).to(tl.int32)
    row_count = tl.where(here, last_row - first_row + 1, 0)
    rows = tl.max(tl.max(row_count, 1), 0)
    total = tl.zeros(in_bounds.shape, TYPE)
    for a in range(0, rows):
        p = (first_row + a).to(i.dtype)
        v = p.to(tl.float32) - half_h
        u_by_x, last_by_x = columns_between(left, right, xx.to(tl.float32), xy.to(tl.float32) * v)
        u_by_y, last_by_y = columns_between(top, bottom, yx.to(tl.float32), yy.to(tl.float32) * v)
        u = tl.maximum(tl.maximum(u_by_x, u_by_y), -half_w - 1)
        last_u = tl.minimum(tl.minimum(last_by_x, last_by_y), half_w + 1)
        first_column = tl.maximum(tl.floor(u + half_w), 0.0).to(tl.int32)
        last_column = tl.minimum(tl.ceil(last_u + half_w), W - 1.0).to(tl.int32)
        column_count = tl.where(a < row_count, last_column - first_column + 1, 0)
        x_of_row, y_of_row = offset(xy, p, H) + middle(W), offset(yy, p, H) + middle(H)
        for b in range(0, tl.max(tl.max(column_count, 1), 0)):
            q = (first_column + b).to(i.dtype)
            counts = b < column_count  # [I, J]
            across = tent(distance(offset(xx, q, W) + x_of_row, j, W, BORDER)).to(TYPE) * STEP
            weight = tent(distance(offset(yx, q, W) + y_of_row, i, H, BORDER)).to(TYPE) * STEP * across
            weight = tl.where(counts, weight, 0)
            mask = in_bounds & (weight > 0)[:, :, None]
            value = tl.load(image + (p * sh + q * sw)[:, :, None] + c[None, None, :], mask=mask, other=0)
            total += weight[:, :, None] * value.to(TYPE)
    return total


@triton.jit
def edge_readers(image, row, i, j, c, in_bounds, H, W, sh, sw, TYPE: tl.constexpr):
    """Σ weight · image over all readers of the pixels (i, j) on the edge, with border padding: [I, J, C]."""
    half_w, half_h = tl.cast(W - 1, tl.float64) * 0.5, tl.cast(H - 1, tl.float64) * 0.5
    reach_x = tl.abs(tl.load(row + 1)) * half_w + tl.abs(tl.load(row + 2)) * half_h - half_w
    reach_y = tl.abs(tl.load(row + 3)) * half_w + tl.abs(tl.load(row + 4)) * half_h - half_h
    total = tl.zeros(in_bounds.shape, TYPE)
    for toward_y in range(-1, 2):
        for toward_x in range(-1, 2):
            x, y = toward_x * toward_x, toward_y * toward_y
            # The pixels on this side of the image have a ray in this direction.
            here = (x == 0) | (j == (toward_x + 1) // 2 * (W - 1))
            here &= (y == 0) | (i == (toward_y + 1) // 2 * (H - 1))
            here = in_bounds & here[:, :, None]
            some = tl.max(tl.reshape(here, [here.numel]).to(tl.int32), 0) * (1 - x * y)
            steps = tl.floor(x * reach_x + y * reach_y).to(tl.int32) + 1
            for k in range(0, steps * some):
                total += readers(image, row, i, j, toward_x, toward_y, k, c, here, H, W, sh, sw, True, TYPE)
    return total
