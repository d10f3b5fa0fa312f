"""A copy in Triton, as plain as a kernel can be: one of those that the limit is taken from."""

from __future__ import annotations

import torch
import triton
import triton.language as tl
from torch import Tensor

#: Numbers of a block: 16 of each of its 128 threads, in four loads of 16 bytes.
BLOCK, WARPS = 2048, 4


@triton.jit
def copy_block(out, source, count, BLOCK: tl.constexpr):
    """Copies the numbers [BLOCK·i, BLOCK·(i + 1)) of ``count`` for program i."""
    i = tl.program_id(0).to(tl.int64) * BLOCK + tl.arange(0, BLOCK)  # [BLOCK]
    tl.store(out + i, tl.load(source + i, i < count), i < count)


def copy(source: Tensor) -> Tensor:
    """A copy of a contiguous tensor of float32."""
    out = torch.empty_like(source)
    count = source.numel()
    copy_block[(triton.cdiv(count, BLOCK),)](out, source, count, BLOCK=BLOCK, num_warps=WARPS)
    return out
