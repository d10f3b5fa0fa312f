"""The inner products of each sample's vectors, and the gradient of the sum of their magnitudes.

Tiles are those of `vectors`. ``gram`` (B, E, E) is kept from the forward pass for the backward pass.
"""

from __future__ import annotations

import triton
import triton.language as tl

from .products import sum_of_products
from .vectors import NORMALIZE_FLOOR, at_least, columns, load_rows, vector_pointers


@triton.jit
def lengths(rows, stride, mask, d, ROWS: tl.constexpr, BLOCK_D: tl.constexpr, TYPE: tl.constexpr):
    """``max(|v|, floor)`` of each row v, [ROWS]."""
    squares = tl.zeros((ROWS,), TYPE)
    for start in tl.range(0, d, BLOCK_D):
        v = load_rows(rows, columns(start, BLOCK_D), stride, mask, d, TYPE)
        squares += sum_of_products(v, v, 1)
    return at_least(tl.sqrt(squares), NORMALIZE_FLOOR)


@triton.jit
def inverse_of(length):
    """``1 / length``, or 0 if the length is not finite."""
    return tl.where(length < float("inf"), 1 / length, 0)


@triton.jit
def of_element(values, h, PLACES: tl.constexpr, ROWS: tl.constexpr):
    """For each row of a tile, the value of its sample's element h: [ROWS]."""
    return tl.gather(values, tl.arange(0, ROWS) // PLACES * PLACES + h, 0)


@triton.jit
def gram_matrix(
    vectors, length, gram, sample, e, mask, B, E, d, v_row, v_col, NORMALIZE, WHOLE,
    PLACES: tl.constexpr, ROWS: tl.constexpr, BLOCK_D, TYPE,
):  # fmt: skip
    """Store ``⟨v_e, v_h⟩·[e ≠ h]`` of each sample; return the sum of its magnitudes over h for each row, [ROWS].

    NORMALIZE: take unit vectors. WHOLE: whether BLOCK_D columns are a whole vector. v_row, v_col: the vectors' strides.
    """
    total = tl.zeros((ROWS,), TYPE)
    own = vector_pointers(vectors, sample, e, B, v_row)
    whole = load_rows(own, columns(0, BLOCK_D), v_col, mask, d, TYPE)
    for h in tl.range(0, E, loop_unroll_factor=2):
        others = own + (h - e).to(tl.int64) * B * v_row
        if WHOLE:
            product = sum_of_products(whole, load_rows(others, columns(0, BLOCK_D), v_col, mask, d, TYPE), 1)
        else:
            product = tl.zeros((ROWS,), TYPE)
            for start in tl.range(0, d, BLOCK_D):
                k = columns(start, BLOCK_D)
                v = load_rows(own, k, v_col, mask, d, TYPE)
                product += sum_of_products(v, load_rows(others, k, v_col, mask, d, TYPE), 1)
        if NORMALIZE:
            product = product / length / of_element(length, h, PLACES, ROWS)
        product = tl.where(e == h, 0, product)
        tl.store(gram + (sample * E + e) * E + h, product, mask=mask)
        total += tl.where(mask, tl.abs(product), 0)
    return total


@triton.jit
def towards(
    vectors, inverse, gram, sample, e, mask, k, B, E, d, v_row, v_col, NORMALIZE,
    PLACES: tl.constexpr, ROWS: tl.constexpr, BLOCK_D, TYPE,
):  # fmt: skip
    """``Σ_h sign⟨v_e, v_h⟩·v_h`` of each row, in the columns k: [ROWS, BLOCK_D]. Of unit vectors if NORMALIZE.

    A product that is not finite counts as 0. Vectors that count as 0 are not read, since 0·∞ would be NaN.
    """
    total = tl.zeros((ROWS, BLOCK_D), TYPE)
    own = vector_pointers(vectors, sample, e, B, v_row)
    for h in tl.range(0, E, loop_unroll_factor=2):
        product = tl.load(gram + (sample * E + e) * E + h, mask=mask, other=0)
        sign = (product > 0).to(TYPE) - (product < 0).to(TYPE)
        sign = tl.where(tl.abs(product) < float("inf"), sign, 0)
        counts = mask & (sign != 0)
        if NORMALIZE:
            sign *= of_element(inverse, h, PLACES, ROWS)
        others = own + (h - e).to(tl.int64) * B * v_row
        total += sign[:, None] * load_rows(others, k, v_col, counts, d, TYPE)
    return total


@triton.jit
def radial_part(
    vectors, inverse, gram, sample, e, mask, B, E, d, v_row, v_col,
    PLACES: tl.constexpr, ROWS: tl.constexpr, BLOCK_D: tl.constexpr, TYPE,
):  # fmt: skip
    """``⟨towards, u⟩ / |v|`` of each row v, with u = v / |v|: [ROWS]. 0 for a vector whose length is not finite.

    This multiple of v is the part of the gradient that normalization takes away again.
    """
    radial = tl.zeros((ROWS,), TYPE)
    own = vector_pointers(vectors, sample, e, B, v_row)
    for start in tl.range(0, d, BLOCK_D):
        k = columns(start, BLOCK_D)
        g = towards(
            vectors, inverse, gram, sample, e, mask, k, B, E, d, v_row, v_col, True, PLACES, ROWS, BLOCK_D, TYPE
        )  # fmt: skip
        radial += sum_of_products(g, load_rows(own, k, v_col, mask & (inverse > 0), d, TYPE), 1)
    return radial * inverse * inverse
