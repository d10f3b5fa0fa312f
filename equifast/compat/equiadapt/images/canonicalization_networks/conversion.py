"""Equivariant networks of equiadapt as networks of this package, which need no e2cnn."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from .....groups import Group
from .....nn import EquivariantNetwork, GroupConv2d, LiftConv2d
from .....ops import act


def converted(network: Any, in_shape: tuple[int, int, int]) -> EquivariantNetwork:
    """An `equifast.nn.EquivariantNetwork` that computes what an ``ESCNNEquivariantNetwork`` does.

    Works for either package's network of that name, over C_n and D_n with n = 1, 2 or 4: there e2cnn turns its filters
    exactly. Activations and, in eval mode, their gradients by the images are equal up to rounding. Running statistics,
    dropout and the mode (training or not) are copied; the filters are free afterwards, no longer steerable.

    Args:
        network: has ``group_type``, ``num_rotations``, ``out_channels``, ``kernel_size`` and ``eqv_network``.
        in_shape: (C, H, W) of the images.

    Raises:
        ValueError: for other groups, or images too small for the network.
    """
    group = Group(int(network.num_rotations), network.group_type == "roto-reflection")
    if group.n not in (1, 2, 4):
        raise ValueError(f"network: expected 1, 2 or 4 rotations, which are exact, got {group.n}")
    layers = list(network.eqv_network.children())
    convolutions = [layer for layer in layers if hasattr(layer, "expand_parameters")]
    norms = [child for layer in layers for child in layer.children() if isinstance(child, nn.BatchNorm3d)]
    dropouts = [float(layer.p) for layer in layers if hasattr(layer, "p")]
    made = EquivariantNetwork(
        in_shape,
        group,
        network.out_channels,
        network.kernel_size,
        len(convolutions),
        dropout=max(dropouts, default=0.0),
    )
    ours = [layer for layer in made.layers if isinstance(layer, (LiftConv2d, GroupConv2d))]
    with torch.no_grad():
        for layer, theirs in zip(ours, convolutions, strict=True):
            filters, bias = theirs.expand_parameters()
            weight = _own_filters(filters, group, lifts=isinstance(layer, LiftConv2d))
            bias = bias[:: group.order]  # one for each field, as all members of a field have the same
            if layer is ours[-1]:  # the mean over channels
                weight, bias = weight.mean(0, keepdim=True), bias.mean(0, keepdim=True)
            layer.weight.copy_(weight)
            layer.get_parameter("bias").copy_(bias)
    for layer, norm in zip(ours, norms, strict=False):
        assert isinstance(layer.norm, nn.BatchNorm2d)
        layer.norm.load_state_dict(norm.state_dict())
        layer.norm.eps, layer.norm.momentum = norm.eps, norm.momentum
    return made.to(filters.device, filters.dtype).train(network.training)


def _own_filters(filters: Tensor, group: Group, *, lifts: bool) -> Tensor:
    """`GroupConv2d`'s or `LiftConv2d`'s weight, from a bank (C_out·E, C·E or C, k, k) that maps images to images.

    The identity's filters see every member in the frame of the image. Ours see each in its own frame.
    """
    own = filters[:: group.order]
    if lifts:
        return own
    places = own.unflatten(1, (-1, group.order)).movedim(2, 0)  # (E, C_out, C, k, k)
    elements = torch.arange(group.order, device=filters.device)
    turned = act(places.flatten(1, 2), elements, group=group, inverse=True)
    return turned.unflatten(1, places.shape[1:3]).movedim(0, 1).flatten(1, 2)
