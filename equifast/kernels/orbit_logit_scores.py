"""`orbit_logit_scores`: a score of each row of logits, softmax and arg max in one pass, and two passes back."""

from __future__ import annotations

import torch
import triton
import triton.language as tl
from torch import Tensor

from ..dtypes import accumulate_dtype
from .device.scores import score_gradient, store_choice
from .device.vectors import columns, orbit_rows, orbit_table, vector_pointers
from .host.launch import Config, Kernel, Problem
from .host.sizes import accumulator, ceil_div, power_of_two
from .host.vectors import strides_of

#: The logits that a block and a thread hold at once, as in `vector_tile`: in float64, and in other types.
TILE_FLOAT64, TILE = (1024, 2), (4096, 8)


@triton.jit
def _finite(x):
    """x, or 0 for an infinity: what exponentials are taken relative to."""
    return tl.where(tl.abs(x) < float("inf"), x, 0)


@triton.jit
def _exponentials(z, top):
    """``exp(z − top)``, where a logit of −∞ has 0 and ``top`` may be infinite: [ROWS, BLOCK_K]."""
    return tl.exp(z - _finite(top)[:, None])


@triton.jit
def _below(z, top):
    """``z − top``, but 0 for a logit of −∞, whose weight is 0: [ROWS, BLOCK_K]."""
    return tl.where(z == -float("inf"), 0, z - _finite(top)[:, None])


@triton.jit
def _load(rows, k, stride, mask, K, TYPE: tl.constexpr):
    """Logits k of the rows, −∞ beyond their ends: [ROWS, BLOCK_K]."""
    inside = mask[:, None] & (k < K)[None, :]
    return tl.load(rows[:, None] + k[None, :] * stride, mask=inside, other=-float("inf")).to(TYPE)


@triton.jit
def _first(found, k, NONE):
    """The least k of those that are found in each row, or NONE: [ROWS]."""
    return tl.min(tl.where(found, k[None, :], NONE), 1)


@triton.jit
def _measure(
    rows, stride, mask, index, K,
    SCORE: tl.constexpr, TYPE: tl.constexpr, ROWS: tl.constexpr, BLOCK_K: tl.constexpr,
):  # fmt: skip
    """(score, place, top, total, level) of each row, [ROWS] each.

    Of the logits, the one at ``place`` stands against the others: the largest, or that of the class ``index``. Scores
    by energy and entropy have none, so the others are all. ``top`` is the largest of the others, ``total`` the sum of
    their exponentials relative to it, and ``level`` the entropy's Σ p·log p, else 0.

    One block of logits after the other is joined to those before. Of two largest logits, the lesser one then joins the
    others.
    """
    own = tl.full((ROWS,), -float("inf"), TYPE)
    top = tl.full((ROWS,), -float("inf"), TYPE)
    place = tl.zeros((ROWS,), tl.int64)
    total = tl.zeros((ROWS,), TYPE)
    tilt = tl.zeros((ROWS,), TYPE)
    poison = tl.zeros((ROWS,), TYPE)  # NaN if a logit is
    if SCORE == "class":
        place = index
        exists = (index >= 0) & (index < K)
        own = tl.load(rows + tl.where(exists, index, 0) * stride, mask=mask & exists, other=float("nan")).to(TYPE)
    for start in tl.range(0, K, BLOCK_K):
        k = columns(start, BLOCK_K)
        z = _load(rows, k, stride, mask, K, TYPE)
        poison += tl.sum(tl.where(z == z, 0.0, float("nan")).to(TYPE), 1)
        joining = tl.full((ROWS,), -float("inf"), TYPE)
        if SCORE == "class":
            z = tl.where(k[None, :] == index[:, None], -float("inf"), z)
        if SCORE == "confidence" or SCORE == "margin":
            best = tl.max(z, 1)
            at = _first(z == best[:, None], k, K)
            z = tl.where(k[None, :] == at[:, None], -float("inf"), z)
            joining = tl.minimum(own, best)
            place = tl.where(best > own, at, place)
            own = tl.maximum(own, best)
        others = tl.max(z, 1)
        highest = tl.maximum(tl.maximum(top, others), joining)
        if SCORE != "margin":
            # Relative to a higher top, an older sum is smaller. It is 0 where the older top is −∞.
            change = tl.minimum(_finite(top) - _finite(highest), 0.0)
            weights = _exponentials(z, highest)
            if SCORE == "negative_entropy":
                tilt = (tilt + change * total) * tl.exp(change) + tl.sum(weights * _below(z, highest), 1)
            total = total * tl.exp(change) + tl.sum(weights, 1)
            if SCORE == "confidence":
                total += tl.exp(joining - _finite(highest))
        top = highest
    level = tl.zeros((ROWS,), TYPE)
    if SCORE == "margin":
        score = own - top
    else:
        scale = tl.log(total)
        if SCORE == "energy":
            score = _finite(top) + scale
        elif SCORE == "negative_entropy":
            level = tilt / total - scale
            score = level
        else:
            score = (own - _finite(top)) - scale
    return score + poison, place, top, total, level


@triton.jit
def _classes(index, sample, mask, SCORE: tl.constexpr):
    """The class of the sample of each row, 0 where there is none: [ROWS]."""
    if SCORE == "class":
        return tl.load(index + sample, mask=mask, other=0)
    return tl.zeros_like(sample)


@triton.jit
def _orbit_logit_scores_kernel(
    logits, index, activations, probabilities, element,
    B, E, K, z_row, z_col, beta: tl.float64,
    SCORE: tl.constexpr, PLACES: tl.constexpr, TYPE: tl.constexpr, ROWS: tl.constexpr, BLOCK_K: tl.constexpr,
):  # fmt: skip
    """Store the scores of the samples of this block, ``softmax(beta·scores)`` and the arg max."""
    sample, e, mask = orbit_rows(B, E, PLACES, ROWS)
    rows = vector_pointers(logits, sample, e, B, z_row)
    classes = _classes(index, sample, mask, SCORE)
    scores, _, _, _, _ = _measure(rows, z_col, mask, classes, K, SCORE, TYPE, ROWS, BLOCK_K)
    table = tl.reshape(scores, (ROWS // PLACES, PLACES))
    store_choice(table, tl.full((), beta, TYPE), activations, probabilities, element, B, E, PLACES, ROWS)


@triton.jit
def _orbit_logit_scores_backward_kernel(
    grad_activations, grad_probabilities, logits, index, probabilities, grad_logits,
    B, E, K, a_row, a_col, p_row, p_col, z_row, z_col, beta: tl.float64,
    SCORE: tl.constexpr, PLACES: tl.constexpr, TYPE: tl.constexpr, ROWS: tl.constexpr, BLOCK_K: tl.constexpr,
):  # fmt: skip
    """Store the gradient of the logits of this block: of each row, that of its score times the score's derivatives."""
    sample, e, mask = orbit_rows(B, E, PLACES, ROWS)
    row = e.to(tl.int64) * B + sample
    own = logits + row * z_row
    classes = _classes(index, sample, mask, SCORE)
    score, place, top, total, level = _measure(own, z_col, mask, classes, K, SCORE, TYPE, ROWS, BLOCK_K)
    table_sample, table_e, table_mask = orbit_table(B, E, PLACES, ROWS)
    grad, passing = score_gradient(
        grad_activations, grad_probabilities, probabilities, tl.full((), beta, TYPE),
        table_sample, table_e, table_mask, E, a_row, a_col, p_row, p_col, TYPE,
    )  # fmt: skip
    grad, passing = tl.reshape(grad, (ROWS,)), tl.reshape(passing, (ROWS,))
    passing = passing & (tl.abs(score) < float("inf"))
    grad = tl.where(passing, grad, 0)
    factor = grad / tl.where(passing, total, 1)
    scale = tl.log(total) + level
    second = tl.zeros((ROWS,), tl.int64) + K  # of a margin: where the first logit is that equals the top
    for start in tl.range(0, K, BLOCK_K):
        k = columns(start, BLOCK_K)
        z = _load(own, k, z_col, mask, K, TYPE)
        if SCORE == "margin":
            here = k[None, :] == place[:, None]
            second = tl.minimum(second, _first((z == top[:, None]) & ~here, k, K))
            g = tl.where(here, grad[:, None], tl.where(k[None, :] == second[:, None], -grad[:, None], 0))
        else:
            g = factor[:, None] * _exponentials(z, top)
            if SCORE == "negative_entropy":
                g *= _below(z, top) - scale[:, None]
            elif SCORE == "confidence" or SCORE == "class":
                g = tl.where(k[None, :] == place[:, None], grad[:, None], -g)
        g = tl.where(passing[:, None], g, 0)
        tl.store(grad_logits + row[:, None] * K + k[None, :], g, mask=mask[:, None] & (k < K)[None, :])


# Nothing is contracted: copies of a sum that several threads hold have to have the same bits (see `sum_of_products`).
FORWARD = Kernel(_orbit_logit_scores_kernel)
BACKWARD = Kernel(_orbit_logit_scores_backward_kernel)


def _problem(logits: Tensor, order: int, strides: tuple, score: str) -> Problem:
    """One block for each few samples; a small group has several of them in a block."""
    batch, classes, places = logits.shape[0] // order, logits.shape[1], power_of_two(order)
    most, each = TILE_FLOAT64 if logits.dtype == torch.float64 else TILE
    width = min(max(power_of_two(classes), 16), max(most // places, 16))
    rows = max(places, most // 4 // width)
    shape = {"SCORE": score, "PLACES": places, "TYPE": accumulator(logits.dtype), "ROWS": rows, "BLOCK_K": width}
    warps = min(max(rows * width // (32 * each), 4), 16)
    blocks = ceil_div(batch, rows // places)
    # Left to itself, ptxas would spill in float64 to fit more blocks (Triton 3.6, sm_90).
    config = Config({}, warps, registers=128 if warps == 16 else None)
    return Problem(lambda _: blocks, (batch, order, classes, *strides), shape, [config])


def orbit_logit_scores(
    logits: Tensor, index: Tensor | None, order: int, score: str, beta: float
) -> tuple[Tensor, Tensor, Tensor]:
    batch = logits.shape[0] // order
    activations = logits.new_empty((batch, order), dtype=accumulate_dtype(logits.dtype))
    probabilities, element = torch.empty_like(activations), logits.new_empty((batch,), dtype=torch.int64)
    if batch:
        index = None if index is None else index.contiguous()
        FORWARD.launch(
            (logits.shape, logits.stride(), logits.dtype, order, score),
            (logits, index, activations, probabilities, element),
            lambda: _problem(logits, order, logits.stride(), score),
            (float(beta),),
        )
    return activations, probabilities, element


def orbit_logit_scores_backward(
    grad_activations: Tensor | None,
    grad_probabilities: Tensor | None,
    logits: Tensor,
    index: Tensor | None,
    probabilities: Tensor,
    score: str,
    beta: float,
) -> Tensor:
    batch, order = probabilities.shape
    grad_logits = logits.new_empty(logits.shape)
    if batch:
        index = None if index is None else index.contiguous()
        grads = grad_activations, grad_probabilities
        strides = *strides_of(grad_activations), *strides_of(grad_probabilities), *logits.stride()
        absent = tuple(t is None for t in grads)
        BACKWARD.launch(
            (logits.shape, strides, logits.dtype, order, score, absent),
            (*grads, logits, index, probabilities.contiguous(), grad_logits),
            lambda: _problem(logits, order, strides, score),
            (float(beta),),
        )
    return grad_logits
