"""`orbit_average`: a weighted sum over the elements, or over their transposes; a block sums one tile of one image."""

from __future__ import annotations

import triton
import triton.language as tl
from torch import Tensor

from ._launch import Kernel
from ._transform import action, inner_pixels, launch, new_images, tile_count, tile_pixels, transformed


@triton.jit
def _orbit_average_kernel(
    out, y, weights, rows, permutation, mixing,
    E, C, H, W, ye, yb, yc, yh, yw, oc, oh, ow, wb, we, planes,
    MIXED: tl.constexpr, TURNS: tl.constexpr, BORDER: tl.constexpr, ADJOINT: tl.constexpr, TYPE: tl.constexpr,
    EDGE: tl.constexpr, SPLIT: tl.constexpr, WIDE: tl.constexpr,
    BLOCK_I: tl.constexpr, BLOCK_J: tl.constexpr, BLOCK_C: tl.constexpr,
):  # fmt: skip
    pid, groups, tiles = tl.program_id(0), tl.cdiv(C, planes), tile_count(H, W, BLOCK_I, BLOCK_J, EDGE)
    tile, group, b = pid % tiles, pid // tiles % groups, (pid // tiles // groups).to(tl.int64)
    pixels = tile_pixels(tile, H, W, BLOCK_I, BLOCK_J, EDGE, WIDE)
    _, _, i, j, live = pixels
    stored = inner_pixels(live, i, j, H, W) if SPLIT and not EDGE else live
    target = out + b * C * H * W + (i * oh + j * ow)[:, :, None]
    for first in range(group * planes, tl.minimum(group * planes + planes, C), BLOCK_C):
        c = (first + tl.arange(0, BLOCK_C)).to(i.dtype)
        live_c = c < C
        total = tl.zeros([BLOCK_I, BLOCK_J, BLOCK_C], TYPE)
        member = y + b * yb
        for e in range(E):
            value = transformed(
                member, e, rows, permutation, mixing, E, pixels, tl.where(live_c, c, 0), live_c, H, W, yc, yh, yw,
                MIXED, TURNS, BORDER, ADJOINT, EDGE, TYPE,
            )  # fmt: skip
            if weights is not None:
                value *= tl.load(weights + b * wb + e * we).to(TYPE)
            total += value
            member += ye
        mask = stored[:, :, None] & live_c[None, None, :]
        tl.store(target + c[None, None, :] * oc, total.to(out.dtype.element_ty), mask=mask)


KERNEL = Kernel(_orbit_average_kernel)


def orbit_average(
    y: Tensor, weights: Tensor | None, table, permutation, mixing, padding_mode: str, adjoint: bool
) -> Tensor:
    """y: (E, B, C, H, W), or (B, C, H, W) shared by all elements."""
    act = action(y, table, permutation, mixing, padding_mode, adjoint)
    out = new_images(y, y.shape[-4:])
    if out.numel():
        strides = y.stride() if y.dim() == 5 else (0, *y.stride())
        weight_strides = (0, 0) if weights is None else weights.stride()
        scalars = (act.order, *y.shape[-3:], *strides, *out.stride()[1:], *weight_strides)
        tensors = (out, y, weights, act.rows, act.permutation, act.mixing)
        launch(KERNEL, act, tensors, scalars, images=(y, out), rows=out.shape[0], summing=True)
    return out
