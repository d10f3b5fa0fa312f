"""What the tables say of a trained model."""

from __future__ import annotations

import statistics
from dataclasses import dataclass

import torch
from torch import Tensor, nn

import equifast

BATCH = 500


@dataclass(frozen=True)
class Scores:
    """How a model does on images moved by each element of a group.

    Attributes:
        angles: accuracy on images moved by element e, for each e. Element 0 leaves them upright.
        accuracy: the first of these.
        group_accuracy: their mean.
        identity: share of the upright images whose chosen element is the identity; None without a canonicalizer.
        error: equivariance error, the mean of ``½·Σ_k |p_k(g·x) − p_k(x)|`` over images x and elements g other than the
            identity, where p are the class probabilities: the share of probability that a turn moves to other classes,
            0 for an invariant model and at most 1.
    """

    angles: list[float]
    accuracy: float
    group_accuracy: float
    identity: float | None
    error: float


@torch.inference_mode()
def evaluate(model: nn.Module, images: Tensor, labels: Tensor, group: str) -> Scores:
    """Measure a model ``x -> (logits, form or None)`` in eval mode on upright images (N, C, H, W) with labels (N,)."""
    order = equifast.as_group(group).order
    right, moved, chosen = torch.zeros(order), torch.zeros(order), None
    for x, y in zip(images.split(BATCH), labels.split(BATCH), strict=True):
        upright = None
        for element in range(order):
            logits, form = model(equifast.act(x, torch.full(x.shape[:1], element), group=group))
            probabilities = logits.softmax(1)
            upright = probabilities if upright is None else upright
            right[element] += (logits.argmax(1) == y).sum()
            moved[element] += (probabilities - upright).abs().sum() / 2
            if element == 0 and form is not None:
                chosen = (form.element == 0).sum() + (0 if chosen is None else chosen)
    angles = (right / len(images)).tolist()
    return Scores(
        angles,
        angles[0],
        statistics.fmean(angles),
        None if chosen is None else chosen.item() / len(images),
        (moved[1:].sum() / (len(images) * max(order - 1, 1))).item(),
    )
