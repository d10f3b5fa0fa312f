"""`act`: one element of each image, or its transpose; a block writes one tile of one image."""

from __future__ import annotations

import triton
import triton.language as tl
from torch import Tensor

from ._launch import Kernel
from ._transform import action, inner_pixels, launch, new_images, tile_count, tile_pixels, transformed


@triton.jit
def _act_kernel(
    out, x, element, rows, permutation, mixing,
    E, C, H, W, xb, xc, xh, xw, oc, oh, ow, eb, planes,
    MIXED: tl.constexpr, TURNS: tl.constexpr, BORDER: tl.constexpr, ADJOINT: tl.constexpr, TYPE: tl.constexpr,
    EDGE: tl.constexpr, SPLIT: tl.constexpr, WIDE: tl.constexpr,
    BLOCK_I: tl.constexpr, BLOCK_J: tl.constexpr, BLOCK_C: tl.constexpr,
):  # fmt: skip
    pid, groups, tiles = tl.program_id(0), tl.cdiv(C, planes), tile_count(H, W, BLOCK_I, BLOCK_J, EDGE)
    tile, group, b = pid % tiles, pid // tiles % groups, (pid // tiles // groups).to(tl.int64)
    e = tl.load(element + b * eb).to(tl.int32)
    # Ids are checked where that is free; beyond the table they must not read what is not ours.
    e = tl.where((e >= 0) & (e < E), e, 0)
    pixels = tile_pixels(tile, H, W, BLOCK_I, BLOCK_J, EDGE, WIDE)
    _, _, i, j, live = pixels
    stored = inner_pixels(live, i, j, H, W) if SPLIT and not EDGE else live
    target = out + b * C * H * W + (i * oh + j * ow)[:, :, None]
    for first in range(group * planes, tl.minimum(group * planes + planes, C), BLOCK_C):
        c = (first + tl.arange(0, BLOCK_C)).to(i.dtype)
        live_c = c < C
        value = transformed(
            x + b * xb, e, rows, permutation, mixing, E, pixels, tl.where(live_c, c, 0), live_c, H, W, xc, xh, xw,
            MIXED, TURNS, BORDER, ADJOINT, EDGE, TYPE,
        )  # fmt: skip
        mask = stored[:, :, None] & live_c[None, None, :]
        tl.store(target + c[None, None, :] * oc, value.to(out.dtype.element_ty), mask=mask)


KERNEL = Kernel(_act_kernel)


def act(x: Tensor, element: Tensor, table, permutation, mixing, padding_mode: str, adjoint: bool) -> Tensor:
    group = action(x, table, permutation, mixing, padding_mode, adjoint)
    out = new_images(x, x.shape)
    if out.numel():
        scalars = (group.order, *x.shape[1:], *x.stride(), *out.stride()[1:], element.stride(0))
        tensors = (out, x, element, group.rows, group.permutation, group.mixing)
        launch(KERNEL, group, tensors, scalars, images=(x, out), rows=x.shape[0])
    return out
