"""The input gradient of `orbit_conv2d`: a transposed convolution of every member's gradient, summed in one frame.

The image is cut into cells, whose sides are whole strides. All pixels of a cell are read by the same few outputs, each
pixel through weights of its own. So a row of the matrix product is one channel and one pixel of a cell, and a column
is a cell. The product is then dense whatever the stride, and it has enough rows for tensor cores even if an image has
three channels.
"""

from __future__ import annotations

import math

import torch
import triton
import triton.language as tl
from torch import Tensor

from .device.products import dot
from .device.sample import exact_view, inverse_code
from .host.convolve import GEOMETRY
from .host.launch import Config, Kernel, Problem
from .host.sizes import accumulator, ceil_div, index_type, power_of_two
from .host.spans import padded_span


@triton.jit
def output_steps(
    origin, down, right, PAD: tl.constexpr, EXTENT, STRIDE: tl.constexpr, CELL_H: tl.constexpr, CELL_W: tl.constexpr
):
    """For one output axis and the cell at the source's origin: (first_output, remainder, first_step, last_step).

    A pixel of the cell is read by the outputs first_output + step, for steps in [first_step, last_step). The kernel
    tap of a step is ``remainder + position of the pixel in the member − step · STRIDE``.

    (origin, down, right): the member as an exact view of one axis. EXTENT: the last tap, dilation included.
    """
    least = tl.minimum(down, 0) * (CELL_H - 1) + tl.minimum(right, 0) * (CELL_W - 1)
    most = tl.maximum(down, 0) * (CELL_H - 1) + tl.maximum(right, 0) * (CELL_W - 1)
    at = origin + least + PAD
    LIFT: tl.constexpr = CELL_H * CELL_W  # where the last cell is ragged, the position may be negative
    output = (at + LIFT * STRIDE) // STRIDE - LIFT
    rest = at - output * STRIDE
    return output, rest - least, 1 - (EXTENT - rest + STRIDE) // STRIDE, (rest + most - least) // STRIDE + 1


@triton.jit
def _orbit_conv2d_grad_input_kernel(
    out, grad, weight, members,
    count, B, C, H, W, out_h, out_w, gb, gc, gh, gw, wn, wc, wh, ww,
    KERNEL_H: tl.constexpr, KERNEL_W: tl.constexpr, STRIDE_H: tl.constexpr, STRIDE_W: tl.constexpr,
    PAD_H: tl.constexpr, PAD_W: tl.constexpr, DILATION_H: tl.constexpr, DILATION_W: tl.constexpr, C_OUT: tl.constexpr,
    CHANNELS_LAST: tl.constexpr, INDEX: tl.constexpr, TYPE: tl.constexpr, PRECISION: tl.constexpr,
    CELL_H: tl.constexpr, CELL_W: tl.constexpr,
    BLOCK_P: tl.constexpr, BLOCK_I: tl.constexpr, BLOCK_J: tl.constexpr, BLOCK_K: tl.constexpr,
):  # fmt: skip
    """``out[p, m] = Σ weight[p, (e, dy, dx, n)] · grad[(e, dy, dx, n), m]``.

    p: (channel, row, column within the cell); m: cell of one image; (dy, dx): step from the first output that reads a
    cell; n: output channel.

    1. Find the rows p and the cells m of this block.
    2. For each member, find the outputs that read the cells.
    3. For each step to an output and each block of output channels, multiply weights by gradients.
    4. Store the pixels of the cells.
    """
    # 1. Neighbours in the launch read the same gradient.
    tiles_h = tl.cdiv(tl.cdiv(H, CELL_H), BLOCK_I)
    tiles_w = tl.cdiv(tl.cdiv(W, CELL_W), BLOCK_J)
    p_blocks = tl.cdiv(C * (CELL_H * CELL_W), BLOCK_P)
    p = tl.program_id(0) % p_blocks * BLOCK_P + tl.arange(0, BLOCK_P)
    tile = tl.program_id(0) // p_blocks
    m = tl.arange(0, BLOCK_I * BLOCK_J)
    u = tile // tiles_w % tiles_h * BLOCK_I + m // BLOCK_J
    v = tile % tiles_w * BLOCK_J + m % BLOCK_J
    b = (tile // (tiles_w * tiles_h)).to(tl.int64)
    c = p // (CELL_H * CELL_W)
    cell_i = p // CELL_W % CELL_H
    cell_j = p % CELL_W
    p_in_bounds = c < C
    weight_p = c.to(INDEX) * wc
    N_BLOCKS: tl.constexpr = (C_OUT + BLOCK_K - 1) // BLOCK_K
    EXTENT_H: tl.constexpr = (KERNEL_H - 1) * DILATION_H
    EXTENT_W: tl.constexpr = (KERNEL_W - 1) * DILATION_W
    acc = tl.zeros((BLOCK_P, BLOCK_I * BLOCK_J), TYPE)
    for member in range(count):
        # 2. The member's inverse, as a view of the output that has no padding and stride 1.
        element = tl.load(members + 2 * member).to(tl.int64)
        code = tl.load(members + 2 * member + 1)
        inverse = inverse_code(code)
        i0, i_down, i_right = exact_view(inverse, H, W, 1, 0)
        j0, j_down, j_right = exact_view(inverse, H, W, 0, 1)
        top, i_rest, first_y, last_y = output_steps(i0, i_down, i_right, PAD_H, EXTENT_H, STRIDE_H, CELL_H, CELL_W)
        left, j_rest, first_x, last_x = output_steps(j0, j_down, j_right, PAD_W, EXTENT_W, STRIDE_W, CELL_H, CELL_W)
        row = top + u * (i_down * (CELL_H // STRIDE_H)) + v * (i_right * (CELL_W // STRIDE_H))
        column = left + u * (j_down * (CELL_H // STRIDE_W)) + v * (j_right * (CELL_W // STRIDE_W))
        y_rest = i_rest + cell_i * i_down + cell_j * i_right
        x_rest = j_rest + cell_i * j_down + cell_j * j_right
        grad_e = grad + (element * B + b) * gb
        # 3. The product.
        for dy in range(first_y, last_y):
            y = row + dy
            y_in_bounds = (y >= 0) & (y < out_h)
            ky = y_rest - dy * STRIDE_H
            ky_counts = p_in_bounds & (ky >= 0) & (ky <= EXTENT_H) & (ky % DILATION_H == 0)
            weight_y = weight_p + (ky // DILATION_H).to(INDEX) * wh
            grad_y = y.to(INDEX) * gh
            for step in range((last_x - first_x) * N_BLOCKS):
                dx = first_x + step // N_BLOCKS
                n = step % N_BLOCKS * BLOCK_K + tl.arange(0, BLOCK_K)
                n_in_bounds = n < C_OUT
                x = column + dx
                m_in_bounds = y_in_bounds & (x >= 0) & (x < out_w)
                kx = x_rest - dx * STRIDE_W
                k_counts = ky_counts & (kx >= 0) & (kx <= EXTENT_W) & (kx % DILATION_W == 0)
                weight_k = weight_y + (kx // DILATION_W).to(INDEX) * ww
                mask = k_counts[:, None] & n_in_bounds[None, :]
                w = tl.load(weight + (weight_k[:, None] + (n.to(INDEX) * wn)[None, :]), mask=mask, other=0.0)
                grad_m = grad_y + x * gw
                grad_n = n.to(INDEX) * gc
                if CHANNELS_LAST:
                    mask = m_in_bounds[:, None] & n_in_bounds[None, :]
                    g = tl.trans(tl.load(grad_e + (grad_m[:, None] + grad_n[None, :]), mask=mask, other=0.0))
                else:
                    mask = m_in_bounds[None, :] & n_in_bounds[:, None]
                    g = tl.load(grad_e + (grad_m[None, :] + grad_n[:, None]), mask=mask, other=0.0)
                acc = dot(w, g, acc, TYPE, PRECISION)  # [BLOCK_P, BLOCK_K] · [BLOCK_K, BLOCK_I·BLOCK_J]

    # 4. The pixels.
    i = u[None, :] * CELL_H + cell_i[:, None]
    j = v[None, :] * CELL_W + cell_j[:, None]
    at = (c.to(INDEX)[:, None] * H + i) * W + j
    tl.store(out + b * C * H * W + at, acc.to(out.dtype.element_ty), mask=p_in_bounds[:, None] & (i < H) & (j < W))


KERNEL = Kernel(_orbit_conv2d_grad_input_kernel, fuse_multiply_add=True)


#: Rows of the product that a cell should have, of the 16 that tensor cores take at a time: most of them.
MIN_ROWS = 12


def cells(channels: int, stride: tuple[int, int], turned: bool) -> list[tuple[int, int]]:
    """Two sizes of cells, the smaller first. A cell is whole strides whichever way a member is turned.

    The smaller has enough pixels for MIN_ROWS rows of the product.
    """
    if turned:
        stride = (math.lcm(*stride),) * 2
    scale = 1
    while channels * scale * scale * stride[0] * stride[1] < MIN_ROWS:
        scale *= 2
    return [(stride[0] * s, stride[1] * s) for s in (scale, 2 * scale)]


def configs(
    channels: int, stride: tuple[int, int], turned: bool, outputs: int, dtype: torch.dtype, precision: str
) -> list[Config]:
    small, large = cells(channels, stride, turned)

    def config(
        cell: tuple[int, int], p: int, i: int, j: int, k: int, warps=4, stages=2, registers: int | None = None
    ) -> Config:
        sizes = {"CELL_H": cell[0], "CELL_W": cell[1], "BLOCK_P": p, "BLOCK_I": i, "BLOCK_J": j, "BLOCK_K": k}
        return Config(sizes, warps, stages, registers)

    rows = channels * small[0] * small[1]
    if dtype == torch.float64:  # up to 32 rows: Triton 3.6 fails to compile larger products of float64 for sm_100
        return [config(small, 16, 4, 8, 16, registers=255)]
    if dtype == torch.float32 and precision == "ieee":
        return [config(small, 16 if rows <= 16 else 32, 4, 8, 16)]
    depth = min(max(power_of_two(outputs), 16), 32)
    if rows <= 32:
        height = 16 if rows <= 16 else 32
        tall = [config(large, 64, 8, 8, depth, depth // 4, registers=255)] if rows <= 16 else []
        low = config(small, height, 8, 8, depth, registers=128 if depth == 16 else None)
        return [config(small, height, 8, 16, depth, depth // 4), *tall, low]
    if rows <= 64:
        return [config(small, 64, 8, 16, depth, 8, 3 if dtype.itemsize == 2 else 2), config(small, 64, 8, 8, depth)]
    return [config(small, 128, 8, 8, depth, 8), config(small, 64, 8, 16, depth, 8), config(small, 64, 8, 8, depth)]


def grad_input(
    grad: Tensor, out: Tensor, weight: Tensor, members: Tensor, geometry: tuple, square: bool, precision: str
) -> Tensor:
    """Fill ``out`` (B, C, H, W), contiguous, with the sum over ``members``, in the frame of the image they permute.

    ``members``: (count, 2) int32 of element and exact code. ``geometry``: kernel size, stride, padding and dilation.
    """
    batch, channels, height, width = out.shape
    outputs, out_h, out_w = grad.shape[1:]
    count = members.shape[0]

    def problem() -> Problem:
        scalars = (count, batch, channels, height, width, out_h, out_w, *grad.stride(), *weight.stride())
        constants = dict(zip(GEOMETRY, geometry, strict=True)) | {
            "C_OUT": outputs,
            "CHANNELS_LAST": grad.stride(1) == 1 and outputs > 1,
            "INDEX": index_type(max(padded_span(t, geometry) for t in (grad, out, weight))),
            "TYPE": accumulator(grad.dtype),
            "PRECISION": precision,
        }

        def grid(constants: dict[str, int]) -> int:
            cell = constants["CELL_H"], constants["CELL_W"]
            tiles = ceil_div(ceil_div(height, cell[0]), constants["BLOCK_I"])
            tiles *= ceil_div(ceil_div(width, cell[1]), constants["BLOCK_J"])
            return batch * tiles * ceil_div(channels * cell[0] * cell[1], constants["BLOCK_P"])

        dtypes, layout = (grad.dtype, out.dtype), (constants["CHANNELS_LAST"], constants["INDEX"])
        tuning_key = channels, outputs, geometry, square, *dtypes, precision, *layout
        listed = configs(channels, geometry[2:4], square, outputs, grad.dtype, precision)
        return Problem(grid, scalars, constants, listed, tuning_key)

    layout = (grad.shape, grad.stride(), grad.dtype, out.shape, out.dtype, weight.stride())
    KERNEL.launch((*layout, count, geometry, precision), (out, grad, weight, members), problem)
    return out
