"""Products of two tiles."""

from __future__ import annotations

import triton
import triton.language as tl

from ...backends import INTERPRETING

INTERPRETED = tl.constexpr(INTERPRETING)


@triton.jit
def dot(a, b, acc, TYPE: tl.constexpr, PRECISION: tl.constexpr):
    """``acc + a·b`` in TYPE. PRECISION: "tf32" or "ieee", how float32 is multiplied.

    a [M, K], b [K, N], acc [M, N].
    """
    if INTERPRETED:  # Triton's interpreter multiplies bfloat16 as if its bits were integers.
        a, b = a.to(TYPE), b.to(TYPE)
    return tl.dot(a, b, acc, input_precision=PRECISION, out_dtype=TYPE)


@triton.jit
def sum_of_products(a, b, axis: tl.constexpr):
    """``Σ a·b`` along an axis of two tiles.

    Several threads hold copies of a sum, and one of them stores it. They add up by exchanging what they have: each adds
    the other's product to its own. A compiler that may contract makes one instruction of that, which rounds the other's
    product and not its own, so copies differ. The product is written as a fused one here, which nothing is fused with.
    """
    a, b = tl.broadcast(a, b)
    return tl.sum(tl.fma(a, b, tl.zeros(a.shape, a.dtype)), axis)
