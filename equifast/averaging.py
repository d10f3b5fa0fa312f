"""Averages of a model's outputs over the best members of each orbit: weighted frames.

One member is canonicalization, all members with equal weights are the average over the group. Between them, an average
over a few members costs that few runs of the model. Canonicalization jumps where two elements change places; such an
average doesn't, as both have the same weight there. It jumps only where its last member is replaced by another, by the
weight of these (Dym, Lawrence and Siegel, arXiv 2402.16077; Puny and others, arXiv 2110.03336).
"""

from __future__ import annotations

import math
from collections.abc import Callable

import torch
from torch import Tensor

from . import checks, lazy_orbit, ops, representations
from .choice import choice_weights
from .dtypes import accumulate_dtype
from .groups import CyclicGroup
from .transform_set import Transforms

#: How members of a frame are weighted.
WEIGHTS = ("probabilities", "equal")

#: How outputs are carried back. Invariant ones are left as they are; of the others `ops.act` tells.
REPRESENTATIONS = ("invariant", "trivial", "regular", "vector")


def check_options(group: Transforms, members: int, top_k: int | None, weights: str, representation: str) -> int:
    """The number of members k, out of so many that there are.

    Raises:
        ValueError, TypeError: naming the option that is off.
    """
    checks.one_of("weights", weights, WEIGHTS)
    checks.one_of("representation", representation, REPRESENTATIONS)
    if representation != "invariant":
        representations.check(group, representation)
    if top_k is None:
        return members
    if isinstance(top_k, bool) or not isinstance(top_k, int):
        raise TypeError(f"top_k: expected an int or None, got {type(top_k).__name__}")
    if not 1 <= top_k <= members:
        raise ValueError(f"top_k: expected 1 to {members} members for {group}, got {top_k}")
    return top_k


def frame(activations: Tensor, probabilities: Tensor, count: int, weights: str) -> tuple[Tensor, Tensor]:
    """The elements with the largest activations and their weights: (B, E) → ids (B, k) and (B, k), best first.

    Of equal activations the lowest id comes first. The weights of a sample add up to 1. An element that is masked has
    the weight 0, and so have all but the identity for a sample that fell back to it.
    """
    ids = torch.arange(activations.shape[1], device=activations.device)
    fell_back = probabilities.isnan()  # all of a sample, or none
    ranked = torch.where(fell_back, -ids.to(activations.dtype), activations)
    element = ranked.sort(dim=1, descending=True, stable=True).indices[:, :count]
    # A sample that fell back has no other choice than the identity.
    shares = choice_weights(probabilities, element.new_zeros(element.shape[0]))
    if weights == "equal":
        shares = torch.where(fell_back, shares, (activations > -torch.inf).to(shares.dtype))
    of_frame = shares.gather(1, element).to(accumulate_dtype(shares.dtype))
    return element, of_frame / of_frame.sum(1, keepdim=True)


def average(
    model: Callable[[Tensor], Tensor],
    x: Tensor,
    element: Tensor,
    weights: Tensor,
    *,
    group: Transforms,
    representation: str,
    padding_mode: str,
) -> Tensor:
    """``Σ_i weights[:, i] · g_i·model(g_i⁻¹·x)`` over the elements (B, k) of each image (B, C, H, W)."""
    count = element.shape[1]
    if count == group.order:
        # Every member, in the order of the ids. The first convolution of the model makes the orbit.
        weights = torch.zeros_like(weights).scatter(1, element, weights)
        y = _checked(lazy_orbit.run(model, x, group, padding_mode), count * x.shape[0], representation, group)
        if representation != "invariant":
            options = {"representation": representation, "padding_mode": padding_mode}
            return ops.orbit_average(y, weights.to(y.dtype), group=group, **options)
        return weighted_sum(y.unflatten(0, (count, x.shape[0])), weights)
    ids = element.t().flatten()
    table = group.action_table(inverse=True)
    members = torch.ops.equifast.act(x, ids, table, [], [], padding_mode, False)
    y = _checked(model(members), ids.shape[0], representation, group)
    if representation != "invariant":
        y = ops.act(y, ids, group=group, representation=representation, padding_mode=padding_mode)
    return weighted_sum(y.unflatten(0, (count, x.shape[0])), weights)


def weighted_sum(members: Tensor, weights: Tensor) -> Tensor:
    """``Σ_i weights[:, i] · members[i]``, in the order of i: (k, B, …) and (B, k) → (B, …), like the members.

    It is an `orbit_average` in which all elements are the identity, so it takes one pass over the members.
    """
    count, batch, *shape = members.shape
    wide = members.to(torch.promote_types(members.dtype, weights.dtype)) if weights.dtype == torch.float64 else members
    images = wide if members.dim() == 5 else wide.reshape(count, batch, 1, 1, math.prod(shape))
    table = count * CyclicGroup(1).action_table(inverse=False)
    total = torch.ops.equifast.orbit_average(
        images, weights.to(accumulate_dtype(wide.dtype)), table, [], [], "border", False
    )
    return total.reshape(members.shape[1:]).to(members.dtype)


def _checked(y: object, rows: int, representation: str, group: Transforms) -> Tensor:
    y = checks.tensor("model(members)", y)
    if y.dim() < 1 or y.shape[0] != rows:
        raise ValueError(f"model(members): expected {rows} rows, one for each member, got {checks.shape(y)}")
    if representation == "invariant":
        checks.floating("model(members)", y)
    else:
        checks.images("model(members)", y)
        checks.channels("model(members)", y, representation, group.order)
    return y
