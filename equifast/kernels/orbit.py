"""`orbit`: every element of every image, or the transpose of each; a block writes one tile of one member."""

from __future__ import annotations

import triton
import triton.language as tl
from torch import Tensor

from ._launch import Kernel
from ._transform import action, inner_pixels, launch, new_images, tile_count, tile_pixels, transformed


@triton.jit
def _orbit_kernel(
    out, x, weights, rows, permutation, mixing,
    B, E, C, H, W, xb, xc, xh, xw, oc, oh, ow, wb, we, planes,
    MIXED: tl.constexpr, TURNS: tl.constexpr, BORDER: tl.constexpr, ADJOINT: tl.constexpr, TYPE: tl.constexpr,
    EDGE: tl.constexpr, SPLIT: tl.constexpr, WIDE: tl.constexpr,
    BLOCK_I: tl.constexpr, BLOCK_J: tl.constexpr, BLOCK_C: tl.constexpr,
):  # fmt: skip
    # Members of one image are neighbours in the launch, so that they find it in the cache.
    pid, groups, tiles = tl.program_id(0), tl.cdiv(C, planes), tile_count(H, W, BLOCK_I, BLOCK_J, EDGE)
    tile, group, e = pid % tiles, pid // tiles % groups, pid // tiles // groups % E
    b = (pid // tiles // groups // E).to(tl.int64)
    pixels = tile_pixels(tile, H, W, BLOCK_I, BLOCK_J, EDGE, WIDE)
    _, _, i, j, live = pixels
    stored = inner_pixels(live, i, j, H, W) if SPLIT and not EDGE else live
    target = out + (e * B + b) * C * H * W + (i * oh + j * ow)[:, :, None]
    for first in range(group * planes, tl.minimum(group * planes + planes, C), BLOCK_C):
        c = (first + tl.arange(0, BLOCK_C)).to(i.dtype)
        live_c = c < C
        value = transformed(
            x + b * xb, e, rows, permutation, mixing, E, pixels, tl.where(live_c, c, 0), live_c, H, W, xc, xh, xw,
            MIXED, TURNS, BORDER, ADJOINT, EDGE, TYPE,
        )  # fmt: skip
        if weights is not None:
            value *= tl.load(weights + b * wb + e * we).to(TYPE)
        mask = stored[:, :, None] & live_c[None, None, :]
        tl.store(target + c[None, None, :] * oc, value.to(out.dtype.element_ty), mask=mask)


KERNEL = Kernel(_orbit_kernel)


def orbit(x: Tensor, weights: Tensor | None, table, permutation, mixing, padding_mode: str, adjoint: bool) -> Tensor:
    act = action(x, table, permutation, mixing, padding_mode, adjoint)
    batch, *size = x.shape
    out = new_images(x, (act.order * batch, *size))
    if out.numel():
        weight_strides = (0, 0) if weights is None else weights.stride()
        scalars = (batch, act.order, *size, *x.stride(), *out.stride()[1:], *weight_strides)
        tensors = (out, x, weights, act.rows, act.permutation, act.mixing)
        launch(KERNEL, act, tensors, scalars, images=(x, out), rows=act.order * batch)
    return out
