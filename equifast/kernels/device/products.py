"""Matrix products of two tiles."""

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
