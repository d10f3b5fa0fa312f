"""`symmetrize`: a model that averages its outputs over a group, or over the members that a canonicalizer likes best."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor, nn

from .. import averaging, checks, refinement
from ..canonical_form import CanonicalForm
from ..transform_set import Transforms, as_transforms


class Symmetrized(nn.Module):
    """What `symmetrize` returns. Its children are ``model`` and ``canonicalizer``, if they are modules."""

    def __init__(
        self,
        model: Callable[[Tensor], Tensor],
        group: Transforms | str,
        *,
        canonicalizer: Callable[[Tensor], CanonicalForm] | None = None,
        top_k: int | None = None,
        weights: str | None = None,
        representation: str = "invariant",
        padding_mode: str = "border",
    ) -> None:
        super().__init__()
        if not callable(model):
            raise TypeError(f"model: expected a callable, got {type(model).__name__}")
        checks.padding_mode(padding_mode)
        self.group = as_transforms(group)
        self.weights = weights or ("equal" if canonicalizer is None else "probabilities")
        members = refinement.candidate_count(self.group, getattr(canonicalizer, "refine", 0))
        self.top_k = averaging.check_options(self.group, members, top_k, self.weights, representation)
        if canonicalizer is None and (self.top_k < self.group.order or self.weights != "equal"):
            raise ValueError("canonicalizer: needed to tell the best members and their probabilities, got None")
        if (other := getattr(canonicalizer, "group", self.group)) != self.group:
            raise ValueError(f"canonicalizer: expected one for {self.group}, got one for {other}")
        self.model, self.canonicalizer = model, canonicalizer
        self.representation, self.padding_mode = representation, padding_mode

    def forward(self, x: Tensor) -> Tensor:
        options = {"representation": self.representation}
        if self.canonicalizer is not None:
            form = self.canonicalizer(x)
            return form.average(self.model, x, top_k=self.top_k, weights=self.weights, **options)
        checks.images("x", x)
        order = self.group.order
        every = torch.arange(order, device=x.device).expand(x.shape[0], order)
        weights = x.new_full(every.shape, 1 / order)
        options["padding_mode"] = self.padding_mode
        return averaging.average(self.model, x, every, weights, group=self.group, **options)

    def extra_repr(self) -> str:
        return f"{self.group}, top_k={self.top_k}, weights={self.weights}, representation={self.representation}"


def symmetrize(
    model: Callable[[Tensor], Tensor],
    group: Transforms | str,
    *,
    canonicalizer: Callable[[Tensor], CanonicalForm] | None = None,
    top_k: int | None = None,
    weights: str | None = None,
    representation: str = "invariant",
    padding_mode: str = "border",
) -> Symmetrized:
    """A model that averages its outputs over members of the orbit of its input, and so is invariant, or equivariant.

    Without a canonicalizer the average is over all members. Equivalent to::

        orbit_average(model(orbit(x, group)), torch.full((B, E), 1 / E), group=group, representation=representation)

    or ``model(orbit(x, group)).unflatten(0, (E, B)).mean(0)`` for invariant outputs. With a canonicalizer it is over
    the ``top_k`` members that have the largest activations; see `CanonicalForm.average`. ``top_k=1`` is
    canonicalization. The cost is that of ``top_k`` runs of the model, and of the canonicalizer.

    Args:
        model: (N, C, H, W) → (N, …); any callable that treats its rows alike.
        group: such as ``"C4"``.
        canonicalizer: (B, C, H, W) → `CanonicalForm`, such as `nn.Canonicalizer`, for the same group.
        top_k: the number of members; all by default.
        weights: "probabilities" (the default with a canonicalizer) or "equal".
        representation: how outputs move with the image. "invariant": not at all, as logits do. "trivial", "regular",
            "vector": they are maps (N, C', H', W'), and are carried back as by `CanonicalForm.invert`.
        padding_mode: "border" or "zeros", beyond the edge of an image or a map; with a canonicalizer, its own counts.

    Raises:
        ValueError, TypeError: naming the argument.

    Source: weighted frames (Dym, Lawrence and Siegel, arXiv 2402.16077).
    """
    return Symmetrized(
        model,
        group,
        canonicalizer=canonicalizer,
        top_k=top_k,
        weights=weights,
        representation=representation,
        padding_mode=padding_mode,
    )
