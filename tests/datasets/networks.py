"""Networks that the command line is given by name, as a user would."""

import torch
from torch import nn

from equifast.nn import Canonicalizer, EquivariantNetwork


def classifier() -> nn.Module:
    """Logits (N, 7) of (N, 3, 16, 16), which tell orientations apart."""
    torch.manual_seed(0)
    return nn.Sequential(nn.Flatten(), nn.Linear(3 * 16 * 16, 32), nn.Tanh(), nn.Linear(32, 7))


def canonicalizer() -> nn.Module:
    return Canonicalizer(classifier(), "D4", reference=torch.arange(7.0))


def direct() -> nn.Module:
    torch.manual_seed(0)
    return EquivariantNetwork((3, 16, 16), "C4", out_channels=4, num_layers=2)


network = classifier()
