"""`orbit_conv2d_pool` and its gradients: a block convolves one member image tile by tile and keeps the mean."""

from __future__ import annotations

from functools import partial

import torch
import triton
import triton.language as tl
from torch import Tensor

from ..geometry import order_of
from ..layers import output_size
from .device.activations import activated
from .device.convolve import MEMBER_ROW, convolve, member_view, output_pixels, output_tiles
from .host.convolve import (
    configs,
    count_output_tiles,
    input_precision,
    layer_constants,
    layout_key,
    new_output,
    span,
    strides,
)
from .host.launch import Kernel, Problem, processors
from .host.members import member_batches
from .host.sizes import ceil_div, index_type
from .orbit import base_images
from .orbit_conv2d import convolve_orbit

#: Bytes of the convolution's gradient that the backward pass holds at a time.
CHUNK_BYTES = 64 << 20

#: Blocks that each multiprocessor should have. With fewer, the pixels of an image are cut into parts. Not measured.
BLOCKS = 4


@triton.jit
def _orbit_conv2d_pool_kernel(
    out, x, base, weight, bias, table,
    B, E, members, parts, H, W, out_h, out_w, xb, xc, xh, xw, bb, bc, bh, bw, wn, wc, wh, ww,
    C: tl.constexpr, C_OUT: tl.constexpr, KERNEL_H: tl.constexpr, KERNEL_W: tl.constexpr,
    STRIDE_H: tl.constexpr, STRIDE_W: tl.constexpr, PAD_H: tl.constexpr, PAD_W: tl.constexpr,
    DILATION_H: tl.constexpr, DILATION_W: tl.constexpr, BY_CHANNELS: tl.constexpr, BY_PIXELS: tl.constexpr,
    DENSE: tl.constexpr, INDEX: tl.constexpr, ACTIVATION: tl.constexpr, TYPE: tl.constexpr, PRECISION: tl.constexpr,
    BLOCK_B: tl.constexpr, BLOCK_I: tl.constexpr, BLOCK_J: tl.constexpr, BLOCK_N: tl.constexpr, BLOCK_K: tl.constexpr,
):  # fmt: skip
    """``out[part, e, b, n] = Σ activation(convolution + bias) / pixels`` over the tiles of one part of a member."""
    pid, channel_blocks = tl.program_id(0), tl.cdiv(C_OUT, BLOCK_N)
    n = pid % channel_blocks * BLOCK_N + tl.arange(0, BLOCK_N)
    part, row = pid // channel_blocks % parts, pid // channel_blocks // parts % members * MEMBER_ROW
    b = (pid // channel_blocks // parts // members).to(tl.int64)
    e, code, source = tl.load(table + row), tl.load(table + row + 1), tl.load(table + row + 2)
    view, xb, xc, down, right = member_view(source, code, x, base, H, W, xb, xc, xh, xw, bb, bc, bh, bw, B, INDEX)
    is_transposed = code % 2 == 1
    total = tl.zeros((BLOCK_N,), TYPE)
    for tile in range(part, output_tiles(out_h, out_w, BLOCK_I, BLOCK_J), parts):
        _, oy, ox, in_bounds = output_pixels(tile, is_transposed, 1, out_h, out_w, BLOCK_B, BLOCK_I, BLOCK_J)
        acc = convolve(
            view + b * xb, 0, oy, ox, xc, down, right, H, W, weight, n, wn, wc, wh, ww,
            C, C_OUT, KERNEL_H, KERNEL_W, STRIDE_H, STRIDE_W, PAD_H, PAD_W, DILATION_H, DILATION_W,
            BY_CHANNELS, BY_PIXELS, DENSE, TYPE, PRECISION, BLOCK_B * BLOCK_I * BLOCK_J, BLOCK_N, BLOCK_K,
        )  # [BLOCK_M, BLOCK_N] # fmt: skip
        if bias is not None:
            acc += tl.load(bias + n, mask=n < C_OUT, other=0).to(TYPE)[None, :]
        total += tl.sum(tl.where(in_bounds[:, None], activated(acc, ACTIVATION), 0), 0)
    target = out + ((part.to(tl.int64) * E + e) * B + b) * C_OUT
    tl.store(target + n, (total / (out_h * out_w)).to(out.dtype.element_ty), mask=n < C_OUT)


KERNEL = Kernel(_orbit_conv2d_pool_kernel, fuse_multiply_add=True)


def orbit_conv2d_pool(
    x: Tensor, weight: Tensor, bias: Tensor | None, table, stride, padding, dilation, padding_mode: str, activation: str
) -> Tensor:
    order = order_of(table)
    out_h, out_w = output_size(x.shape[2:], weight.shape[2:], stride, padding, dilation)
    rows, c_out = order * x.shape[0], weight.shape[0]
    if rows * c_out == 0:
        return x.new_empty((rows, c_out))
    bias = None if bias is None else bias.contiguous()
    batches = member_batches(tuple(table), x.shape[2] == x.shape[3], x.device)
    parts = _parts(ceil_div(rows, len(batches)) * ceil_div(c_out, 64), out_h, out_w, x.device)
    # Sums over parts of the pixels are kept in a wide type until they are added up.
    wide = x.dtype if parts == 1 else torch.promote_types(x.dtype, torch.float32)
    out = x.new_empty((parts, rows, c_out), dtype=wide)
    options = (*stride, *padding, *dilation, activation, input_precision(x.dtype))
    for batch in batches:
        base = base_images(x, batch.bases, padding_mode)
        launch_key = (options, batch.count, order, parts, bias is None, *layout_key(x, base, weight))
        problem = partial(_problem, x, base, weight, order, batch.count, parts, out_h, out_w, options)
        KERNEL.launch(launch_key, (out, x, base, weight, bias, batch.table), problem)
        del base, problem  # before the next batch is made
    return out[0] if parts == 1 else out.sum(0).to(x.dtype)


def _parts(blocks: int, out_h: int, out_w: int, device: torch.device) -> int:
    """The number of parts to cut the pixels of an image into, so that few images keep the device busy."""
    tiles = count_output_tiles(out_h, out_w, {"BLOCK_I": 8, "BLOCK_J": 16})
    return max(min(BLOCKS * processors(device) // blocks, tiles), 1)


def _problem(x, base, weight, order, members, parts, out_h, out_w, options) -> Problem:
    *geometry, activation, precision = options
    batch, c_out = x.shape[0], weight.shape[0]
    constants = layer_constants(x, weight, geometry, activation, precision)
    constants["INDEX"] = index_type(max(span(x, 1), span(base, 1)))
    chosen = configs(x.dtype, weight, precision, (1, out_h, out_w), one_image=True)
    scalars = (batch, order, members, parts, *x.shape[2:], out_h, out_w, *strides(x), *strides(base), *weight.stride())
    tuning_key = (x.dtype, weight.shape, *options, constants["BY_CHANNELS"], out_h, out_w, parts > 1)

    def grid(c: dict[str, int]) -> int:
        return batch * members * parts * ceil_div(c_out, c["BLOCK_N"])

    return Problem(grid, scalars, constants, chosen, tuning_key)


def orbit_conv2d_pool_backward(
    grad: Tensor, x: Tensor, weight: Tensor, bias: Tensor | None,
    table, stride, padding, dilation, padding_mode: str, activation: str, needs,
) -> tuple[Tensor, Tensor, Tensor]:  # fmt: skip
    """Convolve again, a few images at a time, and end in the convolution's own gradient."""
    order, batch, c_out = order_of(table), x.shape[0], weight.shape[0]
    options = (table, stride, padding, dilation, padding_mode)
    grad_x = x.new_empty(x.shape if needs[0] else (0,))
    wide = torch.promote_types(weight.dtype, torch.float32)
    sums = [weight.new_zeros(s if n else (0,), dtype=wide) for s, n in ((weight.shape, needs[1]), (c_out, needs[2]))]
    out_h, out_w = output_size(x.shape[2:], weight.shape[2:], stride, padding, dilation)
    step = max(CHUNK_BYTES // max(order * c_out * out_h * out_w * x.element_size(), 1), 1)
    for start in range(0, batch if c_out else 0, step):
        images = x[start : start + step]
        rows = grad.view(order, batch, c_out)[:, start : start + step].contiguous()
        upstream = new_output(images, weight, order, stride, padding, dilation)
        convolve_orbit(upstream, rows, images, weight, bias, *options, activation)
        # The dispatcher chooses again: for some layers CUDA C++ is the better half (`backends.selection`).
        grads = torch.ops.equifast.orbit_conv2d_backward(upstream, images, weight, *options, needs)
        if needs[0]:
            grad_x[start : start + step] = grads[0]
        for total, part, needed in zip(sums, grads[1:], needs[1:], strict=True):
            if needed:
                total += part
    return grad_x if c_out else grad_x.zero_(), sums[0].to(weight.dtype), sums[1].to(weight.dtype)
