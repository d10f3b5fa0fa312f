"""`orbit_average`: a weighted sum over the elements, or over their transposes; a block sums one tile of one image."""

from __future__ import annotations

import triton
import triton.language as tl
from torch import Tensor

from .device.resample import stored_pixels, tile_count, tile_pixels, transformed
from .host.launch import Kernel
from .host.resample import launch_resampling, new_images, resample_plan


@triton.jit
def _orbit_average_kernel(
    out, y, weights, rows, permutation, mixing,
    E, C, H, W, ye, yb, yc, yh, yw, oc, oh, ow, wb, we, planes,
    INTERPOLATES: tl.constexpr, TURNS: tl.constexpr, BORDER: tl.constexpr, ADJOINT: tl.constexpr, TYPE: tl.constexpr,
    IS_EDGE: tl.constexpr, HAS_EDGE_TILES: tl.constexpr, INDEX: tl.constexpr,
    BLOCK_I: tl.constexpr, BLOCK_J: tl.constexpr, BLOCK_C: tl.constexpr,
):  # fmt: skip
    """``out[b] = Σ_e weights[b, e] · ρ(g_e)·S_e y[e, b]`` at one tile of pixels and ``planes`` channels."""
    pid, channel_blocks = tl.program_id(0), tl.cdiv(C, planes)
    tiles = tile_count(H, W, BLOCK_I, BLOCK_J, IS_EDGE)
    tile, channel_block = pid % tiles, pid // tiles % channel_blocks
    b = (pid // tiles // channel_blocks).to(tl.int64)
    pixels = tile_pixels(tile, H, W, BLOCK_I, BLOCK_J, IS_EDGE, INDEX)
    _, _, i, j, in_bounds = pixels
    stored = stored_pixels(in_bounds, i, j, H, W, HAS_EDGE_TILES, IS_EDGE)
    target = out + b * C * H * W + (i * oh + j * ow)[:, :, None]
    for first in range(channel_block * planes, tl.minimum(channel_block * planes + planes, C), BLOCK_C):
        c = (first + tl.arange(0, BLOCK_C)).to(i.dtype)
        c_in_bounds = c < C
        total = tl.zeros([BLOCK_I, BLOCK_J, BLOCK_C], TYPE)
        member = y + b * yb
        for e in range(E):
            value = transformed(
                member, e, rows, permutation, mixing, E, pixels, tl.where(c_in_bounds, c, 0), c_in_bounds,
                H, W, yc, yh, yw, INTERPOLATES, TURNS, BORDER, ADJOINT, IS_EDGE, TYPE,
            )  # [BLOCK_I, BLOCK_J, BLOCK_C] # fmt: skip
            if weights is not None:
                value *= tl.load(weights + b * wb + e * we).to(TYPE)
            total += value
            member += ye
        mask = stored[:, :, None] & c_in_bounds[None, None, :]
        tl.store(target + c[None, None, :] * oc, total.to(out.dtype.element_ty), mask=mask)


KERNEL = Kernel(_orbit_average_kernel)


def orbit_average(
    y: Tensor, weights: Tensor | None, table, permutation, mixing, padding_mode: str, adjoint: bool
) -> Tensor:
    """y: (E, B, C, H, W), or (B, C, H, W) shared by all elements."""
    plan = resample_plan(y, table, permutation, mixing, padding_mode, adjoint)
    out = new_images(y, y.shape[-4:])
    if out.numel():
        strides = y.stride() if y.dim() == 5 else (0, *y.stride())
        weight_strides = (0, 0) if weights is None else weights.stride()
        scalars = (plan.order, *y.shape[-3:], *strides, *out.stride()[1:], *weight_strides)
        tensors = (out, y, weights, plan.rows, plan.permutation, plan.mixing)
        launch_resampling(KERNEL, plan, tensors, scalars, images=(y, out), rows=out.shape[0], summing=True)
    return out
