"""Small arithmetic that all planning shares, and the dtypes of the device."""

from __future__ import annotations

import torch
import triton.language as tl


def ceil_div(a: int, b: int) -> int:
    return -(-a // b)


def power_of_two(n: int) -> int:
    """The least power of two that is at least n."""
    return 1 << max(n - 1, 0).bit_length()


def accumulator(dtype: torch.dtype) -> tl.dtype:
    """The type that a kernel sums in: `dtypes.accumulate_dtype`, as Triton spells it."""
    return tl.float64 if dtype == torch.float64 else tl.float32


def index_type(reach: int) -> tl.dtype:
    """The integers that a kernel counts offsets in, if none of the offsets exceeds ``reach``."""
    return tl.int64 if reach >= 1 << 31 else tl.int32
