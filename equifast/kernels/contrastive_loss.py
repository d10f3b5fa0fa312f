"""`contrastive_loss`: the inner products of each sample's vectors, and their gradient."""

from __future__ import annotations

import torch
import triton
import triton.language as tl
from torch import Tensor

from ..dtypes import accumulate_dtype
from ._launch import Config, Kernel, Problem, accumulator
from .orbit_scores import at_least, columns, load_rows, orbit_rows, problem, tile


@triton.jit
def lengths(rows, stride, mask, d, ROWS: tl.constexpr, D: tl.constexpr, ACC: tl.constexpr):
    squares = tl.zeros((ROWS,), ACC)
    for start in tl.range(0, d, D):
        v = load_rows(rows, columns(start, D), stride, mask, d, ACC)
        squares += tl.sum(v * v, 1)
    return at_least(tl.sqrt(squares), 1e-12)


@triton.jit
def inverse_of(length):
    """What makes a unit vector of a vector; 0 if the length is not finite."""
    return tl.where(length < float("inf"), 1 / length, 0)


@triton.jit
def of_element(values, h, P: tl.constexpr, ROWS: tl.constexpr):
    """For each row of a tile the value of its sample's element h."""
    return tl.gather(values, tl.arange(0, ROWS) // P * P + h, 0)


@triton.jit
def gram_matrix(
    vectors,
    length,
    gram,
    sample,
    e,
    mask,
    B,
    E,
    d,
    v0,
    v1,
    NORMALIZE,
    WHOLE,
    P: tl.constexpr,
    ROWS: tl.constexpr,
    D,
    ACC,
):
    """Stores the Gram matrix of each sample without its diagonal; returns the sum of magnitudes of each row."""
    total = tl.zeros((ROWS,), ACC)
    own = vectors + (e.to(tl.int64) * B + sample) * v0
    whole = load_rows(own, columns(0, D), v1, mask, d, ACC)
    for h in tl.range(0, E, loop_unroll_factor=2):
        others = own + (h - e).to(tl.int64) * B * v0
        if WHOLE:
            product = tl.sum(whole * load_rows(others, columns(0, D), v1, mask, d, ACC), 1)
        else:
            product = tl.zeros((ROWS,), ACC)
            for start in tl.range(0, d, D):
                k = columns(start, D)
                v = load_rows(own, k, v1, mask, d, ACC)
                product += tl.sum(v * load_rows(others, k, v1, mask, d, ACC), 1)
        if NORMALIZE:
            product = product / length / of_element(length, h, P, ROWS)
        product = tl.where(e == h, 0, product)
        tl.store(gram + (sample * E + e) * E + h, product, mask=mask)
        total += tl.where(mask, tl.abs(product), 0)
    return total


@triton.jit
def towards(
    vectors, inverse, gram, sample, e, mask, k, B, E, d, v0, v1, NORMALIZE, P: tl.constexpr, ROWS: tl.constexpr, D, ACC
):
    """Σ_h sign⟨v_e, v_h⟩·v_h for each row, in some columns; of unit vectors if so asked.

    A product that is not finite counts as 0. What counts as 0 is not read, since 0·∞ would be NaN.
    """
    total = tl.zeros((ROWS, D), ACC)
    own = vectors + (e.to(tl.int64) * B + sample) * v0
    for h in tl.range(0, E, loop_unroll_factor=2):
        product = tl.load(gram + (sample * E + e) * E + h, mask=mask, other=0)
        sign = (product > 0).to(ACC) - (product < 0).to(ACC)
        sign = tl.where(tl.abs(product) < float("inf"), sign, 0)
        counts = mask & (sign != 0)
        if NORMALIZE:
            sign *= of_element(inverse, h, P, ROWS)
        others = own + (h - e).to(tl.int64) * B * v0
        total += sign[:, None] * load_rows(others, k, v1, counts, d, ACC)
    return total


@triton.jit
def radial_part(
    vectors, inverse, gram, sample, e, mask, B, E, d, v0, v1, P: tl.constexpr, ROWS: tl.constexpr, D: tl.constexpr, ACC
):
    """Of each row ⟨towards, u⟩/|v|, with u the unit vector: what normalisation takes away again, a multiple of v.

    0 for a vector whose length is not finite.
    """
    radial = tl.zeros((ROWS,), ACC)
    own = vectors + (e.to(tl.int64) * B + sample) * v0
    for start in tl.range(0, d, D):
        k = columns(start, D)
        g = towards(vectors, inverse, gram, sample, e, mask, k, B, E, d, v0, v1, True, P, ROWS, D, ACC)
        radial += tl.sum(g * load_rows(own, k, v1, mask & (inverse > 0), d, ACC), 1)
    return radial * inverse * inverse


@triton.jit
def _contrastive_loss_kernel(
    vectors,
    gram,
    partial,
    B,
    E,
    d,
    v0,
    v1,
    NORMALIZE: tl.constexpr,
    WHOLE: tl.constexpr,
    P: tl.constexpr,
    ACC: tl.constexpr,
    ROWS: tl.constexpr,
    D: tl.constexpr,
):
    sample, e, mask = orbit_rows(B, E, P, ROWS)
    length = tl.zeros((ROWS,), ACC)
    if NORMALIZE:
        length = lengths(vectors + (e.to(tl.int64) * B + sample) * v0, v1, mask, d, ROWS, D, ACC)
    each = gram_matrix(vectors, length, gram, sample, e, mask, B, E, d, v0, v1, NORMALIZE, WHOLE, P, ROWS, D, ACC)
    tl.store(partial + tl.program_id(0), tl.sum(each, 0))


@triton.jit
def _contrastive_loss_backward_kernel(
    grad,
    vectors,
    gram,
    grad_vectors,
    B,
    E,
    d,
    v0,
    v1,
    NORMALIZE: tl.constexpr,
    WHOLE: tl.constexpr,
    P: tl.constexpr,
    ACC: tl.constexpr,
    ROWS: tl.constexpr,
    D: tl.constexpr,
):
    sample, e, mask = orbit_rows(B, E, P, ROWS)
    row = e.to(tl.int64) * B + sample
    factor = tl.full((ROWS,), 2, ACC) * tl.load(grad).to(ACC) / (E * E) / B
    inverse = tl.zeros((ROWS,), ACC)
    radial = tl.zeros((ROWS,), ACC)
    if NORMALIZE:
        inverse = inverse_of(lengths(vectors + row * v0, v1, mask, d, ROWS, D, ACC))
        radial = radial_part(vectors, inverse, gram, sample, e, mask, B, E, d, v0, v1, P, ROWS, D, ACC)
        factor *= inverse
    for start in tl.range(0, d, D):
        k = columns(start, D)
        g = towards(vectors, inverse, gram, sample, e, mask, k, B, E, d, v0, v1, NORMALIZE, P, ROWS, D, ACC)
        if NORMALIZE:
            g -= radial[:, None] * load_rows(vectors + row * v0, k, v1, mask & (inverse > 0), d, ACC)
        g = factor[:, None] * g
        tl.store(grad_vectors + row[:, None] * d + k[None, :], g, mask=mask[:, None] & (k < d)[None, :])


@triton.jit
def _mean_kernel(partial, contrastive, prior, G, B, E, ACC: tl.constexpr, N: tl.constexpr):
    """The sums of one or two rows of G partial sums, over what they are means of."""
    total = tl.zeros((N,), ACC)
    for start in tl.range(0, G, N):
        i = start + tl.arange(0, N)
        total += tl.load(partial + i, mask=i < G, other=0)
    tl.store(contrastive, tl.sum(total, 0) / (E * E) / B)
    if prior is not None:
        total = tl.zeros((N,), ACC)
        for start in tl.range(0, G, N):
            i = start + tl.arange(0, N)
            total += tl.load(partial + G + i, mask=i < G, other=0)
        tl.store(prior, tl.sum(total, 0) / B)


FORWARD = Kernel(_contrastive_loss_kernel, fuse_multiply_add=True)
BACKWARD = Kernel(_contrastive_loss_backward_kernel, fuse_multiply_add=True)
MEAN = Kernel(_mean_kernel, fuse_multiply_add=True)


def mean(partial: Tensor, contrastive: Tensor, prior: Tensor | None, order: int, batch: int) -> None:
    count = partial.shape[-1]
    MEAN.launch(
        (count, order, batch, contrastive.dtype, prior is None),
        (partial, contrastive, prior),
        lambda: Problem(
            grid=lambda _: 1,
            scalars=(count, batch, order),
            constants={"ACC": accumulator(partial.dtype), "N": 1024},
            configs=[Config({}, 4)],
        ),
    )


def flags(vectors: Tensor, order: int, normalize: bool) -> dict[str, int]:
    batch, d = vectors.shape[0] // order, vectors.shape[1]
    return {"NORMALIZE": normalize, "WHOLE": d <= tile(order, d, batch, vectors.dtype).width}


def contrastive_loss(vectors: Tensor, order: int, normalize: bool) -> tuple[Tensor, Tensor]:
    batch, d = vectors.shape[0] // order, vectors.shape[1]
    wide = accumulate_dtype(vectors.dtype)
    gram = vectors.new_empty((batch, order, order), dtype=wide)
    if not batch:
        return vectors.new_full((), torch.nan), gram
    loss = vectors.new_empty(())
    partial = vectors.new_empty((tile(order, d, batch, vectors.dtype).blocks,), dtype=wide)
    FORWARD.launch(
        (vectors.shape, vectors.stride(), vectors.dtype, order, normalize),
        (vectors, gram, partial),
        lambda: problem(vectors, order, vectors.stride(), flags(vectors, order, normalize), registers=64),
    )
    mean(partial, loss, None, order, batch)
    return loss, gram


def contrastive_loss_backward(grad: Tensor, vectors: Tensor, gram: Tensor, normalize: bool) -> Tensor:
    batch, order = gram.shape[:2]
    grad_vectors = vectors.new_empty(vectors.shape)
    if batch:
        BACKWARD.launch(
            (vectors.shape, vectors.stride(), vectors.dtype, order, normalize),
            (grad, vectors, gram.contiguous(), grad_vectors),
            lambda: problem(vectors, order, vectors.stride(), flags(vectors, order, normalize), registers=128),
        )
    return grad_vectors
