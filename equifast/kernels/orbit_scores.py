"""`orbit_scores`: similarities, softmax and arg max in one pass over the vectors, and one pass back."""

from __future__ import annotations

import torch
import triton
import triton.language as tl
from torch import Tensor

from ..dtypes import accumulate_dtype
from .device.products import sum_of_products
from .device.scores import score_gradient, store_choice, vector_gradient
from .device.vectors import (
    columns,
    load_finite,
    load_rows,
    measure,
    orbit_rows,
    orbit_table,
    similarity,
    vector_pointers,
)
from .host.launch import Kernel
from .host.vectors import strides_of, sum_of_blocks, vector_problem, vector_tile


@triton.jit
def _orbit_scores_kernel(
    vectors, reference, activations, probabilities, element,
    B, E, d, v_row, v_col, r_col, beta: tl.float64,
    COSINE: tl.constexpr, PLACES: tl.constexpr, TYPE: tl.constexpr, ROWS: tl.constexpr, BLOCK_D: tl.constexpr,
):  # fmt: skip
    """Store the scores of the samples of this block, ``softmax(beta·scores)`` and the arg max."""
    sample, e, mask = orbit_rows(B, E, PLACES, ROWS)
    rows = vector_pointers(vectors, sample, e, B, v_row)
    products, squares, square = measure(rows, v_col, mask, reference, r_col, d, ROWS, BLOCK_D, TYPE)
    scores = tl.reshape(similarity(products, squares, square, COSINE), (ROWS // PLACES, PLACES))
    store_choice(scores, tl.full((), beta, TYPE), activations, probabilities, element, B, E, PLACES, ROWS)


@triton.jit
def _orbit_scores_backward_kernel(
    grad_activations, grad_probabilities, vectors, reference, probabilities, grad_vectors, partial,
    B, E, d, a_row, a_col, p_row, p_col, v_row, v_col, r_col, beta: tl.float64,
    COSINE: tl.constexpr, PLACES: tl.constexpr, TYPE: tl.constexpr, ROWS: tl.constexpr, BLOCK_D: tl.constexpr,
):  # fmt: skip
    """``grad_vectors = across·r − along·v``, and ``partial[block] = Σ across·v − Σ along_r·r`` for the reference r."""
    sample, e, mask = orbit_rows(B, E, PLACES, ROWS)
    row = e.to(tl.int64) * B + sample
    own = vectors + row * v_row
    products, squares, square = measure(own, v_col, mask, reference, r_col, d, ROWS, BLOCK_D, TYPE)
    table_sample, table_e, table_mask = orbit_table(B, E, PLACES, ROWS)
    grad, passing = score_gradient(
        grad_activations, grad_probabilities, probabilities, tl.full((), beta, TYPE),
        table_sample, table_e, table_mask, E, a_row, a_col, p_row, p_col, TYPE,
    )  # fmt: skip
    grad, passing = tl.reshape(grad, (ROWS,)), tl.reshape(passing, (ROWS,))
    across, along, along_r = vector_gradient(grad, passing, products, squares, square, COSINE)  # [ROWS] each
    radial = tl.sum(along_r, 0)
    used = mask & ((across != 0) | (along != 0))  # other rows may hold ∞, and 0·∞ is NaN
    for start in tl.range(0, d, BLOCK_D):
        k = columns(start, BLOCK_D)
        r = load_finite(reference, k, r_col, d, TYPE)
        v = load_rows(own, k, v_col, used, d, TYPE)
        g = across[:, None] * r[None, :]  # [ROWS, BLOCK_D]
        if COSINE:
            g -= along[:, None] * v
        tl.store(grad_vectors + row[:, None] * d + k[None, :], g, mask=mask[:, None] & (k < d)[None, :])
        grad_r = sum_of_products(across[:, None], v, 0) - radial * r
        tl.store(partial + tl.program_id(0).to(tl.int64) * d + k, grad_r, mask=k < d)


FORWARD = Kernel(_orbit_scores_kernel, fuse_multiply_add=True)
BACKWARD = Kernel(_orbit_scores_backward_kernel, fuse_multiply_add=True)


def orbit_scores(
    vectors: Tensor, reference: Tensor, order: int, beta: float, cosine: bool
) -> tuple[Tensor, Tensor, Tensor]:
    batch = vectors.shape[0] // order
    activations, probabilities = vectors.new_empty((batch, order)), vectors.new_empty((batch, order))
    element = vectors.new_empty((batch,), dtype=torch.int64)
    if batch:
        strides = *vectors.stride(), *reference.stride()
        FORWARD.launch(
            (vectors.shape, strides, vectors.dtype, order, cosine),
            (vectors, reference, activations, probabilities, element),
            lambda: vector_problem(vectors, order, strides, {"COSINE": cosine}),
            (float(beta),),
        )
    return activations, probabilities, element


def orbit_scores_backward(
    grad_activations: Tensor | None,
    grad_probabilities: Tensor | None,
    vectors: Tensor,
    reference: Tensor,
    probabilities: Tensor,
    beta: float,
    cosine: bool,
) -> tuple[Tensor, Tensor]:
    batch, order = probabilities.shape
    d = vectors.shape[1]
    grad_vectors = vectors.new_empty(vectors.shape)
    if not batch:
        return grad_vectors, reference.new_zeros(reference.shape)
    count = vector_tile(order, d, batch, vectors.dtype).blocks
    partial = vectors.new_empty((count, d), dtype=accumulate_dtype(vectors.dtype))
    grads = grad_activations, grad_probabilities
    strides = *strides_of(grad_activations), *strides_of(grad_probabilities), *vectors.stride(), *reference.stride()
    absent = tuple(t is None for t in grads)
    BACKWARD.launch(
        (vectors.shape, strides, vectors.dtype, order, cosine, absent),
        (*grads, vectors, reference, probabilities.contiguous(), grad_vectors, partial),
        lambda: vector_problem(vectors, order, strides, {"COSINE": cosine}),
        (float(beta),),
    )
    return grad_vectors, sum_of_blocks(partial, reference)
