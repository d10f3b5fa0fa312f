"""The weight and bias gradients of `orbit_conv2d`: the gradient times patches of the members, summed over pixels."""

from __future__ import annotations

from functools import lru_cache

import torch
import triton
import triton.language as tl
from torch import Tensor

from .device.convolve import MEMBER_ROW
from .device.products import dot
from .device.sample import exact_view
from .host.convolve import GEOMETRY
from .host.launch import Config, Kernel, Problem, processors
from .host.members import reads_by_channels
from .host.sizes import accumulator, ceil_div, index_type
from .host.spans import padded_span


@triton.jit
def _orbit_conv2d_grad_weight_kernel(
    partial, partial_bias, grad, source, members,
    count, splits, B, C, H, W, C_out, out_h, out_w, gb, gc, gh, gw, ss, sb, sc, sh, sw,
    KERNEL_H: tl.constexpr, KERNEL_W: tl.constexpr, STRIDE_H: tl.constexpr, STRIDE_W: tl.constexpr,
    PAD_H: tl.constexpr, PAD_W: tl.constexpr, DILATION_H: tl.constexpr, DILATION_W: tl.constexpr,
    CHANNELS_LAST: tl.constexpr, BY_CHANNELS: tl.constexpr, INDEX: tl.constexpr, TYPE: tl.constexpr,
    PRECISION: tl.constexpr,
    BLOCK_N: tl.constexpr, BLOCK_K: tl.constexpr, BLOCK_I: tl.constexpr, BLOCK_J: tl.constexpr,
):  # fmt: skip
    """``partial[split, n, k] = Σ_m grad[m, n] · patch[m, k]`` over a run of tiles of pixels.

    m: (image, row, column) of one member's output; n: output channel; k: (channel, row, column) of the kernel, or
    (row, column, channel) if BY_CHANNELS.

    1. Find the weights (n, k) and the run of tiles of this block.
    2. For each member, make it a view of its image.
    3. For each tile of the member, load the gradient and the patches, and multiply.
    4. Store the sums.
    """
    # 1. Neighbours in the launch read the same run.
    K = C * (KERNEL_H * KERNEL_W)
    k_blocks = tl.cdiv(K, BLOCK_K)
    n_blocks = tl.cdiv(C_out, BLOCK_N)
    block = tl.program_id(0) % (k_blocks * n_blocks)
    split = (tl.program_id(0) // (k_blocks * n_blocks)).to(tl.int64)
    k_block = block % k_blocks
    n = block // k_blocks * BLOCK_N + tl.arange(0, BLOCK_N)
    k = k_block * BLOCK_K + tl.arange(0, BLOCK_K)
    n_in_bounds = n < C_out
    k_in_bounds = k < K
    if BY_CHANNELS:
        c, ky, kx = k % C, k // C // KERNEL_W, k // C % KERNEL_W
    else:
        c, ky, kx = k // (KERNEL_H * KERNEL_W), k // KERNEL_W % KERNEL_H, k % KERNEL_W
    at_k = (c * KERNEL_H + ky) * KERNEL_W + kx
    ky *= DILATION_H
    kx *= DILATION_W

    m = tl.arange(0, BLOCK_I * BLOCK_J)
    tiles_w = tl.cdiv(out_w, BLOCK_J)
    tiles_image = tl.cdiv(out_h, BLOCK_I) * tiles_w
    tiles = B * tiles_image
    start = (split * (tiles * count) // splits).to(tl.int32)
    end = ((split + 1) * (tiles * count) // splits).to(tl.int32)
    acc = tl.zeros((BLOCK_N, BLOCK_K), TYPE)
    bias = tl.zeros((BLOCK_N,), TYPE)
    for member in range(start // tiles, tl.cdiv(end, tiles)):
        # 2. The view.
        entry = members + MEMBER_ROW * member
        element = tl.load(entry).to(tl.int64)
        code = tl.load(entry + 1)
        image = tl.load(entry + 2).to(tl.int64)
        origin, down, right = exact_view(code, H, W, sh, sw)
        patch_k = c.to(INDEX) * sc + ky * down + kx * right
        for tile in range(tl.maximum(start - tiles * member, 0), tl.minimum(end - tiles * member, tiles)):
            # 3. The gradient [BLOCK_N, BLOCK_I·BLOCK_J], and the patches [BLOCK_I·BLOCK_J, BLOCK_K].
            b = (tile // tiles_image).to(tl.int64)
            row = tile % tiles_image // tiles_w * BLOCK_I + m // BLOCK_J
            column = tile % tiles_w * BLOCK_J + m % BLOCK_J
            m_in_bounds = (row < out_h) & (column < out_w)
            grad_b = grad + (element * B + b) * gb
            grad_m = row.to(INDEX) * gh + column * gw
            grad_n = n.to(INDEX) * gc
            if CHANNELS_LAST:
                mask = m_in_bounds[:, None] & n_in_bounds[None, :]
                g = tl.trans(tl.load(grad_b + (grad_m[:, None] + grad_n[None, :]), mask=mask, other=0.0))
            else:
                mask = n_in_bounds[:, None] & m_in_bounds[None, :]
                g = tl.load(grad_b + (grad_n[:, None] + grad_m[None, :]), mask=mask, other=0.0)
            i = row * STRIDE_H - PAD_H
            j = column * STRIDE_W - PAD_W
            patch_m = i.to(INDEX) * down + j * right
            mask = m_in_bounds[:, None] & k_in_bounds[None, :]
            if PAD_H > 0:
                y = i[:, None] + ky[None, :]
                mask = mask & (y >= 0) & (y < H)
            if PAD_W > 0:
                x = j[:, None] + kx[None, :]
                mask = mask & (x >= 0) & (x < W)
            patch_b = source + (image * ss + b * sb + origin)
            patch = tl.load(patch_b + (patch_m[:, None] + patch_k[None, :]), mask=mask, other=0.0)
            acc = dot(g, patch, acc, TYPE, PRECISION)
            if partial_bias is not None:  # noqa: SIM102
                if k_block == 0:
                    bias += tl.sum(g.to(TYPE), 1)

    # 4. The sums. Weights are stored in the order (channel, row, column).
    at = split * C_out + n
    tl.store(partial + at[:, None] * K + at_k[None, :], acc, mask=n_in_bounds[:, None] & k_in_bounds[None, :])
    if partial_bias is not None:
        # By a mask: a branch would take up to 50 registers more, and spill some (Triton 3.6, sm_80).
        tl.store(partial_bias + at, bias, mask=n < tl.where(k_block == 0, C_out, 0))


KERNEL = Kernel(_orbit_conv2d_grad_weight_kernel, fuse_multiply_add=True)

#: Blocks that each multiprocessor should have. Not measured.
BLOCKS = 4

#: The most values of partial sums: 32 MiB of float32.
PARTIALS = 1 << 23


@lru_cache(maxsize=1024)
def configs(outputs: int, weights: int, out_h: int, out_w: int, dtype: torch.dtype, precision: str) -> list[Config]:
    """``outputs``: rows of the product; ``weights``: its columns, of one output channel."""

    def config(n: int, k: int, pixels: int, warps: int = 4, stages: int = 2) -> Config:
        # Tiles from the squarest to the flattest: the first of those that have the fewest pixels beyond the edge.
        widths = [1 << i for i in range(2, pixels.bit_length()) if (1 << i) ** 2 >= pixels]
        width = min(widths, key=lambda w: ceil_div(out_w, w) * ceil_div(out_h, pixels // w))
        sizes = {"BLOCK_N": n, "BLOCK_K": k, "BLOCK_I": pixels // width, "BLOCK_J": width}
        # Left to itself, ptxas would spill a few registers to fit another block.
        return Config(sizes, warps, stages, registers=255 if n * k >= 4096 or dtype.itemsize == 2 else None)

    if dtype == torch.float64:  # up to 32 rows: Triton 3.6 fails to compile larger products of float64 for sm_100
        return [config(16, 32, 16), config(32, 32, 16)] if outputs > 16 else [config(16, 32, 16)]
    if dtype == torch.float32 and precision == "ieee":
        return [config(16, 32, 32), config(32, 64, 16)] if outputs > 16 else [config(16, 32, 32)]
    if outputs <= 16:
        return [config(16, 64, 32, 4, 3), config(16, 32, 32, 4, 3), config(16, 128, 32, 8)]
    if outputs <= 32:
        return [config(32, 64, 32, 4, 3), config(32, 128, 32, 8)]
    if outputs <= 64 or weights <= 64:
        return [config(64, 64, 32, 8, 3), config(64, 128, 32, 8)]
    return [config(128, 64, 32, 8, 3), config(64, 128, 32, 8), config(64, 64, 32, 8)]


def blocks(shape: tuple[int, int], constants: dict[str, int]) -> int:
    """Blocks of one split."""
    return ceil_div(shape[0], constants["BLOCK_N"]) * ceil_div(shape[1], constants["BLOCK_K"])


def splits(shape: tuple[int, int], pixels: int, config: Config, device: torch.device) -> int:
    """The number of runs that the sum is cut into.

    ``config`` is the likeliest configuration, so that the number is the same whatever is tuned.
    """
    tiles = ceil_div(pixels, config.constants["BLOCK_I"] * config.constants["BLOCK_J"])
    wanted = ceil_div(BLOCKS * processors(device), blocks(shape, config.constants))
    return max(min(wanted, tiles, PARTIALS // (shape[0] * shape[1])), 1)


def grad_weight(
    grad: Tensor, source: Tensor, members: Tensor, geometry: tuple, bias: bool, precision: str
) -> tuple[Tensor, Tensor | None]:
    """Summed over some members, (C_out, C·kH·kW) and (C_out,), in the type that is summed in.

    ``source``: (images, B, C, H, W); ``members``: (count, 3) int32 of element, exact code and image; ``geometry``:
    kernel size, stride, padding and dilation.
    """
    _, batch, channels, height, width = source.shape
    outputs, out_h, out_w = grad.shape[1:]
    kernel_h, kernel_w = geometry[:2]
    count, shape = members.shape[0], (outputs, channels * kernel_h * kernel_w)
    likely = configs(*shape, out_h, out_w, source.dtype, precision)
    runs = splits(shape, count * batch * out_h * out_w, likely[0], source.device)
    wide = torch.promote_types(source.dtype, torch.float32)
    partial = grad.new_empty((runs, *shape), dtype=wide)
    partial_bias = grad.new_empty((runs, outputs), dtype=wide) if bias else None

    def problem() -> Problem:
        scalars = (count, runs, batch, channels, height, width, outputs, out_h, out_w, *grad.stride(), *source.stride())
        constants = dict(zip(GEOMETRY, geometry, strict=True)) | {
            "CHANNELS_LAST": grad.stride(1) == 1 and outputs > 1,
            "BY_CHANNELS": reads_by_channels(source[0]),
            "INDEX": index_type(max(padded_span(grad, geometry), padded_span(source, geometry))),
            "TYPE": accumulator(source.dtype),
            "PRECISION": precision,
        }
        layout = constants["CHANNELS_LAST"], constants["BY_CHANNELS"], constants["INDEX"]
        tile = likely[0].constants["BLOCK_J"]
        tuning_key = shape, geometry, source.dtype, precision, bias, tile, *layout
        return Problem(lambda c: runs * blocks(shape, c), scalars, constants, likely, tuning_key)

    layout = (grad.shape, grad.stride(), source.shape, source.stride(), source.dtype)
    KERNEL.launch((*layout, count, geometry, bias, precision), (partial, partial_bias, grad, source, members), problem)
    return partial.sum(0), None if partial_bias is None else partial_bias.sum(0)
