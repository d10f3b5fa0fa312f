"""The networks: a classifier of 28×28 images, and one that chooses the element for each method."""

from __future__ import annotations

import torch
from torch import nn

import equifast

CLASSES = 10
SHAPE = (1, 28, 28)

#: Of EquiOptAdapt's scorer: channels, kernel size, layers, length of the vectors. Layers have stride 2.
SCORER = (16, 7, 2, 64)

#: Of EquiAdapt's equivariant network: channels, kernel size, layers; and their stride. An epoch takes as long as one of
#: the scorer with C4, and 1.4 times as long with C8 and D4.
DIRECT, DIRECT_STRIDE = (8, 4, 3), 2

#: The same where it stands beside the published package's, whose layers have no stride.
PUBLISHED_DIRECT = (8, 5, 3)


def classifier() -> nn.Sequential:
    """Three strided convolutions with batch normalization, and a linear layer: (B, 1, 28, 28) → logits (B, 10)."""
    layers: list[nn.Module] = []
    before, size = SHAPE[0], SHAPE[1]
    for width, kernel in ((32, 5), (64, 3), (64, 3)):
        layers += [nn.Conv2d(before, width, kernel, stride=2, padding=kernel // 2, bias=False)]
        layers += [nn.BatchNorm2d(width), nn.ReLU()]
        before, size = width, (size + 1) // 2
    network = nn.Sequential(*layers, nn.Flatten(), nn.Linear(before * size * size, CLASSES))
    return network.to(memory_format=torch.channels_last)


def scorer() -> equifast.nn.ConvNetwork:
    """EquiOptAdapt's: equiadapt's own small network, without dropout. (B, 1, 28, 28) → (B, 64)."""
    network = equifast.nn.ConvNetwork(SHAPE, *SCORER)
    without_dropout(network)
    return network


def equivariant(group: str, *, as_published: bool = False) -> nn.Module:
    """EquiAdapt's: (B, 1, 28, 28) → activations (B, E)."""
    if as_published:
        return equifast.nn.EquivariantNetwork(SHAPE, group, *PUBLISHED_DIRECT)
    return equifast.nn.EquivariantNetwork(SHAPE, group, *DIRECT, stride=DIRECT_STRIDE)


def without_dropout(network: nn.Module) -> None:
    """Set the probability of every dropout to 0: equiadapt's drops whole rows, so half of an orbit gets one vector."""
    for module in network.modules():
        if isinstance(getattr(module, "p", None), float):
            module.p = 0.0


def parameters(module: nn.Module, trained: bool = False) -> int:
    """How many there are; with ``trained``, without those that are frozen."""
    return sum(parameter.numel() for parameter in module.parameters() if parameter.requires_grad or not trained)
