"""Scores of a classifier's logits, for ``score=``: a frozen classifier then chooses the orientation by itself.

Each takes logits (N, K), floating, and returns (N,) in float32, or float64 for float64: larger where the classifier is
surer. All stay apart where a probability would round to 1: the largest softmax value of many members is exactly 1.0 in
bfloat16, and often in float32, and a tie is then broken by the id, which depends on how the image came. Of logits in
bfloat16, of which few are different, `margin` and `energy` tie more often than the others.

A logit of −inf is a class that the classifier excludes: its probability is 0. A row with a logit of NaN has the score
NaN. `orbit_logit_scores` computes the score of each member of an orbit and chooses by it, in one operation.
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
    return _log_odds(wide, wide.argmax(1))


def margin(logits: Tensor) -> Tensor:
    """Difference of the two largest logits.

    Equivalent to: ``-logits.topk(2).values.diff().squeeze(1)``.
    """
    wide = _checked(logits)
    first, index = wide.max(1, keepdim=True)
    return first.squeeze(1) - wide.scatter(1, index, -torch.inf).max(1).values


def negative_entropy(logits: Tensor) -> Tensor:
    """Σ p·log p over the classes: 0 for a classifier that is sure, −log K for one that has no idea.

    Equivalent to: ``-torch.distributions.Categorical(logits=logits).entropy()``.
    """
    logs = _checked(logits).log_softmax(1)
    return (logs.exp() * logs.masked_fill(logs == -torch.inf, 0)).sum(1)  # 0·log 0 is 0


def energy(logits: Tensor) -> Tensor:
    """``log Σ exp(logit)`` over the classes: the negative of the free energy (Liu et al., arXiv 2010.03759).

    It is the only score here that changes if one number is added to all logits of a row. Cross entropy, by which
    classifiers are trained, doesn't say what that number is.

    Equivalent to: ``logits.logsumexp(1)``.
    """
    return _checked(logits).logsumexp(1)


def of_class(index: int | Tensor) -> ClassScore:
    """The log-odds of one class, whatever the likeliest one is: "is there a 7 here, whichever way up?"

    ::

        form = canonicalize(x, model, score=scores.of_class(7), group="C8")
        is_seven = form.activations.amax(1) > 0

    Args:
        index: the class of all images, from 0 to K − 1; or one for each image, int64 (B,).

    Returns:
        a function (N, K) → (N,), equivalent to ``torch.logit(logits.softmax(1)[range(N), classes])`` in exact
        arithmetic. With an index for each image, rows are those of an orbit: row e·B + b belongs to image b.

    Raises:
        TypeError: for an index that is neither an int nor a tensor.
    """
    return ClassScore(index)


class ClassScore:
    """What `of_class` returns: a function of logits that keeps its ``index``."""

    def __init__(self, index: int | Tensor) -> None:
        if isinstance(index, bool) or not isinstance(index, (int, Tensor)):
            raise TypeError(f"index: expected an int or a Tensor, got {type(index).__name__}")
        self.index = index

    def __repr__(self) -> str:
        return f"of_class({self.index})"

    def __call__(self, logits: Tensor) -> Tensor:
        wide = _checked(logits)
        rows = wide.shape[0]
        batch = self.index.numel() if isinstance(self.index, Tensor) else rows
        if rows % max(batch, 1):
            raise ValueError(f"logits: expected E·B rows with B = {batch} as in index, got {checks.shape(logits)}")
        index = class_ids(self.index, batch, wide)
        return _log_odds(wide, index.repeat(rows // max(batch, 1)))


#: What `orbit_logit_scores` calls the score of a class, beside those of `NAMED`.
CLASS = "class"

#: The scores that ``score=`` takes by name.
NAMED = {function.__name__: function for function in (confidence, margin, negative_entropy, energy)}


def named(score: object) -> tuple[str | None, int | Tensor | None]:
    """What `orbit_logit_scores` calls a score, and its index; (None, None) for a function that isn't from here."""
    if isinstance(score, ClassScore):
        return CLASS, score.index
    if isinstance(score, str):
        return score, None
    name = getattr(score, "__name__", "")
    return (name if name in NAMED and NAMED[name] is score else None), None


def class_ids(index: int | Tensor, batch: int, logits: Tensor) -> Tensor:
    """A class for each of a batch, (B,) int64, from one for all or one for each; logits (…, K)."""
    classes = logits.shape[1]
    if isinstance(index, Tensor):
        checks.elements("index", index, batch, classes)
        checks.same_device(logits=logits, index=index)
        return index
    if not 0 <= index < classes:
        raise ValueError(f"index: expected a class from 0 to {classes - 1}, got {index}")
    return torch.full((batch,), index, device=logits.device)


def _log_odds(wide: Tensor, index: Tensor) -> Tensor:
    """Log-odds of the class ``index`` (N,) of each row; NaN where there is no such class."""
    exists = (index >= 0) & (index < wide.shape[1])
    place = torch.where(exists, index, 0)[:, None]
    own, others = wide.gather(1, place), wide.scatter(1, place, -torch.inf)
    return torch.where(exists, own.squeeze(1) - others.logsumexp(1), torch.nan)


def _checked(logits: Tensor) -> Tensor:
    checks.tensor("logits", logits)
    checks.floating("logits", logits)
    if logits.dim() != 2 or logits.shape[1] < 2:
        raise ValueError(f"logits: expected (N, K) with K ≥ 2 classes, got {checks.shape(logits)}")
    return logits.to(accumulate_dtype(logits.dtype))
