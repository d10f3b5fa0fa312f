"""`orbit_linear_scores`: the network's last linear layer and `orbit_scores` of what it gives."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from .. import checks
from ..choice import OrbitScores
from ..transform_set import Transforms, as_transforms
from .registry import register


def orbit_linear_scores(
    features: Tensor,
    weight: Tensor,
    bias: Tensor | None,
    reference: Tensor,
    *,
    group: Transforms | str,
    beta: float = 1.0,
    similarity: str = "cosine",
) -> OrbitScores:
    """`orbit_scores` of the vectors ``F.linear(features, weight, bias)``, which need not be in memory.

    Equivalent to: ``orbit_scores(F.linear(features, weight, bias), reference, …)``, except that a kernel that does
    both does not round vectors of a narrow dtype on the way. Features that are not finite add nothing to any gradient.
    Double backward is not supported.

    Args:
        features: (E·B, f), element-major, float64, float32, float16 or bfloat16, any strides; B may be 0.
        weight: (d, f), of the dtype of ``features``; bias: (d,) or None, likewise.
        reference: (d,), likewise.
        group: a ``Group``, a ``TransformSet`` or a name such as ``"C4"``.
        beta: inverse temperature of the softmax.
        similarity: ``"cosine"`` or ``"dot"``.

    Under autocast the linear layer runs in the autocast dtype and the scores are float32. float32 products use TF32
    where ``torch.backends.cuda.matmul`` allows it, as those of ``F.linear`` do.

    Returns:
        ``OrbitScores(activations (B, E), probabilities (B, E), element (B,) int64)``.

    Raises:
        ValueError, TypeError: naming the argument that is off.

    Source: EquiOptAdapt (arXiv 2405.14089).
    """
    order = as_transforms(group).order
    checks.vectors("features", features, order, "f")
    checks.tensor("weight", weight)
    if weight.dim() != 2 or weight.shape[1] != features.shape[1]:
        raise ValueError(f"weight: expected (d, {features.shape[1]}), got {checks.shape(weight)}")
    if bias is not None:
        checks.vector("bias", bias, weight.shape[0])
    checks.vector("reference", reference, weight.shape[0])
    checks.same_device(features=features, weight=weight, bias=bias, reference=reference)
    checks.same_dtype(features=features, weight=weight, bias=bias, reference=reference)
    checks.similarity(similarity)
    checks.number("beta", beta)
    device_type = features.device.type
    # Autocast leaves float64 alone.
    if features.dtype != torch.float64 and device_type != "meta" and torch.is_autocast_enabled(device_type):
        narrow = torch.get_autocast_dtype(device_type)
        features, weight = features.to(narrow), weight.to(narrow)
        bias, reference = None if bias is None else bias.to(narrow), reference.to(torch.float32)
    cosine = similarity == "cosine"
    return OrbitScores(*torch.ops.equifast.orbit_linear_scores(features, weight, bias, reference, order, beta, cosine))


def _eager(features, weight, bias, ref, order, beta, cosine):
    vectors = F.linear(features, weight, bias).to(ref.dtype)
    return torch.ops.equifast.orbit_scores(vectors, ref, order, beta, cosine)


def _fake(features, weight, bias, ref, order, beta, cosine):
    batch = features.shape[0] // order
    scores = ref.new_empty((batch, order))
    return scores, torch.empty_like(scores), ref.new_empty((batch,), dtype=torch.int64)


def _setup_context(ctx, inputs, output):
    features, weight, bias, ref, _, ctx.beta, ctx.cosine = inputs
    ctx.mark_non_differentiable(output[2])
    ctx.set_materialize_grads(False)
    ctx.save_for_backward(features, weight, bias, ref, output[1])


def _backward(ctx, grad_activations, grad_probabilities, _):
    if grad_activations is None and grad_probabilities is None:
        return (None,) * 7
    features, weight, bias, ref, probabilities = ctx.saved_tensors
    vectors = F.linear(features, weight, bias).to(ref.dtype)
    grad, grad_ref = torch.ops.equifast.orbit_scores_backward(
        grad_activations, grad_probabilities, vectors, ref, probabilities, ctx.beta, ctx.cosine
    )
    grad = grad.to(features.dtype)
    needs = ctx.needs_input_grad
    return (
        grad @ weight if needs[0] else None,
        # Features that are not finite belong to rows whose gradient is 0, and 0·∞ is NaN.
        grad.t() @ features.nan_to_num(0, 0, 0) if needs[1] else None,
        grad.sum(0) if needs[2] else None,
        grad_ref,
        None,
        None,
        None,
    )


register(
    "orbit_linear_scores",
    eager=_eager,
    fake=_fake,
    setup_context=_setup_context,
    backward=_backward,
    has_cpu_kernel=False,
)
