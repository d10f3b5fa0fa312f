"""What scores become: logits, probabilities, the chosen element, and the gradients back to the vectors.

S samples to a block, PLACES places for the E elements of each. `choice.select` says what happens if scores are not
finite.
"""

from __future__ import annotations

import triton
import triton.language as tl

from .products import sum_of_products
from .vectors import COSINE_FLOOR, at_least, orbit_table


@triton.jit
def logits_of(scores, beta, mask):
    """``beta·scores``; a score of −∞ stays −∞ whatever beta is, and values outside the mask become −∞."""
    return tl.where(mask & (scores != -float("inf")), scores * beta, -float("inf"))


@triton.jit
def choose(scores, returned, beta, E, PLACES: tl.constexpr):
    """``softmax(beta·scores)`` [S, PLACES], and the lowest id of the maximum [S]; scores [S, PLACES].

    ``returned``: the scores as rounded to their own dtype. A sample with NaN or +∞ among those, or with −∞ alone, gets
    the identity and NaN probabilities.
    """
    ids = tl.arange(0, PLACES)[None, :]
    exists = ids < E
    unusable = tl.max(tl.where(exists & ~(returned < float("inf")), 1, 0), 1)
    some = tl.max(tl.where(exists & (returned > -float("inf")), 1, 0), 1)
    usable = (unusable == 0) & (some > 0)
    logits = logits_of(scores, beta, exists)
    weights = tl.exp(logits - tl.max(logits, 1)[:, None])
    probabilities = weights / tl.sum(weights, 1)[:, None]
    best = tl.max(tl.where(exists, scores, -float("inf")), 1)
    element = tl.min(tl.where(exists & (scores == best[:, None]), ids, PLACES), 1)
    return tl.where(usable[:, None], probabilities, float("nan")), tl.where(usable, element, 0)


@triton.jit
def store_choice(scores, beta, activations, probabilities, element, B, E, PLACES: tl.constexpr, ROWS: tl.constexpr):
    """Store the scores and the choice; return the scores as they are stored, rounded to their dtype: [S, PLACES]."""
    sample, e, mask = orbit_table(B, E, PLACES, ROWS)
    returned = scores.to(activations.dtype.element_ty).to(scores.dtype)
    p, best = choose(scores, returned, beta, E, PLACES)
    tl.store(activations + sample * E + e, scores, mask=mask)
    tl.store(probabilities + sample * E + e, p, mask=mask)
    first = tl.program_id(0).to(tl.int64) * (ROWS // PLACES) + tl.arange(0, ROWS // PLACES)
    tl.store(element + first, best.to(tl.int64), mask=first < B)
    return returned


@triton.jit
def score_gradient(
    grad_activations, grad_probabilities, probabilities, beta, sample, e, mask, E, a_row, a_col, p_row, p_col, TYPE
):  # fmt: skip
    """The gradient of the activations, directly and through the probabilities, and where it may pass: [S, PLACES].

    ``grad_activations + beta · p · (grad_p − Σ p · grad_p)``. No gradient passes in a sample that fell back, whose
    probabilities are NaN. a_row, a_col, p_row, p_col: strides of the two gradients.
    """
    p = tl.load(probabilities + sample * E + e, mask=mask, other=0).to(TYPE)
    grad = tl.zeros(mask.shape, TYPE)
    if grad_activations is not None:
        grad += tl.load(grad_activations + sample * a_row + e * a_col, mask=mask, other=0).to(TYPE)
    if grad_probabilities is not None:
        gp = tl.load(grad_probabilities + sample * p_row + e * p_col, mask=mask, other=0).to(TYPE)
        grad += tl.where(mask, beta * p * (gp - sum_of_products(p, gp, 1)[:, None]), 0)
    return grad, p == p


@triton.jit
def vector_gradient(grad, passing, products, squares, square, COSINE: tl.constexpr):
    """(across, along, along_r), [ROWS] each: ``dv = across·r − along·v``, and ``dr = Σ across·v − Σ along_r·r``.

    All are 0 where the score is not finite or ``passing`` is false.
    """
    if COSINE:
        n, m = tl.sqrt(squares), tl.sqrt(square)
        cn, cm = at_least(n, COSINE_FLOOR), at_least(m, COSINE_FLOOR)
        score = products / (cn * cm)
        keep = passing & (tl.abs(score) < float("inf"))
        across = tl.where(keep, grad / (cn * cm), 0)
        along = tl.where(keep & (n > COSINE_FLOOR), grad * score / cn / cn, 0)
        return across, along, tl.where(keep & (m > COSINE_FLOOR), grad * score / cm / cm, 0)
    keep = passing & (tl.abs(products) < float("inf"))
    return tl.where(keep, grad, 0), tl.zeros_like(grad), tl.zeros_like(grad)
