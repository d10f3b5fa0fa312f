"""What the hosts of the convolutions share: shapes and strides, constants of a layer, and tiles."""

from __future__ import annotations

from functools import lru_cache

import torch
from torch import Tensor
from torch._prims_common import suggest_memory_format
from triton.runtime import driver

from ...backends.selection import allows_tf32
from ...layers import output_size
from .launch import INTERPRETED, Config
from .members import reads_by_channels
from .sizes import accumulator, ceil_div, power_of_two

#: From this horizontal stride on, threads read along the patch. Neighbouring outputs then share no sector of memory:
#: 8 pixels of float32 are one, 32 bytes.
FAR_STRIDE = 8

#: What the kernels call the geometry of a layer, in the order (kernel size, stride, padding, dilation).
GEOMETRY = ("KERNEL_H", "KERNEL_W", "STRIDE_H", "STRIDE_W", "PAD_H", "PAD_W", "DILATION_H", "DILATION_W")


def input_precision(dtype: torch.dtype) -> str:
    """How Triton is to multiply float32: "tf32" where PyTorch may, else "ieee"."""
    return "tf32" if allows_tf32(dtype) else "ieee"


def _is_channels_last(t: Tensor) -> bool:
    """As ``suggest_memory_format`` has it. That takes microseconds, so contiguous tensors are sorted out first."""
    return not t.is_contiguous() and suggest_memory_format(t) == torch.channels_last


def new_output(x: Tensor, weight: Tensor, order: int, stride, padding, dilation) -> Tensor:
    """An uninitialized output (E·B, C_out, H', W'); channels_last if either operand is."""
    channels_last = _is_channels_last(x) or _is_channels_last(weight)
    memory_format = torch.channels_last if channels_last else torch.contiguous_format
    size = output_size(x.shape[2:], weight.shape[2:], stride, padding, dilation)
    shape = (order * x.shape[0], weight.shape[0], *size)
    return torch.empty(shape, dtype=x.dtype, device=x.device, memory_format=memory_format)


def layout_key(x: Tensor, base: Tensor | None, weight: Tensor) -> tuple:
    """The shapes, strides and dtypes that a launch of these tensors depends on."""
    return x.dtype, x.shape, x.stride(), weight.shape, weight.stride(), None if base is None else base.stride()


def strides(t: Tensor | None) -> tuple[int, ...]:
    return (0, 0, 0, 0) if t is None else t.stride()


def span(t: Tensor | None, images: int) -> int:
    """The largest offset within so many images."""
    if t is None:
        return 0
    return sum((n - 1) * s for n, s in zip((images, *t.shape[1:]), t.stride(), strict=True))


def count_output_tiles(out_h: int, out_w: int, config: dict[str, int]) -> int:
    """The number of tiles of one image, as `device.convolve.output_tiles` has it."""
    i, j = config["BLOCK_I"], config["BLOCK_J"]
    return max(ceil_div(out_h, i) * ceil_div(out_w, j), ceil_div(out_w, i) * ceil_div(out_h, j))


def layer_constants(x: Tensor, weight: Tensor, geometry: tuple, activation: str, precision: str) -> dict:
    """What the forward kernels are compiled for. ``geometry``: stride, padding and dilation."""
    c_out, c, kernel_h, kernel_w = weight.shape
    by_channels = reads_by_channels(x)
    dense = (1, kernel_w * c, c) if by_channels else (kernel_h * kernel_w, kernel_w, 1)
    return dict(zip(GEOMETRY, (kernel_h, kernel_w, *geometry), strict=True)) | {
        "C": c,
        "C_OUT": c_out,
        "BY_CHANNELS": by_channels,
        "BY_PIXELS": not by_channels and geometry[1] < FAR_STRIDE,
        "DENSE": weight.stride()[1:] == dense,
        "ACTIVATION": activation,
        "TYPE": accumulator(x.dtype),
        "PRECISION": precision,
    }


def configs(
    dtype: torch.dtype, weight: Tensor, precision: str, shape: tuple[int, int, int], one_image: bool = False
) -> list[Config]:
    """Configurations of the forward kernels, by the number of output channels. ``shape``: (B, H', W').

    Rows of the lists: (BLOCK_M, BLOCK_N, BLOCK_K, warps, stages). ``one_image``: tiles must not span images.
    """
    c_out, size = weight.shape[0], weight.shape[1:].numel()
    n = min(max(power_of_two(c_out), 16), 64)
    k = 64 if dtype.itemsize == 2 and size >= 256 else 32  # 64 values of 16 bits are as many bytes as 32 of 32 bits
    if dtype == torch.float64:
        listed = [(64, min(n, 32), 16, 4, 1)]
    elif dtype == torch.float32 and precision == "ieee":  # no tensor cores: threads hold their operands in registers
        listed = [(64, n, 16, 8 if n > 32 else 4, 1)]
    elif c_out <= 64:
        listed = [(64, n, k, 4, 3), (128, n, k, 8, 3), (64, n, k, 4, 2)]
        if one_image:  # more values are live through the loop of the pooling kernel, or through the gradient's end
            listed = [(64, n, k, 8 if n > 32 else 4, stages) for stages in (3, 2)]
    elif _is_blackwell():
        # A block's accumulators come back from tensor memory all at once: twice as many would spill.
        listed = [(128, 64, k, 8, 3)] if one_image else [(64, 128, k, 8, 3), (128, 64, k, 8, 3)]
    else:
        listed = [(128, 128, k, 8, 3), (64, 128, k, 8, 3), (64, 256, k, 8, 3), (128, 64, k, 8, 3)]
        listed = listed if c_out > 128 and not one_image else listed[:2] + listed[3:]
    registers = None  # left to itself, ptxas would spill a few of these to fit another block
    if one_image and n <= 32:
        registers = 255 if dtype == torch.float64 else 128
    elif precision == "tf32" and n > 32 and _is_blackwell():
        registers = 255
    return [
        Config({**_tile(m, *shape, one_image), "BLOCK_N": n, "BLOCK_K": k}, warps, stages, registers)
        for m, n, k, warps, stages in listed
    ]


def _is_blackwell() -> bool:
    return not INTERPRETED and driver.active.get_current_target().arch >= 100


@lru_cache(maxsize=1024)
def _tile(pixels: int, batch: int, out_h: int, out_w: int, one_image: bool) -> dict[str, int]:
    """Images, rows and columns of a tile of so many pixels.

    The best tile has few pixels beyond the edges of the image, and is compact, since neighbours read the same source.
    """

    def worth(c: dict[str, int]) -> tuple[float, int]:
        rounded = ceil_div(batch, c["BLOCK_B"]) * c["BLOCK_B"]
        computed = rounded * count_output_tiles(out_h, out_w, c) * c["BLOCK_I"] * c["BLOCK_J"]
        return batch * out_h * out_w / computed * (1 - c["BLOCK_B"].bit_length() / 25), c["BLOCK_J"]

    sides = [(i, j) for i in (1, 2, 4, 8) for j in (4, 8, 16) if i <= j and i * j <= pixels]
    if one_image:
        sides = [(8, pixels // 8)]
    return max(({"BLOCK_B": pixels // (i * j), "BLOCK_I": i, "BLOCK_J": j} for i, j in sides), key=worth)
