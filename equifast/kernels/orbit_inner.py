"""`orbit_inner`: the inner products of all members of u with v, in one pass over both.

A block sums every parts-th tile of one image, element by element. Then torch adds up the parts, in a fixed order.
"""

from __future__ import annotations

import torch
import triton
import triton.language as tl
from torch import Tensor

from ..dtypes import accumulate_dtype
from .device.resample import tile_count, tile_pixels, transformed
from .host.launch import Kernel
from .host.resample import launch_resampling, resample_plan
from .host.sums import image_parts


@triton.jit
def _orbit_inner_kernel(
    partial, u, v, rows, permutation, mixing,
    parts, B, E, C, H, W, ue, ub, uc, uh, uw, ve, vb, vc, vh, vw, planes,
    INTERPOLATES: tl.constexpr, TURNS: tl.constexpr, BORDER: tl.constexpr, ADJOINT: tl.constexpr, TYPE: tl.constexpr,
    IS_EDGE: tl.constexpr, HAS_EDGE_TILES: tl.constexpr, INDEX: tl.constexpr,
    BLOCK_I: tl.constexpr, BLOCK_J: tl.constexpr, BLOCK_C: tl.constexpr,
):  # fmt: skip
    """``partial[part, b, e] = Σ (ρ(g_e)·S_e u[e, b]) · v[e, b]`` over the channels and the tiles of one part."""
    part, b = tl.program_id(0) % parts, (tl.program_id(0) // parts).to(tl.int64)
    u += b * ub
    v += b * vb
    partial += (part.to(tl.int64) * B + b) * E
    for e in range(E):
        total = tl.zeros([BLOCK_I, BLOCK_J, BLOCK_C], TYPE)
        for tile in range(part, tile_count(H, W, BLOCK_I, BLOCK_J, False), parts):
            pixels = tile_pixels(tile, H, W, BLOCK_I, BLOCK_J, False, INDEX)
            _, _, i, j, in_bounds = pixels
            for first in range(0, planes, BLOCK_C):
                c = (first + tl.arange(0, BLOCK_C)).to(i.dtype)
                c_in_bounds = c < C
                value = transformed(
                    u, e, rows, permutation, mixing, E, pixels, tl.where(c_in_bounds, c, 0), c_in_bounds,
                    H, W, uc, uh, uw, INTERPOLATES, TURNS, BORDER, ADJOINT, IS_EDGE, TYPE,
                )  # [BLOCK_I, BLOCK_J, BLOCK_C] # fmt: skip
                at = v + (i * vh + j * vw)[:, :, None] + c[None, None, :] * vc
                mask = in_bounds[:, :, None] & c_in_bounds[None, None, :]
                total += tl.where(mask, value * tl.load(at, mask=mask, other=0).to(TYPE), 0)
        product = tl.sum(tl.reshape(total, [BLOCK_I * BLOCK_J * BLOCK_C]), 0)
        tl.store(partial + e, product)
        u += ue
        v += ve


KERNEL = Kernel(_orbit_inner_kernel)


def orbit_inner(u: Tensor, v: Tensor, table, permutation, mixing, padding_mode: str) -> Tensor:
    """u, v: (E, B, C, H, W), or (B, C, H, W) shared by all elements."""
    plan = resample_plan(u, table, permutation, mixing, padding_mode)
    batch, *size = u.shape[-4:]
    parts = image_parts(batch, size[1] * size[2])
    partial = torch.empty((parts, batch, plan.order), dtype=accumulate_dtype(u.dtype), device=u.device)
    if not u.numel():
        return partial.new_zeros((batch, plan.order))
    strides = [t.stride() if t.dim() == 5 else (0, *t.stride()) for t in (u, v)]
    scalars = (parts, batch, plan.order, *size, *strides[0], *strides[1])
    tensors = (partial, u, v, plan.rows, plan.permutation, plan.mixing)
    launch_resampling(KERNEL, plan, tensors, scalars, images=(u, v), rows=batch * parts, whole=True)
    return partial.sum(0) if parts > 1 else partial[0]
