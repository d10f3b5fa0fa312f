"""Scores of a classifier's logits, for ``score=``: a frozen classifier then chooses the orientation by itself.

Each takes logits (N, K), floating, and returns (N,) in float32, or float64 for float64: larger where the classifier is
surer. All stay apart where a probability would round to 1: the largest softmax value of many members is exactly 1.0 in
bfloat16, and often in float32, and a tie is then broken by the id, which depends on how the image came.
"""

from __future__ import annotations

import torch
from torch import Tensor

from . import checks
from .dtypes import accumulate_dtype


def confidence(logits: Tensor) -> Tensor:
    """Log-odds of the likeliest class, ``log(p / (1 − p))``: the order of the largest probability p, without its ties.

    Equivalent to: ``torch.logit(logits.softmax(1).amax(1))``, in exact arithmetic.
    """
    wide = _checked(logits)
    top, index = wide.max(1, keepdim=True)
    return (top - wide.scatter(1, index, -torch.inf).logsumexp(1, keepdim=True)).squeeze(1)


def margin(logits: Tensor) -> Tensor:
    """Difference of the two largest logits.

    Equivalent to: ``-logits.topk(2).values.diff().squeeze(1)``.
    """
    first, second = _checked(logits).topk(2).values.unbind(1)
    return first - second


def negative_entropy(logits: Tensor) -> Tensor:
    """Σ p·log p over the classes: 0 for a classifier that is sure, −log K for one that has no idea.

    Equivalent to: ``-torch.distributions.Categorical(logits=logits).entropy()``.
    """
    logs = _checked(logits).log_softmax(1)
    return (logs.exp() * logs).sum(1)


def _checked(logits: Tensor) -> Tensor:
    checks.tensor("logits", logits)
    checks.floating("logits", logits)
    if logits.dim() != 2 or logits.shape[1] < 2:
        raise ValueError(f"logits: expected (N, K) with K ≥ 2 classes, got {checks.shape(logits)}")
    return logits.to(accumulate_dtype(logits.dtype))
