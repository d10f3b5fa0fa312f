"""`orbit_scores`: similarity with the reference vector, softmax over the group, arg max."""

from __future__ import annotations

import torch
from torch import Tensor

from .. import checks, reference
from ..choice import OrbitScores
from ..dtypes import accumulate_dtype
from ..groups import CyclicGroup
from ..transform_set import Transforms, as_transforms
from ._rows import by_element
from .registry import no_double_backward, register


def orbit_scores(
    vectors: Tensor,
    reference: Tensor,
    *,
    group: Transforms | str,
    beta: float = 1.0,
    similarity: str = "cosine",
) -> OrbitScores:
    """Activations a_e = s(v_e, reference), probabilities softmax(beta·a) over the group, and the arg max.

    Equivalent to: ``F.cosine_similarity(vectors.view(E, B, d), reference, dim=-1).t()`` (or the dot product), then
    ``softmax`` and ``argmax``; the lowest id wins a tie. Sums run in float32 at least.

    An activation of −inf masks its element: that has probability 0 and is never chosen. A sample with NaN or +inf among
    its activations, or with −inf alone, falls back: it gets the identity and NaN probabilities. No gradient passes
    through an activation that is not finite, nor through any of a sample that fell back, so such a sample adds nothing
    to the gradient of the reference.

    Args:
        vectors: (E·B, d), element-major, float64, float32, float16 or bfloat16, any strides; B may be 0.
        reference: (d,), of the dtype of ``vectors``.
        group: a ``Group``, a ``TransformSet`` or a name such as ``"C4"``.
        beta: inverse temperature of the softmax.
        similarity: ``"cosine"`` or ``"dot"``.

    Returns:
        ``OrbitScores(activations (B, E), probabilities (B, E), element (B,) int64)``.

    Raises:
        ValueError, TypeError: naming the argument that is off.

    Source: EquiOptAdapt (arXiv 2405.14089).
    """
    order = as_transforms(group).order
    checks.vectors("vectors", vectors, order)
    checks.vector("reference", reference, vectors.shape[1])
    checks.same_device(vectors=vectors, reference=reference)
    checks.same_dtype(vectors=vectors, reference=reference)
    checks.similarity(similarity)
    checks.number("beta", beta)
    cosine = similarity == "cosine"
    return OrbitScores(*torch.ops.equifast.orbit_scores(vectors, reference, order, beta, cosine))


def _eager(vectors, ref, order, beta, cosine):
    similarity = "cosine" if cosine else "dot"
    scores = reference.orbit_scores(vectors, ref, group=CyclicGroup(order), beta=beta, similarity=similarity)
    return tuple(t.contiguous() for t in scores)


def _fake(vectors, ref, order, beta, cosine):
    batch = vectors.shape[0] // order
    scores = vectors.new_empty((batch, order))
    return scores, torch.empty_like(scores), vectors.new_empty((batch,), dtype=torch.int64)


def _setup_context(ctx, inputs, output):
    vectors, ref, _, ctx.beta, ctx.cosine = inputs
    ctx.mark_non_differentiable(output[2])
    ctx.set_materialize_grads(False)
    ctx.save_for_backward(vectors, ref, output[1])


def _backward(ctx, grad_activations, grad_probabilities, _):
    if grad_activations is None and grad_probabilities is None:
        return None, None, None, None, None
    grads = torch.ops.equifast.orbit_scores_backward(
        grad_activations, grad_probabilities, *ctx.saved_tensors, ctx.beta, ctx.cosine
    )
    return *grads, None, None, None


register(
    "orbit_scores",
    eager=_eager,
    fake=_fake,
    setup_context=_setup_context,
    backward=_backward,
    autocast=lambda dtype: torch.float32,
)


def _backward_eager(grad_activations, grad_probabilities, vectors, ref, probabilities, beta, cosine):
    order = probabilities.shape[1]
    wide = accumulate_dtype(vectors.dtype)
    v, r, p = by_element(vectors, order).to(wide), ref.to(wide), probabilities.to(wide)
    grad = torch.zeros_like(p)
    if grad_activations is not None:
        grad = grad + grad_activations.to(wide)
    if grad_probabilities is not None:
        gp = grad_probabilities.to(wide)
        grad = grad + beta * p * (gp - (p * gp).sum(1, keepdim=True))
    floor = 1e-8
    nv, nr = (v.norm(dim=-1, keepdim=True), r.norm()) if cosine else (v.new_ones(()), r.new_ones(()))
    cv, cr = nv.clamp(min=floor), nr.clamp(min=floor)
    s = (v * r).sum(-1, keepdim=True) / (cv * cr)
    # Where no gradient passes, all factors are replaced: 0·∞ is NaN.
    passing = s.isfinite() & ~p.t()[..., None].isnan()
    grad, s = torch.where(passing, grad.t()[..., None], 0), torch.where(passing, s, 0)
    v, cv = torch.where(passing, v, 0), torch.where(passing, cv, 1)
    r, cr = torch.where(r.isfinite(), r, 0), torch.where(cr.isfinite(), cr, 1)
    if not cosine:
        return (grad * r).flatten(0, 1).to(vectors.dtype), (grad * v).sum((0, 1)).to(ref.dtype)
    grad_v = grad * (r / (cv * cr) - torch.where(nv > floor, s * v / cv**2, 0))
    grad_r = grad * (v / (cv * cr) - torch.where(nr > floor, s * r / cr**2, 0))
    return grad_v.flatten(0, 1).to(vectors.dtype), grad_r.sum((0, 1)).to(ref.dtype)


def _backward_fake(grad_activations, grad_probabilities, vectors, ref, probabilities, beta, cosine):
    return vectors.new_empty(vectors.shape), ref.new_empty(ref.shape)


register(
    "orbit_scores_backward",
    eager=_backward_eager,
    fake=_backward_fake,
    backward=no_double_backward("orbit_scores"),
)
