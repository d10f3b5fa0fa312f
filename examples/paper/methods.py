"""The four methods: what stands before the classifier, and what is minimized."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

import equifast
from equifast import CanonicalForm

from . import networks
from .plan import MOVED, Run

#: Weight of the contrastive loss beside the prior.
CONTRASTIVE = 0.001

#: Learning rate of the classifier. Those of the canonicalizers are the best of three that were tried for each, by the
#: identity metric after one epoch with C4 (MNIST). EquiAdapt: 0.982, 0.992 and 0.993 for 0.002, 0.01 and 0.02.
#: EquiOptAdapt: 0.990, 0.993 and 0.993 for 0.002, 0.005 and 0.01.
RATE = 2e-3

#: Inverse temperature of EquiOptAdapt's choice. Its activations are cosines, at most 1.
BETA = 10.0


class Direct(nn.Module):
    """EquiAdapt: an equivariant network gives each element its activation, and `canonicalize` goes on from there."""

    def __init__(self, group: str) -> None:
        super().__init__()
        self.group = group
        self.network = networks.equivariant(group)

    def forward(self, x: Tensor) -> CanonicalForm:
        return equifast.canonicalize(x, None, None, group=self.group, activations=self.network(x))


def optimized(group: str) -> nn.Module:
    """EquiOptAdapt: any network scores the orbit, beside a reference vector that stays as it was drawn."""
    return equifast.nn.Canonicalizer(networks.scorer(), group, beta=BETA, learn_reference=False)


@dataclass(frozen=True)
class Method:
    """One row of the comparison.

    Attributes:
        title: what the tables call it.
        canonicalizer: makes what stands before the classifier, for a group; None: nothing.
        beta: the factor on activations in the prior loss.
        contrastive: weight of the contrastive loss.
        rate: learning rate of the canonicalizer.
        moves: whether the canonicalizer is trained on images that are moved by random elements, and the prior asks for
            that element. The members of a moved image are interpolated as often as those that a test image has, so
            that a network can't tell the identity by its sharpness. It changes nothing for exact groups.
        augments: whether the classifier is trained on images that are moved by random elements.
    """

    title: str
    canonicalizer: Callable[[str], nn.Module] | None = None
    beta: float = 1.0
    contrastive: float = 0.0
    rate: float = 0.0
    moves: bool = False
    augments: bool = False


METHODS = {
    "vanilla": Method("vanilla"),
    "augmentation": Method("augmentation", augments=True),
    "equiadapt": Method("EquiAdapt", Direct, rate=2e-2),
    "equioptadapt": Method("EquiOptAdapt", optimized, beta=BETA, contrastive=CONTRASTIVE, rate=5e-3),
}
METHODS[MOVED] = replace(METHODS["equioptadapt"], title="EquiOptAdapt, moved", moves=True)


class Model(nn.Module):
    """A classifier, alone or behind a canonicalizer: (B, 1, 28, 28) → logits (B, 10), and the form or None."""

    def __init__(self, method: Method, group: str | None) -> None:
        super().__init__()
        self.classifier = networks.classifier()
        self.canonicalizer = None
        if method.canonicalizer is not None and group is not None:
            self.canonicalizer = method.canonicalizer(group)

    def forward(self, x: Tensor) -> tuple[Tensor, CanonicalForm | None]:
        form = None if self.canonicalizer is None else self.canonicalizer(x)
        return self.classifier(x if form is None else form.image), form


def model(run: Run) -> Model:
    """The untrained model of a run, in which everything that the run doesn't train is frozen."""
    return freeze(run, Model(METHODS[run.method], run.group))


def freeze(run: Run, model: Model) -> Model:
    """Freeze the classifier, where a run trains the canonicalizer alone."""
    model.classifier.requires_grad_(model.canonicalizer is None or run.tuned)
    return model


def rates(run: Run, model: Model) -> list[dict[str, Any]]:
    """What a run trains, as groups of parameters with a learning rate each."""
    parts = [(model.classifier, RATE), (model.canonicalizer, METHODS[run.method].rate)]
    found = [([p for p in part.parameters() if p.requires_grad], rate) for part, rate in parts if part is not None]
    return [{"params": parameters, "lr": rate} for parameters, rate in found if parameters]


def loss(run: Run, model: Model, x: Tensor, y: Tensor) -> Tensor:
    """What a run minimizes on upright images x with labels y; labels serve the classifier alone.

    In front of a frozen classifier it is that of the canonicalizer: the prior, which pulls the choice to the identity
    on upright images, and EquiOptAdapt's contrastive term. With a tuned one, the classifier's cross-entropy is added.
    """
    method = METHODS[run.method]
    if model.canonicalizer is None:
        return F.cross_entropy(model.classifier(moved(x, run.group)[0] if method.augments else x), y)
    x, target = moved(x, run.group) if method.moves else (x, None)
    form = model.canonicalizer(x)
    total = form.prior_loss(target, beta=method.beta)
    if method.contrastive:
        total = total + method.contrastive * form.contrastive_loss()
    if run.tuned:
        total = total + F.cross_entropy(model.classifier(form.image), y)
    return total


def moved(x: Tensor, group: str | None) -> tuple[Tensor, Tensor]:
    """Every image moved by a random element of the group, and these elements (B,)."""
    assert group is not None
    element = torch.randint(equifast.as_group(group).order, x.shape[:1])
    return equifast.act(x, element, group=group), element
