"""`orbit_conv2d`: an implicit matrix product whose rows are read from exact views of x, with the activation on top."""

from __future__ import annotations

from functools import lru_cache, partial

import torch
import triton
import triton.language as tl
from torch import Tensor
from torch._prims_common import suggest_memory_format
from triton.runtime import driver

from ..backends.selection import allows_tf32
from ._convolve import activated, convolve, member, slope, tile_count, tile_pixels
from ._launch import INTERPRETED, Config, Kernel, Problem, accumulator, ceil_div, power_of_two
from ._members import base_images, by_channels, groups_of_members

#: From this horizontal stride on, neighbouring outputs share no line of memory, and threads read along the patch.
FAR = 8


@triton.jit
def _orbit_conv2d_kernel(
    out, grad, x, base, weight, bias, table,
    B, members, H, W, OH, OW, xb, xc, xh, xw, bb, bc, bh, bw, wn, wc, wh, ww,
    C: tl.constexpr, C_OUT: tl.constexpr, KH: tl.constexpr, KW: tl.constexpr,
    SH: tl.constexpr, SW: tl.constexpr, PH: tl.constexpr, PW: tl.constexpr, DH: tl.constexpr, DW: tl.constexpr,
    BY_CHANNELS: tl.constexpr, BY_PIXELS: tl.constexpr, DENSE: tl.constexpr, LAST: tl.constexpr, WIDE: tl.constexpr,
    ACTIVATION: tl.constexpr, TYPE: tl.constexpr, TF32: tl.constexpr,
    TB: tl.constexpr, TY: tl.constexpr, TX: tl.constexpr, N: tl.constexpr, K: tl.constexpr,
):  # fmt: skip
    # All channels of a tile, and then all members of an image, are neighbours: they find it in the cache.
    M: tl.constexpr = TB * TY * TX
    pid, blocks = tl.program_id(0), tl.cdiv(C_OUT, N)
    n = pid % blocks * N + tl.arange(0, N)
    row, tile = pid // blocks % members * 3, pid // blocks // members
    e, code, source = tl.load(table + row), tl.load(table + row + 1), tl.load(table + row + 2)
    view, xb, xc, down, right = member(source, code, x, base, H, W, xb, xc, xh, xw, bb, bc, bh, bw, B, WIDE)
    lies, tiles = code % 2 == 1, tile_count(OH, OW, TY, TX)
    first = (tile // tiles).to(tl.int64) * TB
    image, oy, ox, there = tile_pixels(tile % tiles, lies, B - first, OH, OW, TB, TY, TX)
    acc = convolve(
        view + first * xb, image * xb, oy, ox, xc, down, right, H, W, weight, n, wn, wc, wh, ww,
        C, C_OUT, KH, KW, SH, SW, PH, PW, DH, DW, BY_CHANNELS, BY_PIXELS, DENSE, TYPE, TF32, M, N, K,
    )  # fmt: skip
    if bias is not None:
        acc += tl.load(bias + n, mask=n < C_OUT, other=0).to(TYPE)[None, :]
    if grad is not None:
        tl.static_assert(TB == 1)
        upstream = tl.load(grad + (e * B + first) * C_OUT + n, mask=n < C_OUT, other=0).to(TYPE)
        acc = slope(acc, ACTIVATION) * (upstream / (OH * OW))[None, :]
    else:
        acc = activated(acc, ACTIVATION)
    value = acc.to(out.dtype.element_ty)
    size = OH * OW
    target = out + (e * B + first) * C_OUT * size
    if WIDE:
        n, oy, image = n.to(tl.int64), oy.to(tl.int64), image.to(tl.int64)
    at = image * (C_OUT * size) + (oy * OW + ox) * (C_OUT if LAST else 1)
    if LAST:
        tl.store(target + (at[:, None] + n[None, :]), value, mask=there[:, None] & (n < C_OUT)[None, :])
    else:
        value = tl.trans(value)
        if lies:  # what was read along columns is written along rows
            value = tl.reshape(tl.permute(tl.reshape(value, (N, TB, TY, TX)), (0, 1, 3, 2)), (N, M))
            at = tl.reshape(tl.permute(tl.reshape(at, (TB, TY, TX)), (0, 2, 1)), (M,))
            there = tl.reshape(tl.permute(tl.reshape(there, (TB, TY, TX)), (0, 2, 1)), (M,))
            mask = (n < C_OUT)[:, None] & there[None, :]
            tl.store(target + ((n * size)[:, None] + at[None, :]), value, mask=mask)
        else:
            mask = (n < C_OUT)[:, None] & there[None, :]
            tl.store(target + ((n * size)[:, None] + at[None, :]), value, mask=mask)


KERNEL = Kernel(_orbit_conv2d_kernel, fuse_multiply_add=True)


def orbit_conv2d(
    x: Tensor, weight: Tensor, bias: Tensor | None, table, stride, padding, dilation, padding_mode: str, activation: str
) -> Tensor:
    out = new_output(x, weight, len(table) // 5, stride, padding, dilation)
    convolve_orbit(out, None, x, weight, bias, table, stride, padding, dilation, padding_mode, activation)
    return out


def output_size(x: Tensor, weight: Tensor, stride, padding, dilation) -> tuple[int, int]:
    return tuple(
        (n + 2 * p - d * (k - 1) - 1) // s + 1
        for n, k, s, p, d in zip(x.shape[2:], weight.shape[2:], stride, padding, dilation, strict=True)
    )


def _channels_last(t: Tensor) -> bool:
    """As ``suggest_memory_format`` has it, which takes microseconds."""
    return not t.is_contiguous() and suggest_memory_format(t) == torch.channels_last


def new_output(x: Tensor, weight: Tensor, order: int, stride, padding, dilation) -> Tensor:
    """Uninitialized, (E·B, C_out, H', W'); channels_last if either operand is."""
    last = _channels_last(x) or _channels_last(weight)
    memory_format = torch.channels_last if last else torch.contiguous_format
    shape = (order * x.shape[0], weight.shape[0], *output_size(x, weight, stride, padding, dilation))
    return torch.empty(shape, dtype=x.dtype, device=x.device, memory_format=memory_format)


def convolve_orbit(
    out: Tensor, grad: Tensor | None, x: Tensor, weight: Tensor, bias: Tensor | None,
    table, stride, padding, dilation, padding_mode: str, activation: str,
) -> None:  # fmt: skip
    """Fills ``out``: with ``grad`` (E·B, C_out) of the mean over pixels, by what comes back through the activation."""
    if not out.numel():
        return
    bias = None if bias is None else bias.contiguous()
    options = (*stride, *padding, *dilation, not out.is_contiguous(), activation, allows_tf32(x.dtype))
    for group in groups_of_members(tuple(table), x.shape[2] == x.shape[3], x.device):
        base = base_images(x, group.bases, padding_mode)
        key = (options, group.count, bias is None, grad is None, *described(x, base, weight))
        problem = partial(_problem, out, grad, x, base, weight, group.count, options)
        KERNEL.launch(key, (out, grad, x, base, weight, bias, group.table), problem)
        del base, problem  # before the next are made


def _problem(out, grad, x, base, weight, members, options) -> Problem:
    *geometry, last, activation, tf32 = options
    batch, c_out, oh, ow = x.shape[0], *out.shape[1:]
    shape = min(power_of_two(batch), 128), oh, ow
    chosen = configs(x.dtype, weight, tf32, shape, one_image=grad is not None)
    images = max(c.constants["TB"] for c in chosen)
    reach = max(span(x, images), span(base, images), images * c_out * oh * ow)
    constants = layer_constants(x, weight, geometry, activation, tf32)
    constants |= {"LAST": last, "WIDE": reach >= 1 << 31}

    def grid(c: dict[str, int]) -> int:
        return ceil_div(batch, c["TB"]) * tiles_of(oh, ow, c) * members * ceil_div(c_out, c["N"])

    scalars = (batch, members, *x.shape[2:], oh, ow, *strides(x), *strides(base), *weight.stride())
    similar = (x.dtype, tf32, weight.shape, *options, constants["BY_CHANNELS"], *shape, grad is None)
    return Problem(grid, scalars, constants, chosen, similar)


def described(x: Tensor, base: Tensor | None, weight: Tensor) -> tuple:
    """All that a launch depends on of these."""
    return x.dtype, x.shape, x.stride(), weight.shape, weight.stride(), None if base is None else base.stride()


def strides(t: Tensor | None) -> tuple[int, ...]:
    return (0, 0, 0, 0) if t is None else t.stride()


def span(t: Tensor | None, images: int) -> int:
    """The largest offset within so many images."""
    if t is None:
        return 0
    return sum((n - 1) * s for n, s in zip((images, *t.shape[1:]), t.stride(), strict=True))


def tiles_of(oh: int, ow: int, c: dict[str, int]) -> int:
    y, x = c["TY"], c["TX"]
    return max(ceil_div(oh, y) * ceil_div(ow, x), ceil_div(ow, y) * ceil_div(oh, x))


def layer_constants(x: Tensor, weight: Tensor, geometry, activation: str, tf32: bool) -> dict:
    """What `_convolve.convolve` and what follows it are compiled for."""
    c_out, c, kh, kw = weight.shape
    channels = by_channels(x)
    dense = (1, kw * c, c) if channels else (kh * kw, kw, 1)
    names = ("SH", "SW", "PH", "PW", "DH", "DW")
    return dict(zip(names, geometry, strict=True)) | {
        "C": c,
        "C_OUT": c_out,
        "KH": kh,
        "KW": kw,
        "BY_CHANNELS": channels,
        "BY_PIXELS": not channels and geometry[1] < FAR,
        "DENSE": weight.stride()[1:] == dense,
        "ACTIVATION": activation,
        "TYPE": accumulator(x.dtype),
        "TF32": tf32,
    }


def configs(
    dtype: torch.dtype, weight: Tensor, tf32: bool, shape: tuple[int, int, int], one_image: bool = False
) -> list[Config]:
    """By the number of output channels. Of 16 bits, K = 64 is as many bytes as 32 of 32; shape: (B, H', W')."""
    c_out, size = weight.shape[0], weight.shape[1:].numel()
    n = min(max(power_of_two(c_out), 16), 64)
    k = 64 if dtype.itemsize == 2 and size >= 256 else 32
    if dtype == torch.float64:
        listed = [(64, min(n, 32), 16, 4, 1)]
    elif dtype == torch.float32 and not tf32:  # no tensor cores: threads hold their operands in registers
        listed = [(64, n, 16, 8 if n > 32 else 4, 1)]
    elif c_out <= 64:
        listed = [(64, n, k, 4, 3), (128, n, k, 8, 3), (64, n, k, 4, 2)]
        if one_image:  # more values live through its loop, or its epilogue
            listed = [(64, n, k, 8 if n > 32 else 4, stages) for stages in (3, 2)]
    elif _blackwell():  # a block's accumulators come back from tensor memory all at once: twice as many would spill
        listed = [(128, 64, k, 8, 3)] if one_image else [(64, 128, k, 8, 3), (128, 64, k, 8, 3)]
    else:
        listed = [(128, 128, k, 8, 3), (64, 128, k, 8, 3), (64, 256, k, 8, 3), (128, 64, k, 8, 3)]
        listed = listed if c_out > 128 and not one_image else listed[:2] + listed[3:]
    registers = None
    if one_image and n <= 32:  # ptxas would spill a few to fit another block
        registers = 255 if dtype == torch.float64 else 128
    tiles = [(_tile(m, *shape, one_image), *rest) for m, *rest in listed]
    return [Config({**t, "N": n, "K": k}, warps, stages, registers) for t, n, k, warps, stages in tiles]


def _blackwell() -> bool:
    return not INTERPRETED and driver.active.get_current_target().arch >= 100


@lru_cache(maxsize=1024)
def _tile(pixels: int, batch: int, oh: int, ow: int, one_image: bool) -> dict[str, int]:
    """Images, rows and columns of a tile: little beyond the edges, and compact, since neighbours read the same."""

    def worth(c: dict[str, int]) -> float:
        full = batch * oh * ow / (ceil_div(batch, c["TB"]) * c["TB"] * tiles_of(oh, ow, c) * c["TY"] * c["TX"])
        return full * (1 - c["TB"].bit_length() / 25), c["TX"]

    sides = [(y, x) for y in (1, 2, 4, 8) for x in (4, 8, 16) if y <= x and y * x <= pixels]
    if one_image:
        sides = [(8, pixels // 8)]
    return max(({"TB": pixels // (y * x), "TY": y, "TX": x} for y, x in sides), key=worth)
