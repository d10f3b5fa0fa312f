"""The convolution of one member image as an implicit matrix product: device functions of the forward kernels.

A member is an exact view, so the address of patch value k = (c, ky, kx) of output pixel m is A[m] + B[k]. Rows of the
product are output pixels of members of one element, columns are output channels. Every element sums in the same order,
rotated reading and all: a turned image gives the same bits.
"""

from __future__ import annotations

import triton
import triton.language as tl

from ._sample import exact_view

#: The interpreter multiplies bfloat16 as if it were integers.
INTERPRETED = tl.constexpr(triton.knobs.runtime.interpret)


@triton.jit
def tile_count(OH, OW, TY: tl.constexpr, TX: tl.constexpr):
    """Tiles of TY·TX output pixels an image needs, whichever way they lie."""
    return tl.maximum(tl.cdiv(OH, TY) * tl.cdiv(OW, TX), tl.cdiv(OW, TY) * tl.cdiv(OH, TX))


@triton.jit
def tile_pixels(tile, lies, B, OH, OW, TB: tl.constexpr, TY: tl.constexpr, TX: tl.constexpr):
    """(image, row, column, whether there is one) of the output pixels of a tile: TY·TX of each of B ≤ TB images.

    Its long side runs along rows, or along columns where the member ``lies`` on its side: along rows of the source.
    """
    m = tl.arange(0, TB * TY * TX)
    length, breadth = tl.where(lies, OH, OW), tl.where(lies, OW, OH)
    across = tl.cdiv(length, TX)
    fast, slow, image = tile % across * TX + m % TX, tile // across * TY + m // TX % TY, m // (TY * TX)
    there = (fast < length) & (slow < breadth) & (image < B)
    fast, slow, image = tl.where(there, fast, 0), tl.where(there, slow, 0), tl.where(there, image, 0)
    return image, tl.where(lies, fast, slow), tl.where(lies, slow, fast), there


@triton.jit
def member(source, code, x, base, H, W, xb, xc, xh, xw, bb, bc, bh, bw, B, WIDE: tl.constexpr):
    """A member as a view: (pointer to image 0, strides of images, channels, rows and columns)."""
    if base is not None:
        pointer = x if source == 0 else base + (source - 1).to(tl.int64) * B * bb
        xb, xc = tl.where(source != 0, bb, xb), tl.where(source != 0, bc, xc)
        xh, xw = tl.where(source != 0, bh, xh), tl.where(source != 0, bw, xw)
    else:
        pointer = x
    if WIDE:
        xb, xc, xh, xw = tl.cast(xb, tl.int64), tl.cast(xc, tl.int64), tl.cast(xh, tl.int64), tl.cast(xw, tl.int64)
    origin, down, right = exact_view(code, H, W, xh, xw)
    return pointer + origin, xb, xc, down, right


@triton.jit
def convolve(
    pointer, offset, y, x, channel, down, right, H, W, weight, n, wn, wc, wh, ww,
    C: tl.constexpr, C_OUT: tl.constexpr, KH: tl.constexpr, KW: tl.constexpr,
    SH: tl.constexpr, SW: tl.constexpr, PH: tl.constexpr, PW: tl.constexpr, DH: tl.constexpr, DW: tl.constexpr,
    BY_CHANNELS: tl.constexpr, BY_PIXELS: tl.constexpr, DENSE: tl.constexpr, TYPE: tl.constexpr, TF32: tl.constexpr,
    M: tl.constexpr, N: tl.constexpr, K: tl.constexpr,
):  # fmt: skip
    """Output pixels (y, x) of images at ``offset`` by output channels n: (M, N) of TYPE.

    BY_CHANNELS: k runs (ky, kx, c), else (c, ky, kx). BY_PIXELS: neighbouring threads read neighbouring pixels, else
    neighbouring k. DENSE: the weight lies in the order of k.
    """
    size: tl.constexpr = C * KH * KW
    PADDED: tl.constexpr = PH > 0 or PW > 0
    top, left = y * SH - PH, x * SW - PW
    corner = offset + top * down + left * right
    acc = tl.zeros((M, N), TYPE)
    for start in range(0, size, K):
        k = start + tl.arange(0, K)
        if BY_CHANNELS:
            c, ky, kx = k % C, k // (C * KW) * DH, k // C % KW * DW
        else:
            c, ky, kx = k // (KH * KW), k // KW % KH * DH, k % KW * DW
        step = c * channel + ky * down + kx * right
        if BY_PIXELS:
            inside = (k < size)[:, None]
            if PADDED:
                rows, columns = ky[:, None] + top[None, :], kx[:, None] + left[None, :]
                inside &= (rows >= 0) & (rows < H) & (columns >= 0) & (columns < W)
            patches = tl.trans(tl.load(pointer + (step[:, None] + corner[None, :]), mask=inside, other=0))
        else:
            inside = (k < size)[None, :]
            if PADDED:
                rows, columns = ky[None, :] + top[:, None], kx[None, :] + left[:, None]
                inside &= (rows >= 0) & (rows < H) & (columns >= 0) & (columns < W)
            patches = tl.load(pointer + (step[None, :] + corner[:, None]), mask=inside, other=0)
        at = k if DENSE else c * wc + (ky // DH) * wh + (kx // DW) * ww
        known = (k < size)[:, None] & (n < C_OUT)[None, :]
        filters = tl.load(weight + (at[:, None] + (n * wn)[None, :]), mask=known, other=0)
        if INTERPRETED:
            patches, filters = patches.to(TYPE), filters.to(TYPE)
        acc = tl.dot(patches, filters, acc, input_precision="tf32" if TF32 else "ieee", out_dtype=TYPE)
    return acc


@triton.jit
def activated(z, ACTIVATION: tl.constexpr):
    if ACTIVATION == "relu":
        z = tl.where(z < 0, 0.0, z)
    elif ACTIVATION == "gelu":
        z = 0.5 * z * (1 + tl.erf(z * 0.70710678118654752))
    elif ACTIVATION == "silu":
        z = z / (1 + tl.exp(-z))
    return z


@triton.jit
def slope(z, ACTIVATION: tl.constexpr):
    """The derivative of `activated`."""
    if ACTIVATION == "relu":
        d = tl.where(z <= 0, 0.0, 1.0).to(z.dtype)
    elif ACTIVATION == "gelu":
        d = 0.5 * (1 + tl.erf(z * 0.70710678118654752)) + z * tl.exp(-0.5 * z * z) * 0.39894228040143268
    elif ACTIVATION == "silu":
        s = 1 / (1 + tl.exp(-z))
        d = s * (1 + z * (1 - s))
    else:
        d = tl.full(z.shape, 1.0, z.dtype)
    return d
