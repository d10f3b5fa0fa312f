"""`contrastive_loss`: keeps the vectors of one orbit apart."""

from __future__ import annotations

import torch
from torch import Tensor

from .. import checks, reference
from ..dtypes import accumulate_dtype
from ..groups import CyclicGroup
from ..transform_set import Transforms, as_transforms
from ._rows import by_element
from .registry import no_double_backward, register


def contrastive_loss(vectors: Tensor, *, group: Transforms | str, normalize: bool = False) -> Tensor:
    """Mean over (B, E, E) of |⟨v_e, v_h⟩|·[e ≠ h], a scalar.

    Equivalent to: ``v = vectors.view(E, B, d).transpose(0, 1)``; ``((v @ v.mT) * (1 - torch.eye(E))).abs().mean()``,
    except that a product that is not finite passes no gradient.

    Args:
        vectors: (E·B, d), element-major, float64, float32, float16 or bfloat16, any strides; NaN if B = 0.
        group: a ``Group``, a ``TransformSet`` or a name such as ``"C4"``.
        normalize: compare unit vectors, so that shrinking the vectors does not lower the loss.

    Raises:
        ValueError, TypeError: naming the argument that is off.

    Source: EquiOptAdapt (arXiv 2405.14089), as its authors code it.
    """
    order = as_transforms(group).order
    checks.vectors("vectors", vectors, order)
    return torch.ops.equifast.contrastive_loss(vectors, order, normalize)[0]


def _apart(vectors: Tensor, order: int, normalize: bool) -> tuple[Tensor, Tensor, Tensor]:
    """Vectors (B, E, d) in the accumulate dtype, of unit length if ``normalize``; their lengths; their Gram matrix."""
    v = by_element(vectors, order).to(accumulate_dtype(vectors.dtype)).transpose(0, 1)
    length = v.norm(dim=-1, keepdim=True).clamp(min=1e-12)
    v = v / length if normalize else v
    return v, length, (v @ v.mT).masked_fill(torch.eye(order, dtype=torch.bool, device=v.device), 0)


def _eager(vectors, order, normalize):
    loss = reference.contrastive_loss(vectors, group=CyclicGroup(order), normalize=normalize)
    return loss, _apart(vectors, order, normalize)[2]


def _fake(vectors, order, normalize):
    wide = accumulate_dtype(vectors.dtype)
    gram = vectors.new_empty((vectors.shape[0] // order, order, order), dtype=wide)
    return vectors.new_empty(()), gram


def _setup_context(ctx, inputs, output):
    vectors, _, ctx.normalize = inputs
    ctx.mark_non_differentiable(output[1])
    ctx.save_for_backward(vectors, output[1])


def _backward(ctx, grad, _):
    vectors, gram = ctx.saved_tensors
    grad_vectors = torch.ops.equifast.contrastive_loss_backward(grad, vectors, gram, ctx.normalize)
    return grad_vectors, None, None


register(
    "contrastive_loss",
    eager=_eager,
    fake=_fake,
    setup_context=_setup_context,
    backward=_backward,
    autocast=lambda dtype: torch.float32,
)


def _backward_eager(grad, vectors, gram, normalize):
    v, length, _ = _apart(vectors, gram.shape[1], normalize)
    v = torch.where(v.isfinite(), v, 0)  # else 0·∞ would give NaN
    g = 2 * grad.to(v.dtype) / max(gram.numel(), 1) * (torch.where(gram.isfinite(), gram.sign(), 0) @ v)
    if normalize:
        g = torch.where(length.isfinite(), (g - (g * v).sum(-1, keepdim=True) * v) / length, 0)
    return g.transpose(0, 1).flatten(0, 1).to(vectors.dtype)


def _backward_fake(grad, vectors, gram, normalize):
    return vectors.new_empty(vectors.shape)


register(
    "contrastive_loss_backward",
    eager=_backward_eager,
    fake=_backward_fake,
    backward=no_double_backward("contrastive_loss"),
)
