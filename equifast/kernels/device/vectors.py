"""Tiles of the vectors of whole orbits, and what is measured of them.

A tile has ROWS rows: the vectors of ROWS // PLACES samples, sample by sample. Each sample has PLACES places for its E
vectors, PLACES the next power of two. Vectors are element-major in memory: row e·B + b.
"""

from __future__ import annotations

import triton
import triton.language as tl

from .products import sum_of_products

#: Smallest norms to divide by: as `torch.nn.functional.cosine_similarity` and `normalize` have them.
COSINE_FLOOR = tl.constexpr(1e-8)
NORMALIZE_FLOOR = tl.constexpr(1e-12)


@triton.jit
def orbit_rows(B, E, PLACES: tl.constexpr, ROWS: tl.constexpr):
    """The rows of this block's tile: (sample, element, whether there is such a vector), [ROWS] each."""
    row = tl.arange(0, ROWS)
    sample = tl.program_id(0).to(tl.int64) * (ROWS // PLACES) + row // PLACES
    element = row % PLACES
    return sample, element, (element < E) & (sample < B)


@triton.jit
def orbit_table(B, E, PLACES: tl.constexpr, ROWS: tl.constexpr):
    """The same tile for values that each vector has one of: (sample [S, 1], element [1, PLACES], mask [S, PLACES]).

    S is ROWS // PLACES.
    """
    sample = tl.program_id(0).to(tl.int64) * (ROWS // PLACES) + tl.arange(0, ROWS // PLACES)[:, None]
    element = tl.arange(0, PLACES)[None, :]
    return sample, element, (element < E) & (sample < B)


@triton.jit
def vector_pointers(vectors, sample, e, B, v_row):
    """Pointers to the vectors of a tile, [ROWS]. v_row: the stride from vector to vector."""
    return vectors + (e.to(tl.int64) * B + sample) * v_row


@triton.jit
def columns(start, BLOCK_D: tl.constexpr):
    """The columns from ``start`` on, [BLOCK_D], int64."""
    return start + tl.arange(0, BLOCK_D).to(tl.int64)


@triton.jit
def load_rows(rows, k, stride, mask, d, TYPE: tl.constexpr):
    """Columns k of the vectors at the pointers ``rows``, 0 where ``mask`` is false: [ROWS, BLOCK_D]."""
    return tl.load(rows[:, None] + k[None, :] * stride, mask=mask[:, None] & (k < d)[None, :], other=0).to(TYPE)


@triton.jit
def load_finite(vector, k, stride, d, TYPE: tl.constexpr):
    """Columns k of one vector, with 0 for what is not finite: that gets no gradient, and 0·∞ would be NaN. [BLOCK_D]"""
    v = tl.load(vector + k * stride, mask=k < d, other=0).to(TYPE)
    return tl.where(tl.abs(v) < float("inf"), v, 0)


@triton.jit
def measure(
    rows, stride, mask, reference, reference_stride, d, ROWS: tl.constexpr, BLOCK_D: tl.constexpr, TYPE: tl.constexpr
):  # fmt: skip
    """``⟨v, reference⟩`` and ``⟨v, v⟩`` of each row v, [ROWS], and ``⟨reference, reference⟩``, [1]."""
    products = tl.zeros((ROWS,), TYPE)
    squares = tl.zeros((ROWS,), TYPE)
    square = tl.zeros((1,), TYPE)
    for start in tl.range(0, d, BLOCK_D):
        k = columns(start, BLOCK_D)
        r = tl.load(reference + k * reference_stride, mask=k < d, other=0).to(TYPE)
        v = load_rows(rows, k, stride, mask, d, TYPE)
        products += sum_of_products(v, r[None, :], 1)
        squares += sum_of_products(v, v, 1)
        square += sum_of_products(r, r, 0)
    return products, squares, square


@triton.jit
def at_least(x, floor):
    """``max(x, floor)``, but NaN stays NaN: ``tl.maximum`` would turn it into the floor."""
    return tl.where(x < floor, floor, x)


@triton.jit
def similarity(products, squares, square, COSINE: tl.constexpr):
    """The cosine of each row with the reference, or the inner product; from what `measure` returns."""
    if COSINE:
        return products / (at_least(tl.sqrt(squares), COSINE_FLOOR) * at_least(tl.sqrt(square), COSINE_FLOOR))
    return products
