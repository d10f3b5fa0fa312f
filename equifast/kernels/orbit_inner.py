"""`orbit_inner`: the inner products of all members of u with v, in one pass over both.

A block sums every parts-th tile of one image, element by element; torch adds up the parts, in a fixed order.
"""

from __future__ import annotations

import torch
import triton
import triton.language as tl
from torch import Tensor

from ..dtypes import accumulate_dtype
from ._launch import Kernel, ceil_div
from ._transform import action, launch, tile_count, tile_pixels, transformed


@triton.jit
def _orbit_inner_kernel(
    partial, u, v, rows, permutation, mixing,
    parts, B, E, C, H, W, ue, ub, uc, uh, uw, ve, vb, vc, vh, vw, planes,
    MIXED: tl.constexpr, TURNS: tl.constexpr, BORDER: tl.constexpr, ADJOINT: tl.constexpr, TYPE: tl.constexpr,
    EDGE: tl.constexpr, SPLIT: tl.constexpr, WIDE: tl.constexpr,
    BLOCK_I: tl.constexpr, BLOCK_J: tl.constexpr, BLOCK_C: tl.constexpr,
):  # fmt: skip
    part, b = tl.program_id(0) % parts, (tl.program_id(0) // parts).to(tl.int64)
    u += b * ub
    v += b * vb
    partial += (part.to(tl.int64) * B + b) * E
    for e in range(E):
        total = tl.zeros([BLOCK_I, BLOCK_J, BLOCK_C], TYPE)
        for tile in range(part, tile_count(H, W, BLOCK_I, BLOCK_J, False), parts):
            pixels = tile_pixels(tile, H, W, BLOCK_I, BLOCK_J, False, WIDE)
            _, _, i, j, live = pixels
            for first in range(0, planes, BLOCK_C):
                c = (first + tl.arange(0, BLOCK_C)).to(i.dtype)
                live_c = c < C
                moved = transformed(
                    u, e, rows, permutation, mixing, E, pixels, tl.where(live_c, c, 0), live_c, H, W, uc, uh, uw,
                    MIXED, TURNS, BORDER, ADJOINT, EDGE, TYPE,
                )  # fmt: skip
                at = v + (i * vh + j * vw)[:, :, None] + c[None, None, :] * vc
                mask = live[:, :, None] & live_c[None, None, :]
                total += tl.where(mask, moved * tl.load(at, mask=mask, other=0).to(TYPE), 0)
        product = tl.sum(tl.reshape(total, [BLOCK_I * BLOCK_J * BLOCK_C]), 0)
        tl.store(partial + e, product)
        u += ue
        v += ve


KERNEL = Kernel(_orbit_inner_kernel)

#: Pixels of an image that a block sums; fewer where there would be only few blocks.
PART, FEW = 4096, 512


def orbit_inner(u: Tensor, v: Tensor, table, permutation, mixing, padding_mode: str) -> Tensor:
    """u, v: (E, B, C, H, W), or (B, C, H, W) shared by all elements."""
    act = action(u, table, permutation, mixing, padding_mode)
    batch, *size = u.shape[-4:]
    pixels = size[1] * size[2]
    parts = ceil_div(pixels, PART if batch * pixels > FEW * PART else PART // 4)
    partial = torch.empty((parts, batch, act.order), dtype=accumulate_dtype(u.dtype), device=u.device)
    if not u.numel():
        return partial.new_zeros((batch, act.order))
    strides = [t.stride() if t.dim() == 5 else (0, *t.stride()) for t in (u, v)]
    scalars = (parts, batch, act.order, *size, *strides[0], *strides[1])
    tensors = (partial, u, v, act.rows, act.permutation, act.mixing)
    launch(KERNEL, act, tensors, scalars, images=(u, v), rows=batch * parts, whole=True)
    return partial.sum(0) if parts > 1 else partial[0]
