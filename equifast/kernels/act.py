"""`act`: one element of each image, or its transpose; a block writes one tile of one image."""

from __future__ import annotations

import triton
import triton.language as tl
from torch import Tensor

from .device.resample import stored_pixels, tile_count, tile_pixels, transformed
from .host.launch import Kernel
from .host.resample import launch_resampling, new_images, resample_plan


@triton.jit
def _act_kernel(
    out, x, element, rows, permutation, mixing,
    images, E, C, H, W, xb, xc, xh, xw, oc, oh, ow, eb, planes,
    INTERPOLATES: tl.constexpr, TURNS: tl.constexpr, BORDER: tl.constexpr, ADJOINT: tl.constexpr, TYPE: tl.constexpr,
    IS_EDGE: tl.constexpr, HAS_EDGE_TILES: tl.constexpr, INDEX: tl.constexpr,
    BLOCK_I: tl.constexpr, BLOCK_J: tl.constexpr, BLOCK_C: tl.constexpr,
):  # fmt: skip
    """``out[b] = ρ(g_e)·S_e x[b % images]`` with e = element[b], at one tile of pixels and ``planes`` channels.

    images: how many there are; None if as many as elements.
    """
    pid, channel_blocks = tl.program_id(0), tl.cdiv(C, planes)
    tiles = tile_count(H, W, BLOCK_I, BLOCK_J, IS_EDGE)
    tile, channel_block = pid % tiles, pid // tiles % channel_blocks
    b = (pid // tiles // channel_blocks).to(tl.int64)
    image = b
    if images is not None:
        # This order of the divisions costs a register less than the remainder of b, which would spill.
        image = (pid % (images * tiles * channel_blocks) // tiles // channel_blocks).to(tl.int64)
    e = tl.load(element + b * eb).to(tl.int32)
    # The host does not check ids on a GPU, where that would wait for the stream. An id outside the table must not make
    # the kernel read foreign memory.
    e = tl.where((e >= 0) & (e < E), e, 0)
    pixels = tile_pixels(tile, H, W, BLOCK_I, BLOCK_J, IS_EDGE, INDEX)
    _, _, i, j, in_bounds = pixels
    stored = stored_pixels(in_bounds, i, j, H, W, HAS_EDGE_TILES, IS_EDGE)
    target = out + b * C * H * W + (i * oh + j * ow)[:, :, None]
    for first in range(channel_block * planes, tl.minimum(channel_block * planes + planes, C), BLOCK_C):
        c = (first + tl.arange(0, BLOCK_C)).to(i.dtype)
        c_in_bounds = c < C
        value = transformed(
            x + image * xb, e, rows, permutation, mixing, E, pixels, tl.where(c_in_bounds, c, 0), c_in_bounds,
            H, W, xc, xh, xw, INTERPOLATES, TURNS, BORDER, ADJOINT, IS_EDGE, TYPE,
        )  # [BLOCK_I, BLOCK_J, BLOCK_C] # fmt: skip
        mask = stored[:, :, None] & c_in_bounds[None, None, :]
        tl.store(target + c[None, None, :] * oc, value.to(out.dtype.element_ty), mask=mask)


KERNEL = Kernel(_act_kernel)


def act(x: Tensor, element: Tensor, table, permutation, mixing, padding_mode: str, adjoint: bool) -> Tensor:
    plan = resample_plan(x, table, permutation, mixing, padding_mode, adjoint)
    out = new_images(x, (len(element), *x.shape[1:]))
    if out.numel():
        images = None if len(x) == len(element) else len(x)
        scalars = (images, plan.order, *x.shape[1:], *x.stride(), *out.stride()[1:], element.stride(0))
        tensors = (out, x, element, plan.rows, plan.permutation, plan.mixing)
        launch_resampling(KERNEL, plan, tensors, scalars, images=(x, out), rows=len(element))
    return out
