"""`orbit_conv2d`: an implicit matrix product whose rows are read from exact views of x, with the activation on top."""

from __future__ import annotations

from functools import partial

import triton
import triton.language as tl
from torch import Tensor

from ..geometry import order_of
from .device.activations import activated, activation_slope
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
from .host.launch import Kernel, Problem
from .host.members import member_batches
from .host.sizes import ceil_div, index_type, power_of_two
from .orbit import base_images


@triton.jit
def _orbit_conv2d_kernel(
    out, grad, x, base, weight, bias, table,
    B, members, H, W, out_h, out_w, xb, xc, xh, xw, bb, bc, bh, bw, wn, wc, wh, ww,
    C: tl.constexpr, C_OUT: tl.constexpr, KERNEL_H: tl.constexpr, KERNEL_W: tl.constexpr,
    STRIDE_H: tl.constexpr, STRIDE_W: tl.constexpr, PAD_H: tl.constexpr, PAD_W: tl.constexpr,
    DILATION_H: tl.constexpr, DILATION_W: tl.constexpr, BY_CHANNELS: tl.constexpr, BY_PIXELS: tl.constexpr,
    DENSE: tl.constexpr, CHANNELS_LAST: tl.constexpr, INDEX: tl.constexpr, ACTIVATION: tl.constexpr,
    TYPE: tl.constexpr, PRECISION: tl.constexpr,
    BLOCK_B: tl.constexpr, BLOCK_I: tl.constexpr, BLOCK_J: tl.constexpr, BLOCK_N: tl.constexpr, BLOCK_K: tl.constexpr,
):  # fmt: skip
    """``out[m, n] = activation(Σ_k patch[m, k] · weight[n, k] + bias[n])``, m: output pixels of members of one element.

    With ``grad`` (E·B, C_OUT), the gradient of the mean over pixels, it stores ``activation'(…) · grad / pixels``
    instead: what comes back through the mean and the activation.

    1. Find the output channels, the member and the tile of pixels of this block.
    2. Convolve.
    3. Add the bias, and apply the activation or its derivative.
    4. Store, along rows of the output. A tile that was read along columns is transposed first.
    """
    # 1. All channels of a tile, and then all members of an image, are neighbours: they find the image in the cache.
    BLOCK_M: tl.constexpr = BLOCK_B * BLOCK_I * BLOCK_J
    pid, channel_blocks = tl.program_id(0), tl.cdiv(C_OUT, BLOCK_N)
    n = pid % channel_blocks * BLOCK_N + tl.arange(0, BLOCK_N)
    row, tile = pid // channel_blocks % members * MEMBER_ROW, pid // channel_blocks // members
    e, code, source = tl.load(table + row), tl.load(table + row + 1), tl.load(table + row + 2)
    view, xb, xc, down, right = member_view(source, code, x, base, H, W, xb, xc, xh, xw, bb, bc, bh, bw, B, INDEX)
    is_transposed, tiles = code % 2 == 1, output_tiles(out_h, out_w, BLOCK_I, BLOCK_J)
    first = (tile // tiles).to(tl.int64) * BLOCK_B
    image, oy, ox, in_bounds = output_pixels(
        tile % tiles, is_transposed, B - first, out_h, out_w, BLOCK_B, BLOCK_I, BLOCK_J
    )  # [BLOCK_M] each # fmt: skip

    # 2. The product.
    acc = convolve(
        view + first * xb, image * xb, oy, ox, xc, down, right, H, W, weight, n, wn, wc, wh, ww,
        C, C_OUT, KERNEL_H, KERNEL_W, STRIDE_H, STRIDE_W, PAD_H, PAD_W, DILATION_H, DILATION_W,
        BY_CHANNELS, BY_PIXELS, DENSE, TYPE, PRECISION, BLOCK_M, BLOCK_N, BLOCK_K,
    )  # [BLOCK_M, BLOCK_N] # fmt: skip

    # 3. What is done to each value.
    if bias is not None:
        acc += tl.load(bias + n, mask=n < C_OUT, other=0).to(TYPE)[None, :]
    if grad is not None:
        tl.static_assert(BLOCK_B == 1)
        upstream = tl.load(grad + (e * B + first) * C_OUT + n, mask=n < C_OUT, other=0).to(TYPE)
        acc = activation_slope(acc, ACTIVATION) * (upstream / (out_h * out_w))[None, :]
    else:
        acc = activated(acc, ACTIVATION)
    value = acc.to(out.dtype.element_ty)

    # 4. The output is (E·B, C_OUT, out_h·out_w), or (E·B, out_h·out_w, C_OUT) if CHANNELS_LAST.
    size = out_h * out_w
    target = out + (e * B + first) * C_OUT * size
    n, oy, image = n.to(INDEX), oy.to(INDEX), image.to(INDEX)
    at = image * (C_OUT * size) + (oy * out_w + ox) * (C_OUT if CHANNELS_LAST else 1)
    if CHANNELS_LAST:
        tl.store(target + (at[:, None] + n[None, :]), value, mask=in_bounds[:, None] & (n < C_OUT)[None, :])
    else:
        value = tl.trans(value)  # [BLOCK_N, BLOCK_M]
        if is_transposed:
            value = tl.permute(tl.reshape(value, (BLOCK_N, BLOCK_B, BLOCK_I, BLOCK_J)), (0, 1, 3, 2))
            value = tl.reshape(value, (BLOCK_N, BLOCK_M))
            at = tl.reshape(tl.permute(tl.reshape(at, (BLOCK_B, BLOCK_I, BLOCK_J)), (0, 2, 1)), (BLOCK_M,))
            in_bounds = tl.permute(tl.reshape(in_bounds, (BLOCK_B, BLOCK_I, BLOCK_J)), (0, 2, 1))
            in_bounds = tl.reshape(in_bounds, (BLOCK_M,))
            mask = (n < C_OUT)[:, None] & in_bounds[None, :]
            tl.store(target + ((n * size)[:, None] + at[None, :]), value, mask=mask)
        else:
            mask = (n < C_OUT)[:, None] & in_bounds[None, :]
            tl.store(target + ((n * size)[:, None] + at[None, :]), value, mask=mask)


KERNEL = Kernel(_orbit_conv2d_kernel, fuse_multiply_add=True)


def orbit_conv2d(
    x: Tensor, weight: Tensor, bias: Tensor | None, table, stride, padding, dilation, padding_mode: str, activation: str
) -> Tensor:
    out = new_output(x, weight, order_of(table), stride, padding, dilation)
    convolve_orbit(out, None, x, weight, bias, table, stride, padding, dilation, padding_mode, activation)
    return out


def convolve_orbit(
    out: Tensor, grad: Tensor | None, x: Tensor, weight: Tensor, bias: Tensor | None,
    table, stride, padding, dilation, padding_mode: str, activation: str,
) -> None:  # fmt: skip
    """Fill ``out`` with the activated convolution; with ``grad`` (E·B, C_out), with the gradient before its mean."""
    if not out.numel():
        return
    bias = None if bias is None else bias.contiguous()
    precision = input_precision(x.dtype)
    options = (*stride, *padding, *dilation, not out.is_contiguous(), activation, precision)
    for batch in member_batches(tuple(table), x.shape[2] == x.shape[3], x.device):
        base = base_images(x, batch.bases, padding_mode)
        launch_key = (options, batch.count, bias is None, grad is None, *layout_key(x, base, weight))
        problem = partial(_problem, out, grad, x, base, weight, batch.count, options)
        KERNEL.launch(launch_key, (out, grad, x, base, weight, bias, batch.table), problem)
        del base, problem  # before the next batch is made


def _problem(out, grad, x, base, weight, members, options) -> Problem:
    *geometry, channels_last, activation, precision = options
    batch, (c_out, out_h, out_w) = x.shape[0], out.shape[1:]
    shape = min(power_of_two(batch), 128), out_h, out_w
    chosen = configs(x.dtype, weight, precision, shape, one_image=grad is not None)
    images = max(c.constants["BLOCK_B"] for c in chosen)
    constants = layer_constants(x, weight, geometry, activation, precision) | {
        "CHANNELS_LAST": channels_last,
        "INDEX": index_type(max(span(x, images), span(base, images), images * c_out * out_h * out_w)),
    }

    def grid(c: dict[str, int]) -> int:
        tiles = ceil_div(batch, c["BLOCK_B"]) * count_output_tiles(out_h, out_w, c)
        return tiles * members * ceil_div(c_out, c["BLOCK_N"])

    scalars = (batch, members, *x.shape[2:], out_h, out_w, *strides(x), *strides(base), *weight.stride())
    tuning_key = (x.dtype, weight.shape, *options, constants["BY_CHANNELS"], *shape, grad is None)
    return Problem(grid, scalars, constants, chosen, tuning_key)
