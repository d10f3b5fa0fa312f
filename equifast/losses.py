"""Training terms of a learned canonicalization (paper 2405.14089, section 3.2), each a mean that returns a scalar."""

from __future__ import annotations

from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import Tensor

from . import checks, lazy_orbit, ops
from .choice import logits
from .dtypes import accumulate_dtype
from .groups import CyclicGroup
from .orbit_vectors import orbit_maker
from .transform_set import Transforms, as_transforms


def prior_loss(activations: Tensor, target: Tensor | None = None, *, beta: float | None = None) -> Tensor:
    """Mean cross-entropy of the choice with the identity: pulls canonical images to the orientation of the data.

    Equals ``F.cross_entropy(beta·activations, target)``. With cosine activations and no ``beta`` (as the paper's
    authors have it) it can't fall below ``ln(1 + (E − 1)·e⁻²)``, 0.341 for C4. An activation of −inf masks its element
    whatever ``beta`` is, and gets no gradient. The loss of a batch with NaN activations is NaN; the gradient of its
    other samples is not.

    Args:
        activations: (B, E), floating.
        target: ids (B,) int64 to prefer to the identity, one a sample.
        beta: a factor on the activations, if any.
    """
    checks.tensor("activations", activations)
    checks.floating("activations", activations)
    if activations.dim() != 2:
        raise ValueError(f"activations: expected (B, E), got {checks.shape(activations)}")
    batch, order = activations.shape
    if target is None:
        target = torch.zeros(batch, dtype=torch.int64, device=activations.device)
    else:
        checks.elements("target", target, batch, order)
    scores = logits(activations.to(accumulate_dtype(activations.dtype)), 1.0 if beta is None else beta)
    return F.cross_entropy(scores, target).to(activations.dtype)


def contrastive_loss(vectors: Tensor, *, group: Transforms | str | None = None, normalize: bool = False) -> Tensor:
    """Mean over (B, E, E) of ``|⟨v_e, v_h⟩|·[e ≠ h]``: keeps the vectors of one orbit apart, that is orthogonal.

    Args:
        vectors: (B, E, d) as `CanonicalForm.vectors` has them, or element-major (E·B, d) with ``group``.
        group: needed for (E·B, d); checked against E otherwise.
        normalize: on unit vectors, which shrinking can't please; the paper's authors take raw ones.
    """
    if vectors.dim() == 3:
        batch, order, size = vectors.shape
        group = CyclicGroup(order) if group is None else as_transforms(group)
        if group.order != order:
            raise ValueError(f"vectors: expected (B, {group.order}, d) for {group}, got {tuple(vectors.shape)}")
        vectors = vectors.transpose(0, 1).reshape(order * batch, size)
    elif group is None:
        raise ValueError("group: needed unless vectors are (B, E, d)")
    return ops.contrastive_loss(vectors, group=group, normalize=normalize)


def artifact_loss(
    x: Tensor,
    network: Callable[[Tensor], Tensor],
    *,
    group: Transforms | str,
    vectors: Tensor | None = None,
    padding_mode: str = "border",
    generator: torch.Generator | None = None,
) -> Tensor:
    """How much the network minds interpolation; for training only.

    It is the mean squared difference between the network's vectors of the orbit, and of the same rows after each was
    rotated there and back by a random element. The elements are drawn anew in each call.

    Equals ``F.mse_loss(network(act(act(orbit(x), k, inverse=True), k)), vectors)``. It costs that pass of the network
    and those two calls of `act`. Where every element is an exact permutation (C4 or D4 on squares), there and back is
    the orbit itself, bit for bit, and the loss is 0 without running anything. (If the network ran all the same, dropout
    would tell the two passes apart; that is no artifact of rotation.)

    Args:
        x: (B, C, H, W) as the network's orbit is made of it: after ``preprocess``.
        network: any callable (N, C, H, W) → (N, d), not a fused one (of that, pass ``.network``).
        vectors: those of the orbit if at hand, (B, E, d) as `CanonicalForm.vectors` or (E·B, d); else computed here.
        generator: where the random elements come from; on any device.
    """
    group = as_transforms(group)
    if orbit_maker(network) is not None:
        raise ValueError("network: expected one that takes (N, C, H, W) rows, got a fused one; pass its .network")
    if group.permutes(*x.shape[-2:]):
        zero = x.new_zeros((), requires_grad=torch.is_grad_enabled())
        return zero if vectors is None else F.mse_loss(vectors, vectors)
    members = ops.orbit(x, group, padding_mode=padding_mode)
    if vectors is None:
        vectors = network(members)
    elif vectors.dim() == 3:
        vectors = vectors.transpose(0, 1).flatten(0, 1)
    where = x.device if generator is None else generator.device
    element = torch.randint(group.order, members.shape[:1], generator=generator, device=where).to(x.device)
    again = vectors_there_and_back(members, element, network, group, padding_mode)
    if again.shape != vectors.shape:
        raise ValueError(f"vectors: expected {tuple(again.shape)}, as network gives, got {tuple(vectors.shape)}")
    return F.mse_loss(again, vectors)


def vectors_there_and_back(
    members: Tensor, element: Tensor, network: Callable[[Tensor], Tensor], group: Transforms, padding_mode: str
) -> Tensor:
    """``network(act(act(members, element, inverse=True), element))``.

    The rows go to the network as an orbit under the trivial group, so its first layer runs the kernel that it runs on
    the orbit.
    """
    there = ops.act(members, element, group=group, inverse=True, padding_mode=padding_mode)
    back = ops.act(there, element, group=group, padding_mode=padding_mode)
    return lazy_orbit.run(network, back, CyclicGroup(1), padding_mode)
