"""`orbit_losses`: scores and both losses of a training step from one reading of the vectors."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from .. import checks
from ..choice import OrbitLosses, logits
from ..dtypes import accumulate_dtype
from ..transform_set import Transforms, as_transforms
from .registry import no_double_backward, register


def orbit_losses(
    vectors: Tensor,
    reference: Tensor,
    *,
    group: Transforms | str,
    target: Tensor | None = None,
    beta: float = 1.0,
    prior_beta: float | None = None,
    similarity: str = "cosine",
    normalize: bool = False,
) -> OrbitLosses:
    """`orbit_scores` with the prior loss and the contrastive loss: all that a training step needs from the vectors.

    Equivalent to: ``scores = orbit_scores(vectors, reference, group=group, beta=beta, similarity=similarity)``, then
    ``losses.prior_loss(scores.activations, target, beta=prior_beta)`` and
    ``losses.contrastive_loss(vectors, group=group, normalize=normalize)``. Sums run in float32 at least. With a vector
    that is not finite, a loss may be NaN; the gradients of the other samples and of the reference are not.

    Args:
        vectors: (E·B, d), element-major, float64, float32, float16 or bfloat16, any strides. With B = 0
            both losses are NaN.
        reference: (d,), of the dtype of ``vectors``.
        group: a ``Group``, a ``TransformSet`` or a name such as ``"C4"``.
        target: ids (B,) int64, one a sample, that the prior loss prefers. The default is the identity.
        beta: inverse temperature of the probabilities.
        prior_beta: a factor on the activations in the prior loss. The default is 1.
        similarity: ``"cosine"`` or ``"dot"``.
        normalize: compare unit vectors in the contrastive loss.

    Returns:
        ``OrbitLosses(activations (B, E), probabilities (B, E), element (B,) int64, prior (), contrastive ())``.
        Gradients flow through all but ``element``.

    Raises:
        ValueError, TypeError: naming the argument that is off.

    Source: EquiOptAdapt (arXiv 2405.14089).
    """
    order = as_transforms(group).order
    checks.vectors("vectors", vectors, order)
    checks.vector("reference", reference, vectors.shape[1])
    if target is not None:
        checks.elements("target", target, vectors.shape[0] // order, order)
    checks.same_device(vectors=vectors, reference=reference, target=target)
    checks.same_dtype(vectors=vectors, reference=reference)
    checks.similarity(similarity)
    checks.number("beta", beta)
    checks.number("prior_beta", prior_beta)
    out = torch.ops.equifast.orbit_losses(
        vectors,
        reference,
        target,
        order,
        beta,
        1.0 if prior_beta is None else prior_beta,
        similarity == "cosine",
        normalize,
    )
    return OrbitLosses(*out[:5])


def _logits(activations: Tensor, prior_beta: float) -> Tensor:
    return logits(activations.to(accumulate_dtype(activations.dtype)), prior_beta)


def _target(target: Tensor | None, activations: Tensor) -> Tensor:
    return activations.new_zeros(activations.shape[0], dtype=torch.int64) if target is None else target


def _eager(vectors, ref, target, order, beta, prior_beta, cosine, normalize):
    scores = torch.ops.equifast.orbit_scores(vectors, ref, order, beta, cosine)
    contrastive, gram = torch.ops.equifast.contrastive_loss(vectors, order, normalize)
    prior = F.cross_entropy(_logits(scores[0], prior_beta), _target(target, scores[0])).to(vectors.dtype)
    return *scores, prior, contrastive, gram


def _fake(vectors, ref, target, order, beta, prior_beta, cosine, normalize):
    batch = vectors.shape[0] // order
    scores = vectors.new_empty((batch, order))
    gram = vectors.new_empty((batch, order, order), dtype=accumulate_dtype(vectors.dtype))
    element = vectors.new_empty((batch,), dtype=torch.int64)
    return scores, torch.empty_like(scores), element, vectors.new_empty(()), vectors.new_empty(()), gram


def _setup_context(ctx, inputs, output):
    vectors, ref, target, _, *ctx.options = inputs
    activations, probabilities, element, _, _, gram = output
    ctx.mark_non_differentiable(element, gram)
    ctx.set_materialize_grads(False)
    ctx.save_for_backward(vectors, ref, target, activations, probabilities, gram)


def _backward(ctx, grad_activations, grad_probabilities, _, grad_prior, grad_contrastive, __):
    grads = grad_activations, grad_probabilities, grad_prior, grad_contrastive
    if all(grad is None for grad in grads):
        return (None,) * 8
    grads = torch.ops.equifast.orbit_losses_backward(*grads, *ctx.saved_tensors, *ctx.options)
    return *grads, *(None,) * 6


register(
    "orbit_losses",
    eager=_eager,
    fake=_fake,
    setup_context=_setup_context,
    backward=_backward,
    has_cpu_kernel=False,
    autocast=lambda dtype: torch.float32,
)


def _backward_eager(
    grad_activations,
    grad_probabilities,
    grad_prior,
    grad_contrastive,
    vectors,
    ref,
    target,
    activations,
    probabilities,
    gram,
    beta,
    prior_beta,
    cosine,
    normalize,
):
    if grad_prior is not None and activations.numel():
        # A masked element has no gradient, not even as a target. `orbit_scores_backward` drops samples that fell back.
        grad = _logits(activations, prior_beta).softmax(1)
        grad.scatter_add_(1, _target(target, activations)[:, None], grad.new_full((grad.shape[0], 1), -1))
        grad.masked_fill_(activations == -torch.inf, 0)
        grad = (grad * (prior_beta / grad.shape[0]) * grad_prior).to(activations.dtype)
        grad_activations = grad if grad_activations is None else grad_activations + grad
    grad_vectors, grad_reference = torch.ops.equifast.orbit_scores_backward(
        grad_activations, grad_probabilities, vectors, ref, probabilities, beta, cosine
    )
    if grad_contrastive is not None:
        grad_vectors += torch.ops.equifast.contrastive_loss_backward(grad_contrastive, vectors, gram, normalize)
    return grad_vectors, grad_reference


def _backward_fake(
    grad_activations,
    grad_probabilities,
    grad_prior,
    grad_contrastive,
    vectors,
    ref,
    target,
    activations,
    probabilities,
    gram,
    beta,
    prior_beta,
    cosine,
    normalize,
):
    return vectors.new_empty(vectors.shape), ref.new_empty(ref.shape)


register(
    "orbit_losses_backward",
    eager=_backward_eager,
    fake=_backward_fake,
    backward=no_double_backward("orbit_losses"),
    has_cpu_kernel=False,
)
