"""The input gradient of `orbit_conv2d`: a transposed convolution of every member's gradient, summed in one frame.

Pixels are taken by cells of whole strides, whose pixels are rows of the product beside the channels: all of them read
the same few outputs, each by weights of its own. So a product is dense whatever the stride, and wide enough for
tensor cores where an image has three channels.
"""

from __future__ import annotations

import math

import torch
import triton
import triton.language as tl
from torch import Tensor

from ._launch import Config, Kernel, Problem, accumulator, ceil_div, power_of_two
from ._sample import exact_view
from .orbit_conv2d_grad_weight import span

#: The interpreter multiplies bfloat16 as if it were integers.
INTERPRETED = tl.constexpr(triton.knobs.runtime.interpret)


@triton.jit
def _taps(
    origin, down, right, PAD: tl.constexpr, SIZE, STRIDE: tl.constexpr, CELL_H: tl.constexpr, CELL_W: tl.constexpr
):
    """Along one axis of a member, for a cell at the source's origin: the output at which its least position lies, the
    rest, the least position of a pixel relative to the cell's first, and the first and last step to an output."""
    least = tl.minimum(down, 0) * (CELL_H - 1) + tl.minimum(right, 0) * (CELL_W - 1)
    most = tl.maximum(down, 0) * (CELL_H - 1) + tl.maximum(right, 0) * (CELL_W - 1)
    at = origin + least + PAD
    LIFT: tl.constexpr = CELL_H * CELL_W  # the position may be negative, where the last cell is ragged
    output = (at + LIFT * STRIDE) // STRIDE - LIFT
    rest = at - output * STRIDE
    return output, rest - least, 1 - (SIZE - rest + STRIDE) // STRIDE, (rest + most - least) // STRIDE + 1


@triton.jit
def _orbit_conv2d_grad_input_kernel(
    out, grad, weight, members,
    count, B, C, H, W, out_h, out_w, gb, gc, gh, gw, wn, wc, wh, ww,
    KH: tl.constexpr, KW: tl.constexpr, STRIDE_H: tl.constexpr, STRIDE_W: tl.constexpr,
    PAD_H: tl.constexpr, PAD_W: tl.constexpr, DIL_H: tl.constexpr, DIL_W: tl.constexpr, C_OUT: tl.constexpr,
    CHANNELS_LAST: tl.constexpr, INDEX: tl.constexpr, TYPE: tl.constexpr, PRECISION: tl.constexpr,
    CELL_H: tl.constexpr, CELL_W: tl.constexpr,
    BLOCK_P: tl.constexpr, BLOCK_I: tl.constexpr, BLOCK_J: tl.constexpr, BLOCK_K: tl.constexpr,
):  # fmt: skip
    # out[p, m] = Σ weight[p, (e, dy, dx, n)]·grad[(e, dy, dx, n), m]; p: (channel, row, column within the cell),
    # m: cell of one image, (dy, dx): step from the first output that a cell reads, n: output channel.
    tiles_h = tl.cdiv(tl.cdiv(H, CELL_H), BLOCK_I)
    tiles_w = tl.cdiv(tl.cdiv(W, CELL_W), BLOCK_J)
    p_blocks = tl.cdiv(C * (CELL_H * CELL_W), BLOCK_P)
    # Neighbours in the launch read the same gradient.
    p = tl.program_id(0) % p_blocks * BLOCK_P + tl.arange(0, BLOCK_P)
    tile = tl.program_id(0) // p_blocks
    m = tl.arange(0, BLOCK_I * BLOCK_J)
    u = tile // tiles_w % tiles_h * BLOCK_I + m // BLOCK_J
    v = tile % tiles_w * BLOCK_J + m % BLOCK_J
    b = (tile // (tiles_w * tiles_h)).to(tl.int64)
    c = p // (CELL_H * CELL_W)
    fi = p // CELL_W % CELL_H
    fj = p % CELL_W
    live_p = c < C
    weight_p = c.to(INDEX) * wc
    N_BLOCKS: tl.constexpr = (C_OUT + BLOCK_K - 1) // BLOCK_K
    HIGH: tl.constexpr = (KH - 1) * DIL_H
    WIDE: tl.constexpr = (KW - 1) * DIL_W
    acc = tl.zeros((BLOCK_P, BLOCK_I * BLOCK_J), TYPE)
    for member in range(count):
        element = tl.load(members + 2 * member).to(tl.int64)
        code = tl.load(members + 2 * member + 1)
        inverse = tl.where(code < 4, -code & 3, code)
        i0, i_down, i_right = exact_view(inverse, H, W, 1, 0)
        j0, j_down, j_right = exact_view(inverse, H, W, 0, 1)
        top, i_rest, first_y, last_y = _taps(i0, i_down, i_right, PAD_H, HIGH, STRIDE_H, CELL_H, CELL_W)
        left, j_rest, first_x, last_x = _taps(j0, j_down, j_right, PAD_W, WIDE, STRIDE_W, CELL_H, CELL_W)
        row = top + u * (i_down * (CELL_H // STRIDE_H)) + v * (i_right * (CELL_W // STRIDE_H))
        column = left + u * (j_down * (CELL_H // STRIDE_W)) + v * (j_right * (CELL_W // STRIDE_W))
        y_rest = i_rest + fi * i_down + fj * i_right
        x_rest = j_rest + fi * j_down + fj * j_right
        grad_e = grad + (element * B + b) * gb
        for dy in range(first_y, last_y):
            y = row + dy
            live_y = (y >= 0) & (y < out_h)
            ky = y_rest - dy * STRIDE_H
            live_ky = live_p & (ky >= 0) & (ky <= HIGH) & (ky % DIL_H == 0)
            weight_y = weight_p + (ky // DIL_H).to(INDEX) * wh
            grad_y = y.to(INDEX) * gh
            for step in range((last_x - first_x) * N_BLOCKS):
                dx = first_x + step // N_BLOCKS
                n = step % N_BLOCKS * BLOCK_K + tl.arange(0, BLOCK_K)
                live_n = n < C_OUT
                x = column + dx
                live_m = live_y & (x >= 0) & (x < out_w)
                kx = x_rest - dx * STRIDE_W
                live_k = live_ky & (kx >= 0) & (kx <= WIDE) & (kx % DIL_W == 0)
                weight_k = weight_y + (kx // DIL_W).to(INDEX) * ww
                mask = live_k[:, None] & live_n[None, :]
                w = tl.load(weight + (weight_k[:, None] + (n.to(INDEX) * wn)[None, :]), mask=mask, other=0.0)
                grad_m = grad_y + x * gw
                grad_n = n.to(INDEX) * gc
                if CHANNELS_LAST:
                    mask = live_m[:, None] & live_n[None, :]
                    g = tl.trans(tl.load(grad_e + (grad_m[:, None] + grad_n[None, :]), mask=mask, other=0.0))
                else:
                    mask = live_m[None, :] & live_n[:, None]
                    g = tl.load(grad_e + (grad_m[None, :] + grad_n[:, None]), mask=mask, other=0.0)
                if INTERPRETED:
                    w, g = w.to(TYPE), g.to(TYPE)
                acc = tl.dot(w, g, acc, input_precision=PRECISION, out_dtype=TYPE)
    i = u[None, :] * CELL_H + fi[:, None]
    j = v[None, :] * CELL_W + fj[:, None]
    at = (c.to(INDEX)[:, None] * H + i) * W + j
    tl.store(out + b * C * H * W + at, acc.to(out.dtype.element_ty), mask=live_p[:, None] & (i < H) & (j < W))


KERNEL = Kernel(_orbit_conv2d_grad_input_kernel, fuse_multiply_add=True)


def cells(channels: int, stride: tuple[int, int], turned: bool) -> list[tuple[int, int]]:
    """Sizes of cells, whole strides whichever way a member is turned, least first: enough pixels for 12 rows, more."""
    if turned:
        stride = (math.lcm(*stride),) * 2
    scale = 1
    while channels * scale * scale * stride[0] * stride[1] < 12:
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
        return [config(small, 16, 4, 8, 16, registers=128)]
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
    grad: Tensor, out: Tensor, weight: Tensor, members: Tensor, options: tuple, square: bool, precision: str
) -> Tensor:
    """Into ``out`` (B, C, H, W), contiguous: the sum over ``members``, (count, 2) int32 of element and exact code, all
    in the frame of the image that they are permutations of."""
    batch, channels, height, width = out.shape
    outputs, out_h, out_w = grad.shape[1:]
    count = members.shape[0]

    def problem() -> Problem:
        scalars = (count, batch, channels, height, width, out_h, out_w, *grad.stride(), *weight.stride())
        wide = max(span(grad, options), span(out, options), span(weight, options)) >= 1 << 31
        names = ("KH", "KW", "STRIDE_H", "STRIDE_W", "PAD_H", "PAD_W", "DIL_H", "DIL_W")
        constants = dict(zip(names, options, strict=True)) | {
            "C_OUT": outputs,
            "CHANNELS_LAST": grad.stride(1) == 1 and outputs > 1,
            "INDEX": tl.int64 if wide else tl.int32,
            "TYPE": accumulator(grad.dtype),
            "PRECISION": precision,
        }

        def grid(constants: dict[str, int]) -> int:
            cell = constants["CELL_H"], constants["CELL_W"]
            tiles = ceil_div(ceil_div(height, cell[0]), constants["BLOCK_I"])
            tiles *= ceil_div(ceil_div(width, cell[1]), constants["BLOCK_J"])
            return batch * tiles * ceil_div(channels * cell[0] * cell[1], constants["BLOCK_P"])

        similar = (
            channels,
            outputs,
            options,
            square,
            grad.dtype,
            out.dtype,
            precision,
            constants["CHANNELS_LAST"],
            wide,
        )
        listed = configs(channels, options[2:4], square, outputs, grad.dtype, precision)
        return Problem(grid, scalars, constants, listed, similar)

    key = (grad.shape, grad.stride(), grad.dtype, out.shape, out.dtype, weight.stride(), count, options, precision)
    KERNEL.launch(key, (out, grad, weight, members), problem)
    return out
