"""`orbit_losses`: scores, choice, prior and contrastive loss from one reading of the vectors, and one pass back."""

from __future__ import annotations

import torch
import triton
import triton.language as tl
from torch import Tensor

from ..dtypes import accumulate_dtype
from .contrastive_loss import contrastive_constants, mean
from .device.gram import gram_matrix, inverse_of, radial_part, towards
from .device.products import sum_of_products
from .device.scores import logits_of, score_gradient, store_choice, vector_gradient
from .device.vectors import (
    NORMALIZE_FLOOR,
    at_least,
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
def target_of(target, sample, B, t_row):
    """The id that each sample should choose, [S, 1]: the target, or the identity."""
    if target is None:
        return sample * 0
    else:
        return tl.load(target + sample * t_row, mask=sample < B, other=0)


@triton.jit
def prior_of(scores, target, beta, sample, e, mask, B, E, t_row, TYPE: tl.constexpr):
    """``−log softmax(beta·scores)[target]`` of each sample, [S]; 0 beyond the last sample. scores [S, PLACES]."""
    logits = logits_of(scores, beta, e < E)
    top = tl.max(logits, 1)
    is_target = e == target_of(target, sample, B, t_row)
    # An id out of range gives 0 / 0, which is NaN.
    chosen = tl.sum(tl.where(is_target, logits, 0), 1) / tl.sum(is_target.to(TYPE), 1)
    prior = tl.log(tl.sum(tl.exp(logits - top[:, None]), 1)) + (top - chosen)
    return tl.where(tl.max(tl.where(mask, 1, 0), 1) > 0, prior, 0)


@triton.jit
def _orbit_losses_kernel(
    vectors, reference, target, activations, probabilities, element, gram, partial,
    B, E, d, v_row, v_col, r_col, t_row, beta: tl.float64, prior_beta: tl.float64,
    COSINE: tl.constexpr, NORMALIZE: tl.constexpr, WHOLE: tl.constexpr, PLACES: tl.constexpr, TYPE: tl.constexpr,
    ROWS: tl.constexpr, BLOCK_D: tl.constexpr,
):  # fmt: skip
    """Store the choice and the Gram matrices, and the sums of both losses over the samples of this block in partial.

    ``partial`` is (2, blocks): the contrastive loss, then the prior loss.
    """
    sample, e, mask = orbit_rows(B, E, PLACES, ROWS)
    rows = vector_pointers(vectors, sample, e, B, v_row)
    products, squares, square = measure(rows, v_col, mask, reference, r_col, d, ROWS, BLOCK_D, TYPE)
    block = partial + tl.program_id(0)
    length = at_least(tl.sqrt(squares), NORMALIZE_FLOOR)
    each = gram_matrix(
        vectors, length, gram, sample, e, mask, B, E, d, v_row, v_col, NORMALIZE, WHOLE, PLACES, ROWS, BLOCK_D, TYPE
    )  # [ROWS] # fmt: skip
    tl.store(block, tl.sum(each, 0))

    scores = tl.reshape(similarity(products, squares, square, COSINE), (ROWS // PLACES, PLACES))
    returned = store_choice(
        scores, tl.full((), beta, TYPE), activations, probabilities, element, B, E, PLACES, ROWS
    )  # fmt: skip

    table_sample, table_e, table_mask = orbit_table(B, E, PLACES, ROWS)
    prior = prior_of(
        returned, target, tl.full((), prior_beta, TYPE), table_sample, table_e, table_mask, B, E, t_row, TYPE
    )  # fmt: skip
    tl.store(block + tl.num_programs(0), tl.sum(prior, 0))


@triton.jit
def prior_gradient(grad, target, activations, beta, sample, e, mask, B, E, t_row, TYPE: tl.constexpr):
    """``(softmax(beta·activations) − [e = target]) · beta · grad / B``, [S, PLACES]; 0 for a masked element."""
    a = tl.load(activations + sample * E + e, mask=mask, other=0).to(TYPE)
    logits = logits_of(a, beta, mask)
    weights = tl.exp(logits - tl.max(logits, 1)[:, None])
    weights = weights / tl.sum(weights, 1)[:, None] - (e == target_of(target, sample, B, t_row)).to(TYPE)
    return tl.where(mask & (a != -float("inf")), weights * (tl.load(grad).to(TYPE) * beta / B), 0)


@triton.jit
def _orbit_losses_backward_kernel(
    grad_activations, grad_probabilities, grad_prior, grad_contrastive,
    vectors, reference, target, activations, probabilities, gram, grad_vectors, partial,
    B, E, d, a_row, a_col, p_row, p_col, v_row, v_col, r_col, t_row, beta: tl.float64, prior_beta: tl.float64,
    COSINE: tl.constexpr, NORMALIZE: tl.constexpr, WHOLE: tl.constexpr, PLACES: tl.constexpr, TYPE: tl.constexpr,
    ROWS: tl.constexpr, BLOCK_D: tl.constexpr,
):  # fmt: skip
    """The gradient of the vectors, and in ``partial[block]`` that of the reference, from those of all four outputs.

    1. Measure the vectors.
    2. Bring the gradients of scores and prior loss to the vectors: ``dv = across·r − along·v``.
    3. Prepare the gradient of the contrastive loss: ``dv += apart·towards − apart·radial·v``.
    4. For each block of columns, add up and store both gradients.
    """
    # 1.
    sample, e, mask = orbit_rows(B, E, PLACES, ROWS)
    row = e.to(tl.int64) * B + sample
    own = vectors + row * v_row
    products, squares, square = measure(own, v_col, mask, reference, r_col, d, ROWS, BLOCK_D, TYPE)

    # 2. Gradients of scores are [S, PLACES], then [ROWS].
    table_sample, table_e, table_mask = orbit_table(B, E, PLACES, ROWS)
    grad, passing = score_gradient(
        grad_activations, grad_probabilities, probabilities, tl.full((), beta, TYPE),
        table_sample, table_e, table_mask, E, a_row, a_col, p_row, p_col, TYPE,
    )  # fmt: skip
    if grad_prior is not None:
        grad += prior_gradient(
            grad_prior, target, activations, tl.full((), prior_beta, TYPE),
            table_sample, table_e, table_mask, B, E, t_row, TYPE,
        )  # fmt: skip
    grad, passing = tl.reshape(grad, (ROWS,)), tl.reshape(passing, (ROWS,))
    across, along, along_r = vector_gradient(grad, passing, products, squares, square, COSINE)
    radial_r = tl.sum(along_r, 0)

    # 3.
    inverse = inverse_of(at_least(tl.sqrt(squares), NORMALIZE_FLOOR))
    apart = tl.zeros((ROWS,), TYPE)
    if grad_contrastive is not None:
        apart = tl.full((ROWS,), 2, TYPE) * tl.load(grad_contrastive).to(TYPE) / (E * E) / B
        if NORMALIZE:
            apart *= inverse
            radial = radial_part(
                vectors, inverse, gram, sample, e, mask, B, E, d, v_row, v_col, PLACES, ROWS, BLOCK_D, TYPE
            )  # fmt: skip
            along += apart * radial

    # 4.
    used = mask & ((across != 0) | (along != 0))  # other rows may hold ∞, and 0·∞ is NaN
    for start in tl.range(0, d, BLOCK_D):
        k = columns(start, BLOCK_D)
        r = load_finite(reference, k, r_col, d, TYPE)
        v = load_rows(own, k, v_col, used, d, TYPE)
        g = across[:, None] * r[None, :]  # [ROWS, BLOCK_D]
        if COSINE or (NORMALIZE and grad_contrastive is not None):
            g -= along[:, None] * v
        if grad_contrastive is not None:
            g += apart[:, None] * towards(
                vectors, inverse, gram, sample, e, mask, k, B, E, d, v_row, v_col, NORMALIZE,
                PLACES, ROWS, BLOCK_D, TYPE,
            )  # fmt: skip
        tl.store(grad_vectors + row[:, None] * d + k[None, :], g, mask=mask[:, None] & (k < d)[None, :])
        grad_r = sum_of_products(across[:, None], v, 0) - radial_r * r
        tl.store(partial + tl.program_id(0).to(tl.int64) * d + k, grad_r, mask=k < d)


FORWARD = Kernel(_orbit_losses_kernel, fuse_multiply_add=True)
BACKWARD = Kernel(_orbit_losses_backward_kernel, fuse_multiply_add=True)


def orbit_losses(
    vectors: Tensor,
    reference: Tensor,
    target: Tensor | None,
    order: int,
    beta: float,
    prior_beta: float,
    cosine: bool,
    normalize: bool,
) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor, Tensor]:
    batch, d = vectors.shape[0] // order, vectors.shape[1]
    wide = accumulate_dtype(vectors.dtype)
    activations, probabilities = vectors.new_empty((batch, order)), vectors.new_empty((batch, order))
    element = vectors.new_empty((batch,), dtype=torch.int64)
    gram = vectors.new_empty((batch, order, order), dtype=wide)
    if not batch:
        prior, contrastive = vectors.new_full((), torch.nan), vectors.new_full((), torch.nan)
        return activations, probabilities, element, prior, contrastive, gram
    prior, contrastive = vectors.new_empty(()), vectors.new_empty(())
    partial = vectors.new_empty((2, vector_tile(order, d, batch, vectors.dtype).blocks), dtype=wide)
    strides = *vectors.stride(), *reference.stride(), *strides_of(target, 1)
    FORWARD.launch(
        (vectors.shape, strides, vectors.dtype, order, cosine, normalize, target is None),
        (vectors, reference, target, activations, probabilities, element, gram, partial),
        lambda: vector_problem(vectors, order, strides, _constants(vectors, order, cosine, normalize), 64),
        (float(beta), float(prior_beta)),
    )
    mean(partial, contrastive, prior, order, batch)
    return activations, probabilities, element, prior, contrastive, gram


def orbit_losses_backward(
    grad_activations: Tensor | None,
    grad_probabilities: Tensor | None,
    grad_prior: Tensor | None,
    grad_contrastive: Tensor | None,
    vectors: Tensor,
    reference: Tensor,
    target: Tensor | None,
    activations: Tensor,
    probabilities: Tensor,
    gram: Tensor,
    beta: float,
    prior_beta: float,
    cosine: bool,
    normalize: bool,
) -> tuple[Tensor, Tensor]:
    batch, order = probabilities.shape
    d = vectors.shape[1]
    grad_vectors = vectors.new_empty(vectors.shape)
    if not batch:
        return grad_vectors, reference.new_zeros(reference.shape)
    grads = grad_activations, grad_probabilities, grad_prior, grad_contrastive
    count = vector_tile(order, d, batch, vectors.dtype).blocks
    partial = vectors.new_empty((count, d), dtype=accumulate_dtype(vectors.dtype))
    strides = (
        *strides_of(grad_activations),
        *strides_of(grad_probabilities),
        *vectors.stride(),
        *reference.stride(),
        *strides_of(target, 1),
    )
    absent = tuple(t is None for t in (*grads, target))
    saved = activations.contiguous(), probabilities.contiguous(), gram.contiguous()
    BACKWARD.launch(
        (vectors.shape, strides, vectors.dtype, order, cosine, normalize, absent),
        (*grads, vectors, reference, target, *saved, grad_vectors, partial),
        lambda: vector_problem(vectors, order, strides, _constants(vectors, order, cosine, normalize), 128, 128),
        (float(beta), float(prior_beta)),
    )
    return grad_vectors, sum_of_blocks(partial, reference)


def _constants(vectors: Tensor, order: int, cosine: bool, normalize: bool) -> dict[str, int]:
    return {"COSINE": cosine, **contrastive_constants(vectors, order, normalize)}
