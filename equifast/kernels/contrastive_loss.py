"""`contrastive_loss`: the inner products of each sample's vectors, and their gradient."""

from __future__ import annotations

import torch
import triton
import triton.language as tl
from torch import Tensor

from ..dtypes import accumulate_dtype
from .device.gram import gram_matrix, inverse_of, lengths, radial_part, towards
from .device.vectors import columns, load_rows, orbit_rows, vector_pointers
from .host.launch import Config, Kernel, Problem
from .host.sizes import accumulator
from .host.vectors import vector_problem, vector_tile


@triton.jit
def _contrastive_loss_kernel(
    vectors, gram, partial, B, E, d, v_row, v_col,
    NORMALIZE: tl.constexpr, WHOLE: tl.constexpr, PLACES: tl.constexpr, TYPE: tl.constexpr,
    ROWS: tl.constexpr, BLOCK_D: tl.constexpr,
):  # fmt: skip
    """Store the Gram matrices, and ``partial[block] = Σ |⟨v_e, v_h⟩|`` over the samples of this block."""
    sample, e, mask = orbit_rows(B, E, PLACES, ROWS)
    length = tl.zeros((ROWS,), TYPE)
    if NORMALIZE:
        length = lengths(vector_pointers(vectors, sample, e, B, v_row), v_col, mask, d, ROWS, BLOCK_D, TYPE)
    each = gram_matrix(
        vectors, length, gram, sample, e, mask, B, E, d, v_row, v_col, NORMALIZE, WHOLE, PLACES, ROWS, BLOCK_D, TYPE
    )  # [ROWS] # fmt: skip
    tl.store(partial + tl.program_id(0), tl.sum(each, 0))


@triton.jit
def _contrastive_loss_backward_kernel(
    grad, vectors, gram, grad_vectors, B, E, d, v_row, v_col,
    NORMALIZE: tl.constexpr, WHOLE: tl.constexpr, PLACES: tl.constexpr, TYPE: tl.constexpr,
    ROWS: tl.constexpr, BLOCK_D: tl.constexpr,
):  # fmt: skip
    """``grad_vectors[e, b] = 2·grad / (E²·B) · Σ_h sign⟨v_e, v_h⟩·v_h``, less its radial part if NORMALIZE."""
    sample, e, mask = orbit_rows(B, E, PLACES, ROWS)
    row = e.to(tl.int64) * B + sample
    factor = tl.full((ROWS,), 2, TYPE) * tl.load(grad).to(TYPE) / (E * E) / B
    inverse = tl.zeros((ROWS,), TYPE)
    radial = tl.zeros((ROWS,), TYPE)
    if NORMALIZE:
        inverse = inverse_of(lengths(vectors + row * v_row, v_col, mask, d, ROWS, BLOCK_D, TYPE))
        radial = radial_part(
            vectors, inverse, gram, sample, e, mask, B, E, d, v_row, v_col, PLACES, ROWS, BLOCK_D, TYPE
        )  # fmt: skip
        factor *= inverse
    for start in tl.range(0, d, BLOCK_D):
        k = columns(start, BLOCK_D)
        g = towards(
            vectors, inverse, gram, sample, e, mask, k, B, E, d, v_row, v_col, NORMALIZE, PLACES, ROWS, BLOCK_D, TYPE
        )  # [ROWS, BLOCK_D] # fmt: skip
        if NORMALIZE:
            g -= radial[:, None] * load_rows(vectors + row * v_row, k, v_col, mask & (inverse > 0), d, TYPE)
        g = factor[:, None] * g
        tl.store(grad_vectors + row[:, None] * d + k[None, :], g, mask=mask[:, None] & (k < d)[None, :])


@triton.jit
def _mean_kernel(partial, contrastive, prior, G, B, E, TYPE: tl.constexpr, BLOCK_G: tl.constexpr):
    """``contrastive = Σ partial[0] / (E²·B)``, and ``prior = Σ partial[1] / B`` if it is asked for; G blocks."""
    total = tl.zeros((BLOCK_G,), TYPE)
    for start in tl.range(0, G, BLOCK_G):
        i = start + tl.arange(0, BLOCK_G)
        total += tl.load(partial + i, mask=i < G, other=0)
    tl.store(contrastive, tl.sum(total, 0) / (E * E) / B)
    if prior is not None:
        total = tl.zeros((BLOCK_G,), TYPE)
        for start in tl.range(0, G, BLOCK_G):
            i = start + tl.arange(0, BLOCK_G)
            total += tl.load(partial + G + i, mask=i < G, other=0)
        tl.store(prior, tl.sum(total, 0) / B)


FORWARD = Kernel(_contrastive_loss_kernel, fuse_multiply_add=True)
BACKWARD = Kernel(_contrastive_loss_backward_kernel, fuse_multiply_add=True)
MEAN = Kernel(_mean_kernel, fuse_multiply_add=True)


def mean(partial: Tensor, contrastive: Tensor, prior: Tensor | None, order: int, batch: int) -> None:
    """Fill the scalars with the means of what the blocks of the forward kernel summed."""
    count = partial.shape[-1]
    MEAN.launch(
        (count, order, batch, contrastive.dtype, prior is None),
        (partial, contrastive, prior),
        lambda: Problem(
            grid=lambda _: 1,
            scalars=(count, batch, order),
            constants={"TYPE": accumulator(partial.dtype), "BLOCK_G": 1024},
            configs=[Config({}, 4)],
        ),
    )


def contrastive_constants(vectors: Tensor, order: int, normalize: bool) -> dict[str, int]:
    batch, d = vectors.shape[0] // order, vectors.shape[1]
    return {"NORMALIZE": normalize, "WHOLE": d <= vector_tile(order, d, batch, vectors.dtype).width}


def contrastive_loss(vectors: Tensor, order: int, normalize: bool) -> tuple[Tensor, Tensor]:
    batch, d = vectors.shape[0] // order, vectors.shape[1]
    wide = accumulate_dtype(vectors.dtype)
    gram = vectors.new_empty((batch, order, order), dtype=wide)
    if not batch:
        return vectors.new_full((), torch.nan), gram
    loss = vectors.new_empty(())
    partial = vectors.new_empty((vector_tile(order, d, batch, vectors.dtype).blocks,), dtype=wide)
    strides = vectors.stride()
    FORWARD.launch(
        (vectors.shape, strides, vectors.dtype, order, normalize),
        (vectors, gram, partial),
        lambda: vector_problem(vectors, order, strides, contrastive_constants(vectors, order, normalize), registers=64),
    )
    mean(partial, loss, None, order, batch)
    return loss, gram


def contrastive_loss_backward(grad: Tensor, vectors: Tensor, gram: Tensor, normalize: bool) -> Tensor:
    batch, order = gram.shape[:2]
    grad_vectors = vectors.new_empty(vectors.shape)
    if batch:
        strides = vectors.stride()
        BACKWARD.launch(
            (vectors.shape, strides, vectors.dtype, order, normalize),
            (grad, vectors, gram.contiguous(), grad_vectors),
            # Left to itself, ptxas would spill two registers of small tiles to fit another block (Triton 3.9, sm_80).
            lambda: vector_problem(
                *(vectors, order, strides, contrastive_constants(vectors, order, normalize)),
                registers=128,
                registers_small=128,
            ),
        )
    return grad_vectors
