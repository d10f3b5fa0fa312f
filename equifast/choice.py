"""How scores become a choice of a group element: logits, softmax, arg max, and what happens if scores are not finite.

Shapes: B samples, E elements. `reference` defines the ops with these functions, and the ops' fallbacks use them too.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor


class OrbitScores(NamedTuple):
    """What `orbit_scores` returns: activations (B, E), probabilities (B, E), element (B,) int64."""

    activations: Tensor
    probabilities: Tensor
    element: Tensor


class OrbitLosses(NamedTuple):
    """What `orbit_losses` returns: those of `OrbitScores`, and two scalars."""

    activations: Tensor
    probabilities: Tensor
    element: Tensor
    prior: Tensor
    contrastive: Tensor


def logits(scores: Tensor, beta: float) -> Tensor:
    """``beta·scores``, in which a score of −inf stays −inf whatever ``beta`` is, and gets no gradient."""
    return torch.where(scores == -torch.inf, -torch.inf, scores * beta)


def is_usable(activations: Tensor) -> Tensor:
    """Whether each sample can choose by its activations (B, E): none is NaN or +inf, and one is finite; (B, 1) bool."""
    return (activations < torch.inf).all(1, keepdim=True) & (activations > -torch.inf).any(1, keepdim=True)


def select(scores: Tensor, beta: float = 1.0, dtype: torch.dtype | None = None) -> OrbitScores:
    """Softmax of ``beta·scores`` over the group and the lowest id of the maximum; scores (B, E).

    A score of −inf masks its element: that has probability 0 for every ``beta`` and is never chosen. A sample with NaN
    or +inf among its activations, or with −inf alone, falls back: it gets the identity and NaN probabilities. No
    gradient passes through a score that is not finite, nor through any score of a sample that fell back.
    """
    activations = scores.to(dtype or scores.dtype)
    usable = is_usable(activations)
    if scores.requires_grad:
        scores = torch.where(usable & scores.isfinite(), scores, scores.detach())
        activations = scores.to(activations.dtype)
    probabilities = torch.where(usable, logits(scores, beta), torch.nan).softmax(1)
    ids = torch.arange(scores.shape[1], device=scores.device)
    best = scores.amax(1, keepdim=True)
    element = torch.where(usable & (scores == best), ids, scores.shape[1]).amin(1)
    element = torch.where(usable.squeeze(1), element, 0)
    return OrbitScores(activations, probabilities.to(activations.dtype), element)


def margin(activations: Tensor) -> Tensor:
    """How far the best of the activations (B, E) is above that of the identity: (B,), at least 0.

    It is NaN for a sample that fell back to the identity, and infinite where the identity alone is masked.
    """
    return torch.where(is_usable(activations), activations, torch.nan).max(1).values - activations[:, 0]


def gated(scores: OrbitScores, gate: float) -> OrbitScores:
    """The same scores, by which a sample chooses the identity unless its `margin` is at least ``gate``."""
    is_held = margin(scores.activations.detach()) < gate
    return scores._replace(element=scores.element.masked_fill(is_held, 0))


def choice_weights(probabilities: Tensor, element: Tensor) -> Tensor:
    """The probabilities (B, E), or one-hot at the chosen ``element`` (B,) for a sample whose probabilities are NaN."""
    ids = torch.arange(probabilities.shape[1], device=probabilities.device)
    one_hot = (ids == element[:, None]).to(probabilities.dtype)
    return torch.where(probabilities.isnan(), one_hot, probabilities)
