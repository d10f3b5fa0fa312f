"""`orbit_conv2d_pool` and its gradients: a block convolves one member image tile by tile and keeps the mean."""

from __future__ import annotations

from functools import partial

import torch
import triton
import triton.language as tl
from torch import Tensor

from ._convolve import activated, convolve, member, tile_count, tile_pixels
from ._launch import Kernel, Problem, ceil_div, processors
from ._members import base_images, groups_of_members
from .orbit_conv2d import (
    allows_tf32,
    configs,
    convolve_orbit,
    described,
    layer_constants,
    new_output,
    output_size,
    span,
    strides,
    tiles_of,
)

#: Bytes of the convolution's gradient at a time, in backward.
CHUNK_BYTES = 64 << 20

#: Blocks a processor is given before the pixels of an image are left in one.
BLOCKS = 4


@triton.jit
def _orbit_conv2d_pool_kernel(
    out, x, base, weight, bias, table,
    B, E, members, parts, H, W, OH, OW, xb, xc, xh, xw, bb, bc, bh, bw, wn, wc, wh, ww,
    C: tl.constexpr, C_OUT: tl.constexpr, KH: tl.constexpr, KW: tl.constexpr,
    SH: tl.constexpr, SW: tl.constexpr, PH: tl.constexpr, PW: tl.constexpr, DH: tl.constexpr, DW: tl.constexpr,
    BY_CHANNELS: tl.constexpr, BY_PIXELS: tl.constexpr, DENSE: tl.constexpr, WIDE: tl.constexpr,
    ACTIVATION: tl.constexpr, TYPE: tl.constexpr, TF32: tl.constexpr,
    TB: tl.constexpr, TY: tl.constexpr, TX: tl.constexpr, N: tl.constexpr, K: tl.constexpr,
):  # fmt: skip
    pid, blocks = tl.program_id(0), tl.cdiv(C_OUT, N)
    n = pid % blocks * N + tl.arange(0, N)
    part, row = pid // blocks % parts, pid // blocks // parts % members * 3
    b = (pid // blocks // parts // members).to(tl.int64)
    e, code, source = tl.load(table + row), tl.load(table + row + 1), tl.load(table + row + 2)
    view, xb, xc, down, right = member(source, code, x, base, H, W, xb, xc, xh, xw, bb, bc, bh, bw, B, WIDE)
    lies = code % 2 == 1
    total = tl.zeros((N,), TYPE)
    for tile in range(part, tile_count(OH, OW, TY, TX), parts):
        _, oy, ox, there = tile_pixels(tile, lies, 1, OH, OW, TB, TY, TX)
        acc = convolve(
            view + b * xb, 0, oy, ox, xc, down, right, H, W, weight, n, wn, wc, wh, ww,
            C, C_OUT, KH, KW, SH, SW, PH, PW, DH, DW, BY_CHANNELS, BY_PIXELS, DENSE, TYPE, TF32, TB * TY * TX, N, K,
        )  # fmt: skip
        if bias is not None:
            acc += tl.load(bias + n, mask=n < C_OUT, other=0).to(TYPE)[None, :]
        total += tl.sum(tl.where(there[:, None], activated(acc, ACTIVATION), 0), 0)
    target = out + ((part.to(tl.int64) * E + e) * B + b) * C_OUT
    tl.store(target + n, (total / (OH * OW)).to(out.dtype.element_ty), mask=n < C_OUT)


KERNEL = Kernel(_orbit_conv2d_pool_kernel, fuse_multiply_add=True)


def orbit_conv2d_pool(
    x: Tensor, weight: Tensor, bias: Tensor | None, table, stride, padding, dilation, padding_mode: str, activation: str
) -> Tensor:
    order, (oh, ow) = len(table) // 5, output_size(x, weight, stride, padding, dilation)
    rows, c_out = order * x.shape[0], weight.shape[0]
    if rows * c_out == 0:
        return x.new_empty((rows, c_out))
    bias = None if bias is None else bias.contiguous()
    groups = groups_of_members(tuple(table), x.shape[2] == x.shape[3], x.device)
    parts = _parts(ceil_div(rows, len(groups)) * ceil_div(c_out, 64), oh, ow, x.device)
    # Each sum over a part of the pixels is kept in a wide type.
    wide = x.dtype if parts == 1 else torch.promote_types(x.dtype, torch.float32)
    out = x.new_empty((parts, rows, c_out), dtype=wide)
    options = (*stride, *padding, *dilation, activation, allows_tf32(x.dtype))
    for group in groups:
        base = base_images(x, group.bases, padding_mode)
        key = (options, group.count, order, parts, bias is None, *described(x, base, weight))
        problem = partial(_problem, x, base, weight, order, group.count, parts, oh, ow, options)
        KERNEL.launch(key, (out, x, base, weight, bias, group.table), problem)
        del base, problem  # before the next are made
    return out[0] if parts == 1 else out.sum(0).to(x.dtype)


def _parts(blocks: int, oh: int, ow: int, device: torch.device) -> int:
    """In how many parts to cut the pixels of an image, so that few images keep the device busy."""
    return max(min(BLOCKS * processors(device) // blocks, tiles_of(oh, ow, {"TY": 8, "TX": 16})), 1)


def _problem(x, base, weight, order, members, parts, oh, ow, options) -> Problem:
    *geometry, activation, tf32 = options
    batch, c_out = x.shape[0], weight.shape[0]
    constants = layer_constants(x, weight, geometry, activation, tf32)
    constants["WIDE"] = max(span(x, 1), span(base, 1)) >= 1 << 31
    chosen = configs(x.dtype, weight, tf32, (1, oh, ow), one_image=True)
    scalars = (batch, order, members, parts, *x.shape[2:], oh, ow, *strides(x), *strides(base), *weight.stride())
    similar = (x.dtype, tf32, weight.shape, *options, constants["BY_CHANNELS"], oh, ow, parts > 1)

    def grid(c: dict[str, int]) -> int:
        return batch * members * parts * ceil_div(c_out, c["N"])

    return Problem(grid, scalars, constants, chosen, similar)


def orbit_conv2d_pool_backward(
    grad: Tensor, x: Tensor, weight: Tensor, bias: Tensor | None,
    table, stride, padding, dilation, padding_mode: str, activation: str, needs,
) -> tuple[Tensor, Tensor, Tensor]:  # fmt: skip
    """The convolution again, a few images at a time, ending in its own gradient."""
    order, batch, c_out = len(table) // 5, x.shape[0], weight.shape[0]
    options = (table, stride, padding, dilation, padding_mode)
    grad_x = x.new_empty(x.shape if needs[0] else (0,))
    wide = torch.promote_types(weight.dtype, torch.float32)
    sums = [weight.new_zeros(s if n else (0,), dtype=wide) for s, n in ((weight.shape, needs[1]), (c_out, needs[2]))]
    oh, ow = output_size(x, weight, stride, padding, dilation)
    step = max(CHUNK_BYTES // max(order * c_out * oh * ow * x.element_size(), 1), 1)
    for start in range(0, batch if c_out else 0, step):
        images = x[start : start + step]
        rows = grad.view(order, batch, c_out)[:, start : start + step].contiguous()
        upstream = new_output(images, weight, order, stride, padding, dilation)
        convolve_orbit(upstream, rows, images, weight, bias, *options, activation)
        grads = torch.ops.equifast.orbit_conv2d_backward(upstream, images, weight, *options, needs)
        if needs[0]:
            grad_x[start : start + step] = grads[0]
        for total, part, needed in zip(sums, grads[1:], needs[1:], strict=True):
            if needed:
                total += part
    return grad_x if c_out else grad_x.zero_(), *(s.to(weight.dtype) for s in sums)
