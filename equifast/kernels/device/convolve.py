"""The convolution of one member as an implicit matrix product: device functions of the forward kernels.

A member is an exact view of an image. So the address of patch value k = (channel, row, column of the kernel) of output
pixel m is A[m] + B[k]. Rows of the product are output pixels m, its columns are output channels n. Every element sums
over k in the same order, whichever way its member is read, so a turned image gives the same bits.
"""

from __future__ import annotations

import triton
import triton.language as tl

from .products import dot
from .sample import exact_view

#: Values of a member in the table of a `host.members.MemberBatch`: element, exact code, source.
MEMBER_ROW = tl.constexpr(3)


@triton.jit
def output_tiles(out_h, out_w, BLOCK_I: tl.constexpr, BLOCK_J: tl.constexpr):
    """Tiles of BLOCK_I·BLOCK_J output pixels that an image needs, whichever way the tiles lie."""
    upright = tl.cdiv(out_h, BLOCK_I) * tl.cdiv(out_w, BLOCK_J)
    return tl.maximum(upright, tl.cdiv(out_w, BLOCK_I) * tl.cdiv(out_h, BLOCK_J))


@triton.jit
def output_pixels(
    tile, is_transposed, B, out_h, out_w, BLOCK_B: tl.constexpr, BLOCK_I: tl.constexpr, BLOCK_J: tl.constexpr
):  # fmt: skip
    """The output pixels of a tile: (image, row, column, in bounds), [M] each, with M = BLOCK_B·BLOCK_I·BLOCK_J.

    B: the number of images that there are. The long side of the tile runs along rows of the output. If
    ``is_transposed``, since the member is turned by a quarter, it runs along columns. Either way it runs along rows of
    the source.
    """
    m = tl.arange(0, BLOCK_B * BLOCK_I * BLOCK_J)
    length, breadth = tl.where(is_transposed, out_h, out_w), tl.where(is_transposed, out_w, out_h)
    across = tl.cdiv(length, BLOCK_J)
    fast, slow = tile % across * BLOCK_J + m % BLOCK_J, tile // across * BLOCK_I + m // BLOCK_J % BLOCK_I
    image = m // (BLOCK_I * BLOCK_J)
    in_bounds = (fast < length) & (slow < breadth) & (image < B)
    fast, slow, image = tl.where(in_bounds, fast, 0), tl.where(in_bounds, slow, 0), tl.where(in_bounds, image, 0)
    return image, tl.where(is_transposed, fast, slow), tl.where(is_transposed, slow, fast), in_bounds


@triton.jit
def member_view(source, code, x, base, H, W, xb, xc, xh, xw, bb, bc, bh, bw, B, INDEX: tl.constexpr):
    """A member as a view: (pointer to image 0, strides of images, channels, rows and columns).

    source: 0 for x, k for base image k − 1.
    """
    if base is not None:
        pointer = x if source == 0 else base + (source - 1).to(tl.int64) * B * bb
        xb, xc = tl.where(source != 0, bb, xb), tl.where(source != 0, bc, xc)
        xh, xw = tl.where(source != 0, bh, xh), tl.where(source != 0, bw, xw)
    else:
        pointer = x
    if tl.int64 == INDEX:
        xb, xc, xh, xw = tl.cast(xb, INDEX), tl.cast(xc, INDEX), tl.cast(xh, INDEX), tl.cast(xw, INDEX)
    origin, down, right = exact_view(code, H, W, xh, xw)
    return pointer + origin, xb, xc, down, right


@triton.jit
def convolve(
    pointer, offset, y, x, channel, down, right, H, W, weight, n, wn, wc, wh, ww,
    C: tl.constexpr, C_OUT: tl.constexpr, KERNEL_H: tl.constexpr, KERNEL_W: tl.constexpr,
    STRIDE_H: tl.constexpr, STRIDE_W: tl.constexpr, PAD_H: tl.constexpr, PAD_W: tl.constexpr,
    DILATION_H: tl.constexpr, DILATION_W: tl.constexpr, BY_CHANNELS: tl.constexpr, BY_PIXELS: tl.constexpr,
    DENSE: tl.constexpr, TYPE: tl.constexpr, PRECISION: tl.constexpr,
    BLOCK_M: tl.constexpr, BLOCK_N: tl.constexpr, BLOCK_K: tl.constexpr,
):  # fmt: skip
    """``Σ_k patch[m, k] · weight[n, k]``, [BLOCK_M, BLOCK_N] of TYPE.

    m: output pixels (y, x) of images at ``offset``, [BLOCK_M] each; n [BLOCK_N]: output channels.
    BY_CHANNELS: k runs over (row, column, channel), else over (channel, row, column).
    BY_PIXELS: neighbouring threads read neighbouring pixels, else neighbouring k.
    DENSE: the weight lies in memory in the order of k.
    """
    size: tl.constexpr = C * KERNEL_H * KERNEL_W
    PADDED: tl.constexpr = PAD_H > 0 or PAD_W > 0
    top, left = y * STRIDE_H - PAD_H, x * STRIDE_W - PAD_W
    corner = offset + top * down + left * right  # [BLOCK_M]
    acc = tl.zeros((BLOCK_M, BLOCK_N), TYPE)
    for start in range(0, size, BLOCK_K):
        k = start + tl.arange(0, BLOCK_K)
        if BY_CHANNELS:
            c, ky, kx = k % C, k // (C * KERNEL_W) * DILATION_H, k // C % KERNEL_W * DILATION_W
        else:
            c = k // (KERNEL_H * KERNEL_W)
            ky, kx = k // KERNEL_W % KERNEL_H * DILATION_H, k % KERNEL_W * DILATION_W
        step = c * channel + ky * down + kx * right  # [BLOCK_K]
        if BY_PIXELS:
            mask = (k < size)[:, None]
            if PADDED:
                rows, columns = ky[:, None] + top[None, :], kx[:, None] + left[None, :]
                mask &= (rows >= 0) & (rows < H) & (columns >= 0) & (columns < W)
            patches = tl.load(pointer + (step[:, None] + corner[None, :]), mask=mask, other=0)
            patches = tl.trans(patches)  # [BLOCK_K, BLOCK_M] → [BLOCK_M, BLOCK_K]
        else:
            mask = (k < size)[None, :]
            if PADDED:
                rows, columns = ky[None, :] + top[:, None], kx[None, :] + left[:, None]
                mask &= (rows >= 0) & (rows < H) & (columns >= 0) & (columns < W)
            patches = tl.load(pointer + (step[None, :] + corner[:, None]), mask=mask, other=0)  # [BLOCK_M, BLOCK_K]
        at = k if DENSE else c * wc + (ky // DILATION_H) * wh + (kx // DILATION_W) * ww
        mask = (k < size)[:, None] & (n < C_OUT)[None, :]
        filters = tl.load(weight + (at[:, None] + (n * wn)[None, :]), mask=mask, other=0)  # [BLOCK_K, BLOCK_N]
        acc = dot(patches, filters, acc, TYPE, PRECISION)
    return acc
