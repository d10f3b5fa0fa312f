"""Group convolutions in plain PyTorch: a filter bank is moved by every element of the group, then convolved.

A feature map is (B, channels, E, H, W), one plane for each element. In these layers element n + j means "turn, then
reflect" (h = F·R_j), as in equiadapt's, so equiadapt's checkpoints mean the same. Everywhere else in this package it
means "reflect, then turn" (g = R_j·F). `own_order` translates the one order into the other.
"""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from .....groups import Group
from .....ops import act


def own_order(group: Group) -> list[int]:
    """The id in `equifast.groups` of each element of these layers. The list is its own inverse."""
    n = group.n
    return [*range(n), *(n + -j % n for j in range(n if group.reflections else 0))]


class _GroupConv(nn.Module):
    """What all four layers share. If the layer ``lifts``, its input is an image, else a feature map over the group."""

    reflections: bool
    lifts: bool

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        kernel_size: int,
        num_rotations: int = 4,
        stride: int = 1,
        padding: int = 0,
        bias: bool = True,
        device: str | torch.device | None = None,
    ) -> None:
        super().__init__()
        self.group = Group(num_rotations, self.reflections)
        planes = () if self.lifts else (self.group.order,)
        self.weights = nn.Parameter(
            torch.empty(out_channels, in_channels, *planes, kernel_size, kernel_size, device=device)
        )
        nn.init.kaiming_uniform_(self.weights, a=math.sqrt(5))
        self.bias = nn.Parameter(torch.zeros(out_channels, device=device)) if bias else None
        self.in_channels, self.out_channels, self.kernel_size = in_channels, out_channels, kernel_size
        self.stride, self.padding, self.num_rotations = stride, padding, num_rotations
        self.num_group_elements = self.group.order

    def moved_weights(self) -> Tensor:
        """The filter bank under every element: (out_channels·E, in_channels or in_channels·E, k, k)."""
        order, ids = self.group.order, own_order(self.group)
        weights = self.weights if self.lifts else self.weights[:, :, ids]
        # One image for each element, with one channel for each pair of an output and an input plane.
        bank = weights.reshape(1, -1, *self.weights.shape[-2:]).expand(order, -1, -1, -1)
        elements = torch.tensor(ids, device=bank.device)
        representation = "trivial" if self.lifts else "regular"
        moved = act(bank, elements, group=self.group, representation=representation, padding_mode="zeros")
        if not self.lifts:
            moved = moved.unflatten(1, (-1, order))[:, :, ids]
        inputs = self.in_channels if self.lifts else self.in_channels * order
        shape = (order, self.out_channels, inputs, *self.weights.shape[-2:])
        return moved.reshape(shape).transpose(0, 1).flatten(0, 1)

    def forward(self, x: Tensor) -> Tensor:
        """(B, in_channels, H, W), or (B, in_channels, E, H, W) after the first layer → (B, out_channels, E, H', W')."""
        x = x if self.lifts else x.flatten(1, 2)
        bias = None if self.bias is None else self.bias.repeat_interleave(self.group.order)
        y = F.conv2d(x, self.moved_weights(), bias, self.stride, self.padding)
        return y.unflatten(1, (self.out_channels, self.group.order))

    def mean(self, x: Tensor) -> Tensor:
        """``forward(x).mean((1, 3, 4))``, (B, E), by mean filters and, if they are 1×1, of mean pixels."""
        x = x if self.lifts else x.flatten(1, 2)
        filters = self.moved_weights().unflatten(0, (self.out_channels, self.group.order)).mean(0)
        if (self.kernel_size, self.stride, self.padding) == (1, 1, 0):
            x = x.mean((2, 3), keepdim=True)
        y = F.conv2d(x, filters, None, self.stride, self.padding).mean((2, 3))
        return y if self.bias is None else y + self.bias.mean()


class RotationEquivariantConvLift(_GroupConv):
    """From images to feature maps over C_n."""

    reflections, lifts = False, True


class RotationEquivariantConv(_GroupConv):
    """Between feature maps over C_n."""

    reflections, lifts = False, False


class RotoReflectionEquivariantConvLift(_GroupConv):
    """From images to feature maps over D_n."""

    reflections, lifts = True, True


class RotoReflectionEquivariantConv(_GroupConv):
    """Between feature maps over D_n."""

    reflections, lifts = True, False
