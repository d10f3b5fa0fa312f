"""What a gate would cost and bring, from one pass over labelled images."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from . import checks, choice
from .groups import Group, as_group


def gate_curve(
    activations: Tensor, right: Tensor, gates: Sequence[float] | Tensor, *, group: Group | str
) -> tuple[Tensor, Tensor]:
    """How often a model is right behind a canonicalizer with each gate: on images as they are, and on turned ones.

    The orbit of a turned image has the same members in another order. So activations and answers for the orbit of each
    upright image tell what happens to all its turned copies, exactly where elements are exact. With e the best element
    of an image, the copy g_h·x has the best element h·e, and its own view of itself is the member h⁻¹::

        chosen = torch.where(activations[n, e] - activations[n, h⁻¹] < gate, h⁻¹, e)
        accuracy[h] = right[n, chosen].mean()

    Args:
        activations: (N, E), of `canonicalize` on upright images.
        right: (N, E), how right the model is on each member g_e⁻¹·x: bool, or any number such as a probability.
        gates: (G,), values of ``gate=`` to try.
        group: such as ``"C4"``.

    Returns:
        For each gate the mean over images as they are, and the mean over the copies by all elements; both (G,), in
        float64.

    Raises:
        ValueError, TypeError: naming the argument.
    """
    group = as_group(group)
    checks.floating("activations", checks.tensor("activations", activations))
    if activations.dim() != 2 or activations.shape[1] != group.order:
        raise ValueError(f"activations: expected (N, {group.order}) for {group}, got {checks.shape(activations)}")
    if checks.tensor("right", right).shape != activations.shape:
        raise ValueError(f"right: expected {checks.shape(activations)} as activations, got {checks.shape(right)}")
    checks.same_device(activations=activations, right=right)
    thresholds = torch.as_tensor(gates, dtype=activations.dtype, device=activations.device)
    if thresholds.dim() != 1 or not (thresholds >= 0).all():
        raise ValueError(f"gates: expected a sequence of numbers of at least 0, got {gates!r}")
    answers = right.to(torch.float64)
    of_best = answers.gather(1, choice.select(activations).element[:, None])  # (N, 1)
    views = [group.inverse(h) for h in range(group.order)]
    usable = torch.where(choice.is_usable(activations), activations, torch.nan)
    margins = usable.amax(1, keepdim=True) - activations[:, views]  # (N, E)
    is_held = (margins < thresholds[:, None, None]) | margins.isnan()  # (G, N, E)
    accuracy = torch.where(is_held, answers[:, views], of_best).mean(1)  # (G, E)
    return accuracy[:, 0], accuracy.mean(1)
