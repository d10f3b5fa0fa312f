"""Base classes: the interface, a canonicalizer that changes nothing, and the choice of an element of a finite group."""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ....losses import prior_loss
from ....ops import select

GRADIENT_TRICKS = ("straight_through", "gumbel_softmax")


class BaseCanonicalization(nn.Module):
    """The interface of every canonicalizer.

    Attributes:
        canonicalization_network: the submodule that each call runs; it may be replaced by another one.
        canonicalization_info_dict: intermediate results of the last call; empty before the first one.
    """

    def __init__(self, canonicalization_network: nn.Module) -> None:
        super().__init__()
        self.canonicalization_network = canonicalization_network
        self.canonicalization_info_dict: dict[str, Any] = {}

    def forward(self, x: Tensor, targets: list | None = None, **kwargs: object):
        """`canonicalize`."""
        return self.canonicalize(x, targets, **kwargs)

    def canonicalize(self, x: Tensor, targets: list | None = None, **kwargs: object):
        """The canonical images of x; with ``targets``, the pair of these images and the targets that fit them."""
        raise NotImplementedError

    def invert_canonicalization(self, x_canonicalized_out: Tensor, **kwargs: Any) -> Tensor:
        """Outputs for the canonical images of the last call, turned back into the frame of its inputs."""
        raise NotImplementedError


class IdentityCanonicalization(BaseCanonicalization):
    """Changes nothing, so that a model without canonicalization runs through the same code."""

    def __init__(self, canonicalization_network: nn.Module | None = None) -> None:
        super().__init__(nn.Identity() if canonicalization_network is None else canonicalization_network)

    def canonicalize(self, x: Tensor, targets: list | None = None, **kwargs: object):
        """x itself; with ``targets``, the pair of x and ``targets``, both unchanged."""
        return x if targets is None else (x, targets)

    def invert_canonicalization(self, x_canonicalized_out: Tensor, **kwargs: object) -> Tensor:
        """The argument itself."""
        return x_canonicalized_out

    def get_prior_regularization_loss(self) -> Tensor:
        """Always 0."""
        return torch.tensor(0.0)

    def get_identity_metric(self) -> Tensor:
        """Always 1."""
        return torch.tensor(1.0)


class DiscreteGroupCanonicalization(BaseCanonicalization):
    """The choice of one element of a finite group by its activation.

    Args:
        canonicalization_network: a module.
        beta: factor on the activations, inside the softmax through which gradients pass.
        gradient_trick: "straight_through" passes gradients through the softmax in training, and none in evaluation.
            "gumbel_softmax" draws a sample instead, in training and in evaluation, and ignores beta. Both do as
            equiadapt does.
    """

    def __init__(
        self, canonicalization_network: nn.Module, beta: float = 1.0, gradient_trick: str = "straight_through"
    ) -> None:
        super().__init__(canonicalization_network)
        self.beta = beta
        self.gradient_trick = gradient_trick

    def groupactivations_to_groupelementonehot(self, group_activations: Tensor) -> Tensor:
        """The one-hot choice (B, E) for activations (B, E). ``gradient_trick`` says how gradients pass through it."""
        if self.gradient_trick not in GRADIENT_TRICKS:
            expected = ", ".join(GRADIENT_TRICKS)
            raise ValueError(f"gradient_trick: expected one of {expected}, got {self.gradient_trick!r}")
        if self.gradient_trick == "gumbel_softmax":
            return F.gumbel_softmax(group_activations, tau=1, hard=True)
        scores = select(group_activations, self.beta)
        hard = F.one_hot(scores.element, group_activations.shape[-1]).float()
        if not self.training:
            return hard
        # The difference in brackets is exactly 0, so the values of the choice stay exactly 0 and 1.
        return hard + (scores.probabilities - scores.probabilities.detach())

    def get_prior_regularization_loss(self) -> Tensor:
        """Mean cross-entropy between the softmax of the last activations, without beta, and the identity."""
        return prior_loss(self._from_last_call("group_activations"))

    def get_identity_metric(self) -> Tensor:
        """Share of the last batch in which the identity had the largest activation."""
        return (self._from_last_call("group_activations").argmax(-1) == 0).float().mean()

    def _from_last_call(self, name: str):
        """An entry of ``canonicalization_info_dict``, or an error that says what to call first."""
        if name not in self.canonicalization_info_dict:
            raise RuntimeError(f"nothing canonicalized yet, so no {name}: call canonicalize first")
        return self.canonicalization_info_dict[name]


class ContinuousGroupCanonicalization(BaseCanonicalization):
    """Not provided. The name exists so that imports which list it work."""

    def __init__(self, *args: object, **kwargs: object) -> None:
        raise NotImplementedError(
            f"{type(self).__name__}: canonicalization over continuous groups isn't provided; see docs/equiadapt.md"
        )
