"""`orbit_logit_scores`: a score of the logits of each member, softmax over the group, arg max."""

from __future__ import annotations

import torch
from torch import Tensor

from .. import checks, reference
from ..choice import OrbitScores
from ..dtypes import accumulate_dtype
from ..groups import CyclicGroup
from ..scores import CLASS, NAMED, class_ids
from ..transform_set import Transforms, as_transforms
from ._rows import by_element
from .registry import no_double_backward, register


def orbit_logit_scores(
    logits: Tensor,
    *,
    group: Transforms | str,
    score: str = "confidence",
    index: int | Tensor | None = None,
    beta: float = 1.0,
) -> OrbitScores:
    """Activations a_e = score(logits of member e), probabilities softmax(beta·a) over the group, and the arg max.

    Equivalent to: ``a = getattr(scores, score)(logits).view(E, B).t()`` (or ``scores.of_class(index)``), then
    ``softmax`` and ``argmax``; the lowest id wins a tie. The logits are read from memory once, and once more backward.

    An activation of −inf masks its element, as in `orbit_scores`, and a sample with NaN or +inf among its activations,
    or with −inf alone, gets the identity and NaN probabilities. No gradient passes through an activation that is not
    finite, nor through any of a sample that fell back. A logit of −inf is a class that is excluded.

    Args:
        logits: (E·B, K) with K ≥ 2 classes, element-major, float64, float32, float16 or bfloat16, any strides; B may be
            0.
        group: a ``Group``, a ``TransformSet``, or a name such as ``"C4"``.
        score: ``"confidence"``, ``"margin"``, ``"negative_entropy"``, ``"energy"``, or ``"class"`` for the log-odds of
            the class ``index``.
        index: a class from 0 to K − 1, or one for each sample, (B,) int64; None unless ``score`` is ``"class"``.
        beta: inverse temperature of the softmax.

    Returns:
        ``OrbitScores(activations (B, E), probabilities (B, E), element (B,) int64)``, the first two in float32, or
        float64 for float64: rounded to bfloat16 they would tie.

    Raises:
        ValueError, TypeError: naming the argument that is off.

    Source: the energy is that of Liu et al. (arXiv 2010.03759).
    """
    order = as_transforms(group).order
    checks.vectors("logits", logits, order, "K")
    if logits.shape[1] < 2:
        raise ValueError(f"logits: expected (E·B, K) with K ≥ 2 classes, got {checks.shape(logits)}")
    checks.one_of("score", score, (*NAMED, CLASS))
    checks.number("beta", beta)
    if (index is None) == (score == CLASS):
        raise ValueError(f"index: expected {'a class' if index is None else 'None'} with score {score!r}")
    ids = None if index is None else class_ids(index, logits.shape[0] // order, logits)
    return OrbitScores(*torch.ops.equifast.orbit_logit_scores(logits, ids, order, score, beta))


def _eager(logits, index, order, score, beta):
    scores = reference.orbit_logit_scores(logits, group=CyclicGroup(order), score=score, index=index, beta=beta)
    return tuple(t.contiguous() for t in scores)


def _fake(logits, index, order, score, beta):
    batch = logits.shape[0] // order
    scores = logits.new_empty((batch, order), dtype=accumulate_dtype(logits.dtype))
    return scores, torch.empty_like(scores), logits.new_empty((batch,), dtype=torch.int64)


def _setup_context(ctx, inputs, output):
    logits, index, _, ctx.score, ctx.beta = inputs
    ctx.mark_non_differentiable(output[2])
    ctx.set_materialize_grads(False)
    ctx.save_for_backward(logits, index, output[1])


def _backward(ctx, grad_activations, grad_probabilities, _):
    if grad_activations is None and grad_probabilities is None:
        return None, None, None, None, None
    grad = torch.ops.equifast.orbit_logit_scores_backward(
        grad_activations, grad_probabilities, *ctx.saved_tensors, ctx.score, ctx.beta
    )
    return grad, None, None, None, None


register("orbit_logit_scores", eager=_eager, fake=_fake, setup_context=_setup_context, backward=_backward)


def _backward_eager(grad_activations, grad_probabilities, logits, index, probabilities, score, beta):
    p = probabilities
    grad = torch.zeros_like(p)
    if grad_activations is not None:
        grad = grad + grad_activations
    if grad_probabilities is not None:
        grad = grad + beta * p * (grad_probabilities - (p * grad_probabilities).sum(1, keepdim=True))
    values, slopes = _differentiated(by_element(logits, p.shape[1]).to(p.dtype), index, score)
    # Where no gradient passes, all factors are replaced: 0·∞ is NaN.
    passing = values.isfinite() & ~p.t()[..., None].isnan()
    out = torch.where(passing, grad.t()[..., None], 0) * torch.where(passing, slopes, 0)
    return out.flatten(0, 1).to(logits.dtype)


def _differentiated(z: Tensor, index: Tensor | None, score: str) -> tuple[Tensor, Tensor]:
    """The scores (E, B, 1) of logits z (E, B, K), and their derivatives by z."""
    if score == "energy":
        return z.logsumexp(2, keepdim=True), z.softmax(2)
    if score == "negative_entropy":
        logs = z.log_softmax(2)
        p, logs = logs.exp(), torch.where(logs == -torch.inf, 0, logs)
        value = (p * logs).sum(2, keepdim=True)
        return value, p * (logs - value)
    classes = torch.arange(z.shape[2], device=z.device)
    is_own = classes == (z.argmax(2) if index is None else index.expand(z.shape[:2]))[..., None]
    own = torch.where(is_own, z, torch.where(is_own.any(2, keepdim=True), 0, torch.nan)).sum(2, keepdim=True)
    others = torch.where(is_own, -torch.inf, z)
    if score == "margin":
        best, second = others.max(2, keepdim=True)
        return own - best, is_own.to(z.dtype) - (classes == second).to(z.dtype)
    return own - others.logsumexp(2, keepdim=True), is_own.to(z.dtype) - others.softmax(2)


def _backward_fake(grad_activations, grad_probabilities, logits, index, probabilities, score, beta):
    return logits.new_empty(logits.shape)


register(
    "orbit_logit_scores_backward",
    eager=_backward_eager,
    fake=_backward_fake,
    backward=no_double_backward("orbit_logit_scores"),
)
