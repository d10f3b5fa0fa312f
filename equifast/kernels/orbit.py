"""`orbit`: every element of every image, or the transpose of each; a block writes one tile of one member."""

from __future__ import annotations

import torch
import triton
import triton.language as tl
from torch import Tensor

from ..geometry import Matrix
from .device.resample import stored_pixels, tile_count, tile_pixels, transformed
from .host.launch import Kernel
from .host.members import reads_by_channels
from .host.resample import launch_resampling, new_images, resample_plan


@triton.jit
def _orbit_kernel(
    out, x, weights, rows, permutation, mixing,
    B, E, C, H, W, xb, xc, xh, xw, oc, oh, ow, wb, we, planes,
    INTERPOLATES: tl.constexpr, TURNS: tl.constexpr, BORDER: tl.constexpr, ADJOINT: tl.constexpr, TYPE: tl.constexpr,
    IS_EDGE: tl.constexpr, HAS_EDGE_TILES: tl.constexpr, INDEX: tl.constexpr,
    BLOCK_I: tl.constexpr, BLOCK_J: tl.constexpr, BLOCK_C: tl.constexpr,
):  # fmt: skip
    """``out[e, b] = weights[b, e] · ρ(g_e)·S_e x[b]`` at one tile of pixels and ``planes`` channels."""
    # Members of one image are neighbours in the launch, so that they find the image in the cache.
    pid, channel_blocks = tl.program_id(0), tl.cdiv(C, planes)
    tiles = tile_count(H, W, BLOCK_I, BLOCK_J, IS_EDGE)
    tile, channel_block, e = pid % tiles, pid // tiles % channel_blocks, pid // tiles // channel_blocks % E
    b = (pid // tiles // channel_blocks // E).to(tl.int64)
    pixels = tile_pixels(tile, H, W, BLOCK_I, BLOCK_J, IS_EDGE, INDEX)
    _, _, i, j, in_bounds = pixels
    stored = stored_pixels(in_bounds, i, j, H, W, HAS_EDGE_TILES, IS_EDGE)
    target = out + (e * B + b) * C * H * W + (i * oh + j * ow)[:, :, None]
    for first in range(channel_block * planes, tl.minimum(channel_block * planes + planes, C), BLOCK_C):
        c = (first + tl.arange(0, BLOCK_C)).to(i.dtype)
        c_in_bounds = c < C
        value = transformed(
            x + b * xb, e, rows, permutation, mixing, E, pixels, tl.where(c_in_bounds, c, 0), c_in_bounds,
            H, W, xc, xh, xw, INTERPOLATES, TURNS, BORDER, ADJOINT, IS_EDGE, TYPE,
        )  # [BLOCK_I, BLOCK_J, BLOCK_C] # fmt: skip
        if weights is not None:
            value *= tl.load(weights + b * wb + e * we).to(TYPE)
        mask = stored[:, :, None] & c_in_bounds[None, None, :]
        tl.store(target + c[None, None, :] * oc, value.to(out.dtype.element_ty), mask=mask)


KERNEL = Kernel(_orbit_kernel)


def orbit(x: Tensor, weights: Tensor | None, table, permutation, mixing, padding_mode: str, adjoint: bool) -> Tensor:
    plan = resample_plan(x, table, permutation, mixing, padding_mode, adjoint)
    batch, *size = x.shape
    out = new_images(x, (plan.order * batch, *size))
    if out.numel():
        weight_strides = (0, 0) if weights is None else weights.stride()
        scalars = (batch, plan.order, *size, *x.stride(), *out.stride()[1:], *weight_strides)
        tensors = (out, x, weights, plan.rows, plan.permutation, plan.mixing)
        launch_resampling(KERNEL, plan, tensors, scalars, images=(x, out), rows=plan.order * batch)
    return out


def base_images(x: Tensor, bases: tuple[Matrix, ...], padding_mode: str) -> Tensor | None:
    """x interpolated by each of K base rotations, (K·B, C, H, W), in the order in which x is read; None if K is 0.

    Row k·B + b is image b by base k. `host.members` says what the images are for.
    """
    if not bases:
        return None
    table = [value for base in bases for value in (0.0, *base)]
    images = orbit(x, None, table, [], [], padding_mode, False)
    return images.contiguous(memory_format=torch.channels_last) if reads_by_channels(x) else images
