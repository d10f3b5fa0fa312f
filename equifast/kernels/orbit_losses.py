"""`orbit_losses`: scores, choice, prior and contrastive loss from one reading of the vectors, and one pass back."""

from __future__ import annotations

import torch
import triton
import triton.language as tl
from torch import Tensor

from ..dtypes import accumulate_dtype
from ._launch import Kernel
from .contrastive_loss import flags, gram_matrix, inverse_of, mean, radial_part, towards
from .orbit_scores import (
    at_least,
    columns,
    load_finite,
    load_rows,
    logits_of,
    measure,
    orbit_rows,
    orbit_table,
    problem,
    score_gradient,
    similarity,
    store_choice,
    strides_of,
    tile,
    total,
    vector_gradient,
)


@triton.jit
def wanted(target, sample, B, t0):
    """The id that each sample should choose, (samples, 1)."""
    if target is None:
        return sample * 0
    else:
        return tl.load(target + sample * t0, mask=sample < B, other=0)


@triton.jit
def _orbit_losses_kernel(
    vectors,
    reference,
    target,
    activations,
    probabilities,
    element,
    gram,
    partial,
    B,
    E,
    d,
    v0,
    v1,
    r0,
    t0,
    beta: tl.float64,
    prior_beta: tl.float64,
    COSINE: tl.constexpr,
    NORMALIZE: tl.constexpr,
    WHOLE: tl.constexpr,
    P: tl.constexpr,
    ACC: tl.constexpr,
    ROWS: tl.constexpr,
    D: tl.constexpr,
):
    sample, e, mask = orbit_rows(B, E, P, ROWS)
    rows = vectors + (e.to(tl.int64) * B + sample) * v0
    products, squares, square = measure(rows, v1, mask, reference, r0, d, ROWS, D, ACC)
    block = partial + tl.program_id(0)
    length = at_least(tl.sqrt(squares), 1e-12)
    each = gram_matrix(vectors, length, gram, sample, e, mask, B, E, d, v0, v1, NORMALIZE, WHOLE, P, ROWS, D, ACC)
    tl.store(block, tl.sum(each, 0))

    scores = tl.reshape(similarity(products, squares, square, COSINE), (ROWS // P, P))
    returned = store_choice(scores, tl.full((), beta, ACC), activations, probabilities, element, B, E, P, ROWS)

    ts, te, tm = orbit_table(B, E, P, ROWS)
    logits = logits_of(returned, tl.full((), prior_beta, ACC), te < E)
    top = tl.max(logits, 1)
    want = wanted(target, ts, B, t0)
    hit = te == want
    chosen = tl.sum(tl.where(hit, logits, 0), 1) / tl.sum(hit.to(ACC), 1)  # an id out of range gives NaN
    prior = tl.log(tl.sum(tl.exp(logits - top[:, None]), 1)) + (top - chosen)
    prior = tl.where(tl.max(tl.where(tm, 1, 0), 1) > 0, prior, 0)
    tl.store(block + tl.num_programs(0), tl.sum(prior, 0))


@triton.jit
def prior_gradient(grad, target, activations, beta, sample, e, mask, B, E, t0, ACC: tl.constexpr):
    """(samples, P): softmax of the logits less one at the target, scaled; 0 for a masked element."""
    a = tl.load(activations + sample * E + e, mask=mask, other=0).to(ACC)
    logits = logits_of(a, beta, mask)
    weights = tl.exp(logits - tl.max(logits, 1)[:, None])
    weights = weights / tl.sum(weights, 1)[:, None] - (e == wanted(target, sample, B, t0)).to(ACC)
    return tl.where(mask & (a != -float("inf")), weights * (tl.load(grad).to(ACC) * beta / B), 0)


@triton.jit
def _orbit_losses_backward_kernel(
    grad_activations,
    grad_probabilities,
    grad_prior,
    grad_contrastive,
    vectors,
    reference,
    target,
    activations,
    probabilities,
    gram,
    grad_vectors,
    partial,
    B,
    E,
    d,
    a0,
    a1,
    p0,
    p1,
    v0,
    v1,
    r0,
    t0,
    beta: tl.float64,
    prior_beta: tl.float64,
    COSINE: tl.constexpr,
    NORMALIZE: tl.constexpr,
    WHOLE: tl.constexpr,
    P: tl.constexpr,
    ACC: tl.constexpr,
    ROWS: tl.constexpr,
    D: tl.constexpr,
):
    sample, e, mask = orbit_rows(B, E, P, ROWS)
    row = e.to(tl.int64) * B + sample
    own = vectors + row * v0
    products, squares, square = measure(own, v1, mask, reference, r0, d, ROWS, D, ACC)

    ts, te, tm = orbit_table(B, E, P, ROWS)
    grad, passing = score_gradient(
        grad_activations, grad_probabilities, probabilities, tl.full((), beta, ACC), ts, te, tm, E, a0, a1, p0, p1, ACC
    )
    if grad_prior is not None:
        factor = tl.full((), prior_beta, ACC)
        grad += prior_gradient(grad_prior, target, activations, factor, ts, te, tm, B, E, t0, ACC)
    grad, passing = tl.reshape(grad, (ROWS,)), tl.reshape(passing, (ROWS,))
    across, along, along_r = vector_gradient(grad, passing, products, squares, square, COSINE)
    less = tl.sum(along_r, 0)

    inverse = inverse_of(at_least(tl.sqrt(squares), 1e-12))
    apart = tl.zeros((ROWS,), ACC)
    if grad_contrastive is not None:
        apart = tl.full((ROWS,), 2, ACC) * tl.load(grad_contrastive).to(ACC) / (E * E) / B
        if NORMALIZE:
            apart *= inverse
            radial = radial_part(vectors, inverse, gram, sample, e, mask, B, E, d, v0, v1, P, ROWS, D, ACC)
            along += apart * radial

    used = mask & ((across != 0) | (along != 0))  # other rows may hold ∞, and 0·∞ is NaN
    for start in tl.range(0, d, D):
        k = columns(start, D)
        r = load_finite(reference, k, r0, d, ACC)
        v = load_rows(own, k, v1, used, d, ACC)
        g = across[:, None] * r[None, :]
        if COSINE or (NORMALIZE and grad_contrastive is not None):
            g -= along[:, None] * v
        if grad_contrastive is not None:
            t = towards(vectors, inverse, gram, sample, e, mask, k, B, E, d, v0, v1, NORMALIZE, P, ROWS, D, ACC)
            g += apart[:, None] * t
        tl.store(grad_vectors + row[:, None] * d + k[None, :], g, mask=mask[:, None] & (k < d)[None, :])
        mine = tl.sum(across[:, None] * v, 0) - less * r
        tl.store(partial + tl.program_id(0).to(tl.int64) * d + k, mine, mask=k < d)


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
    partial = vectors.new_empty((2, tile(order, d, batch, vectors.dtype).blocks), dtype=wide)
    strides = *vectors.stride(), *reference.stride(), *_stride(target)
    FORWARD.launch(
        (vectors.shape, strides, vectors.dtype, order, cosine, normalize, target is None),
        (vectors, reference, target, activations, probabilities, element, gram, partial),
        lambda: problem(vectors, order, strides, {"COSINE": cosine, **flags(vectors, order, normalize)}, registers=64),
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
    count = tile(order, d, batch, vectors.dtype).blocks
    partial = vectors.new_empty((count, d), dtype=accumulate_dtype(vectors.dtype))
    strides = (
        *strides_of(grad_activations),
        *strides_of(grad_probabilities),
        *vectors.stride(),
        *reference.stride(),
        *_stride(target),
    )
    given = tuple(t is None for t in (*grads, target))
    saved = activations.contiguous(), probabilities.contiguous(), gram.contiguous()
    BACKWARD.launch(
        (vectors.shape, strides, vectors.dtype, order, cosine, normalize, given),
        (*grads, vectors, reference, target, *saved, grad_vectors, partial),
        lambda: problem(vectors, order, strides, {"COSINE": cosine, **flags(vectors, order, normalize)}, 128, 128),
        (float(beta), float(prior_beta)),
    )
    return grad_vectors, total(partial, reference)


def _stride(target: Tensor | None) -> tuple[int]:
    return (0,) if target is None else target.stride()
