"""`orbit_scores`: similarities, softmax and arg max in one pass over the vectors, and one pass back."""

from __future__ import annotations

from functools import lru_cache
from typing import NamedTuple

import torch
import triton
import triton.language as tl
from torch import Tensor

from ..dtypes import accumulate_dtype
from ._launch import Config, Kernel, Problem, accumulator, ceil_div, power_of_two


@triton.jit
def orbit_rows(B, E, P: tl.constexpr, ROWS: tl.constexpr):
    """The rows of a tile, sample by sample, P places for the E vectors of each: (sample, element, whether it is)."""
    row = tl.arange(0, ROWS)
    sample = tl.program_id(0).to(tl.int64) * (ROWS // P) + row // P
    element = row % P
    return sample, element, (element < E) & (sample < B)


@triton.jit
def orbit_table(B, E, P: tl.constexpr, ROWS: tl.constexpr):
    """The same tile as (samples, P), for what is one number a vector: (sample, element, whether it is)."""
    sample = tl.program_id(0).to(tl.int64) * (ROWS // P) + tl.arange(0, ROWS // P)[:, None]
    element = tl.arange(0, P)[None, :]
    return sample, element, (element < E) & (sample < B)


@triton.jit
def load_rows(rows, k, stride, mask, d, ACC: tl.constexpr):
    return tl.load(rows[:, None] + k[None, :] * stride, mask=mask[:, None] & (k < d)[None, :], other=0).to(ACC)


@triton.jit
def columns(start, D: tl.constexpr):
    return start + tl.arange(0, D).to(tl.int64)


@triton.jit
def measure(rows, stride, mask, reference, reference_stride, d, ROWS: tl.constexpr, D: tl.constexpr, ACC: tl.constexpr):
    """Of each row its product with the reference and its square, and the square of the reference."""
    products = tl.zeros((ROWS,), ACC)
    squares = tl.zeros((ROWS,), ACC)
    square = tl.zeros((1,), ACC)
    for start in tl.range(0, d, D):
        k = columns(start, D)
        r = tl.load(reference + k * reference_stride, mask=k < d, other=0).to(ACC)
        v = load_rows(rows, k, stride, mask, d, ACC)
        products += tl.sum(v * r[None, :], 1)
        squares += tl.sum(v * v, 1)
        square += tl.sum(r * r, 0)
    return products, squares, square


@triton.jit
def at_least(x, floor):
    """Not ``tl.maximum``, which would turn NaN into the floor."""
    return tl.where(x < floor, floor, x)


@triton.jit
def similarity(products, squares, square, COSINE: tl.constexpr):
    if COSINE:
        return products / (at_least(tl.sqrt(squares), 1e-8) * at_least(tl.sqrt(square), 1e-8))
    return products


@triton.jit
def load_finite(vector, k, stride, d, ACC: tl.constexpr):
    """Some columns of a vector, with 0 for what is not finite: it has no gradient, and 0·∞ would be NaN."""
    v = tl.load(vector + k * stride, mask=k < d, other=0).to(ACC)
    return tl.where(tl.abs(v) < float("inf"), v, 0)


@triton.jit
def logits_of(scores, beta, mask):
    """``beta·scores``, in which a score of −∞ stays −∞ whatever beta is; −∞ outside the mask."""
    return tl.where(mask & (scores != -float("inf")), scores * beta, -float("inf"))


@triton.jit
def choose(scores, returned, beta, E, P: tl.constexpr):
    """Probabilities (samples, P) and the lowest id of the maximum.

    A score of −∞ masks its element. A sample with NaN or +∞ among its scores as ``returned``, in their dtype, or with
    −∞ alone, gets the identity and NaN probabilities.
    """
    ids = tl.arange(0, P)[None, :]
    real = ids < E
    unusable = tl.max(tl.where(real & ~(returned < float("inf")), 1, 0), 1)
    some = tl.max(tl.where(real & (returned > -float("inf")), 1, 0), 1)
    usable = (unusable == 0) & (some > 0)
    logits = logits_of(scores, beta, real)
    weights = tl.exp(logits - tl.max(logits, 1)[:, None])
    probabilities = weights / tl.sum(weights, 1)[:, None]
    best = tl.max(tl.where(real, scores, -float("inf")), 1)
    element = tl.min(tl.where(real & (scores == best[:, None]), ids, P), 1)
    return tl.where(usable[:, None], probabilities, float("nan")), tl.where(usable, element, 0)


@triton.jit
def store_choice(scores, beta, activations, probabilities, element, B, E, P: tl.constexpr, ROWS: tl.constexpr):
    """Stores the scores and the choice; returns the scores as they are stored, rounded to their dtype."""
    sample, e, mask = orbit_table(B, E, P, ROWS)
    returned = scores.to(activations.dtype.element_ty).to(scores.dtype)
    p, best = choose(scores, returned, beta, E, P)
    tl.store(activations + sample * E + e, scores, mask=mask)
    tl.store(probabilities + sample * E + e, p, mask=mask)
    first = tl.program_id(0).to(tl.int64) * (ROWS // P) + tl.arange(0, ROWS // P)
    tl.store(element + first, best.to(tl.int64), mask=first < B)
    return returned


@triton.jit
def score_gradient(grad_activations, grad_probabilities, probabilities, beta, sample, e, mask, E, a0, a1, p0, p1, ACC):
    """(samples, P): the gradient of the activations, directly and through the probabilities; and where it may pass: not
    in a sample that fell back, whose probabilities are NaN.
    """
    p = tl.load(probabilities + sample * E + e, mask=mask, other=0).to(ACC)
    grad = tl.zeros(mask.shape, ACC)
    if grad_activations is not None:
        grad += tl.load(grad_activations + sample * a0 + e * a1, mask=mask, other=0).to(ACC)
    if grad_probabilities is not None:
        gp = tl.load(grad_probabilities + sample * p0 + e * p1, mask=mask, other=0).to(ACC)
        grad += tl.where(mask, beta * p * (gp - tl.sum(p * gp, 1)[:, None]), 0)
    return grad, p == p


@triton.jit
def vector_gradient(grad, passing, products, squares, square, COSINE: tl.constexpr):
    """(across, along, along_r): dv = across·r − along·v, and dr = Σ across·v − Σ along_r·r.

    All are 0 where the score is not finite or ``passing`` is false.
    """
    if COSINE:
        n, m = tl.sqrt(squares), tl.sqrt(square)
        cn, cm = at_least(n, 1e-8), at_least(m, 1e-8)
        score = products / (cn * cm)
        keep = passing & (tl.abs(score) < float("inf"))
        across = tl.where(keep, grad / (cn * cm), 0)
        along = tl.where(keep & (n > 1e-8), grad * score / cn / cn, 0)
        return across, along, tl.where(keep & (m > 1e-8), grad * score / cm / cm, 0)
    keep = passing & (tl.abs(products) < float("inf"))
    return tl.where(keep, grad, 0), tl.zeros_like(grad), tl.zeros_like(grad)


@triton.jit
def _orbit_scores_kernel(
    vectors,
    reference,
    activations,
    probabilities,
    element,
    B,
    E,
    d,
    v0,
    v1,
    r0,
    beta: tl.float64,
    COSINE: tl.constexpr,
    P: tl.constexpr,
    ACC: tl.constexpr,
    ROWS: tl.constexpr,
    D: tl.constexpr,
):
    sample, e, mask = orbit_rows(B, E, P, ROWS)
    rows = vectors + (e.to(tl.int64) * B + sample) * v0
    products, squares, square = measure(rows, v1, mask, reference, r0, d, ROWS, D, ACC)
    scores = tl.reshape(similarity(products, squares, square, COSINE), (ROWS // P, P))
    store_choice(scores, tl.full((), beta, ACC), activations, probabilities, element, B, E, P, ROWS)


@triton.jit
def _orbit_scores_backward_kernel(
    grad_activations,
    grad_probabilities,
    vectors,
    reference,
    probabilities,
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
    beta: tl.float64,
    COSINE: tl.constexpr,
    P: tl.constexpr,
    ACC: tl.constexpr,
    ROWS: tl.constexpr,
    D: tl.constexpr,
):
    sample, e, mask = orbit_rows(B, E, P, ROWS)
    row = e.to(tl.int64) * B + sample
    products, squares, square = measure(vectors + row * v0, v1, mask, reference, r0, d, ROWS, D, ACC)
    ts, te, tm = orbit_table(B, E, P, ROWS)
    factor = tl.full((), beta, ACC)
    grad, passing = score_gradient(
        grad_activations, grad_probabilities, probabilities, factor, ts, te, tm, E, a0, a1, p0, p1, ACC
    )
    grad, passing = tl.reshape(grad, (ROWS,)), tl.reshape(passing, (ROWS,))
    across, along, along_r = vector_gradient(grad, passing, products, squares, square, COSINE)
    total = tl.sum(along_r, 0)
    used = mask & ((across != 0) | (along != 0))  # other rows may hold ∞, and 0·∞ is NaN
    for start in tl.range(0, d, D):
        k = columns(start, D)
        r = load_finite(reference, k, r0, d, ACC)
        v = load_rows(vectors + row * v0, k, v1, used, d, ACC)
        g = across[:, None] * r[None, :]
        if COSINE:
            g -= along[:, None] * v
        tl.store(grad_vectors + row[:, None] * d + k[None, :], g, mask=mask[:, None] & (k < d)[None, :])
        mine = tl.sum(across[:, None] * v, 0) - total * r
        tl.store(partial + tl.program_id(0).to(tl.int64) * d + k, mine, mask=k < d)


FORWARD = Kernel(_orbit_scores_kernel, fuse_multiply_add=True)
BACKWARD = Kernel(_orbit_scores_backward_kernel, fuse_multiply_add=True)


class Tile(NamedTuple):
    """Whole orbits of some samples, ``rows`` places in all, and as much of their vectors as fits."""

    rows: int
    width: int
    blocks: int
    warps: int


@lru_cache(maxsize=1024)
def tile(order: int, size: int, batch: int, dtype: torch.dtype) -> Tile:
    """The more blocks, the larger they are."""
    places = power_of_two(order)
    most, each = (1024, 2) if dtype == torch.float64 else (4096, 8)  # numbers a block and a thread: more would spill
    width = min(max(power_of_two(size), 16), max(most // places, 16), 128)
    rows = max(places, 1024 // width)
    while rows * width < most and batch * places > 256 * rows:
        rows *= 2
    warps = min(max(rows * width // (32 * each), 4), 16)
    return Tile(rows, width, ceil_div(batch, rows // places), warps)


def problem(
    vectors: Tensor,
    order: int,
    scalars: tuple,
    constants: dict[str, int],
    registers: int | None = None,
    registers_small: int | None = None,
) -> Problem:
    """One block for each tile of (E·B, d) vectors. ``registers`` is that of `Config` for the largest tiles,
    ``registers_small`` for all others.
    """
    batch, d = vectors.shape[0] // order, vectors.shape[1]
    t = tile(order, d, batch, vectors.dtype)
    shape = {"P": power_of_two(order), "ACC": accumulator(vectors.dtype), "ROWS": t.rows, "D": t.width}
    config = Config({}, t.warps, registers=registers if t.warps == 16 else registers_small)
    return Problem(lambda _: t.blocks, (batch, order, d, *scalars), constants | shape, [config])


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
            lambda: problem(vectors, order, strides, {"COSINE": cosine}),
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
    count = tile(order, d, batch, vectors.dtype).blocks
    partial = vectors.new_empty((count, d), dtype=accumulate_dtype(vectors.dtype))
    strides = *strides_of(grad_activations), *strides_of(grad_probabilities), *vectors.stride(), *reference.stride()
    BACKWARD.launch(
        (
            vectors.shape,
            strides,
            vectors.dtype,
            order,
            cosine,
            grad_activations is None,
            grad_probabilities is None,
        ),
        (grad_activations, grad_probabilities, vectors, reference, probabilities.contiguous(), grad_vectors, partial),
        lambda: problem(vectors, order, strides, {"COSINE": cosine}),
        (float(beta),),
    )
    return grad_vectors, total(partial, reference)


def strides_of(t: Tensor | None) -> tuple[int, int]:
    return (0, 0) if t is None else t.stride()


def total(partial: Tensor, like: Tensor) -> Tensor:
    """The sum over blocks, always in the same order."""
    return partial.sum(0).to(like.dtype)
