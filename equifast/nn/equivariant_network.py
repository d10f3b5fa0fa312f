"""A group-equivariant network that scores all elements at once: the direct method."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from .. import checks
from ..groups import Group, as_group
from ..layers import output_size
from .group_conv2d import GroupBatchNorm, GroupConv2d, LiftConv2d, PooledGroupConv2d
from .orbit_conv2d import OrbitConv2d
from .plain import channels_last, has_hooks, needs_grad

#: Bytes of one layer's output at once, where the batch may be run in parts.
CHUNK_BYTES = 4 << 20


class EquivariantNetwork(nn.Module):
    """Activations of all elements by group convolutions: (B, C, H, W) → (B, E), the direct method (EquiAdapt).

    A lifting convolution and group convolutions, each with batch normalization, ReLU and dropout but the last, whose
    mean over the pixels is the result. Turning the images permutes their activations::

        network(act(x, h))[:, e] == network(x)[:, h⁻¹e]

    bit for bit in eval mode if h maps the pixels onto themselves, otherwise up to interpolation. No member is preferred
    for how it is interpolated; see `LiftConv2d`. So all g·x get one canonical image::

        form = canonicalize(x, group="C4", activations=network(x))

    The architecture is that of equiadapt's ``ESCNNEquivariantNetwork`` (arXiv 2211.06489, section 4), with free filters
    where that has steerable ones. In both, activations are means over the channels and pixels of the last convolution.
    Such a mean is linear, so the last convolution has one channel here, and is `PooledGroupConv2d`.

    Args:
        in_shape: (C, H, W) of the images, at least; larger images are taken too.
        group: such as ``"C4"``. Its elements are numbered as everywhere in this package, and as in e2cnn and escnn.
        out_channels: channels of each member between the convolutions.
        kernel_size, stride: of all convolutions. There is no padding.
        num_layers: number of convolutions, at least 1.
        dropout: share of the values that are dropped in training.
        padding_mode: "border" or "zeros", beyond the edge of an image or a map that is turned.

    Attributes:
        group_type, num_rotations, num_group_elements: the group as equiadapt describes it. So
            ``compat.equiadapt.GroupEquivariantImageCanonicalization`` takes this network.

    Raises:
        ValueError: for an unknown group or padding_mode, or images too small for so many layers.
    """

    def __init__(
        self,
        in_shape: tuple[int, int, int],
        group: Group | str,
        out_channels: int = 32,
        kernel_size: int = 5,
        num_layers: int = 3,
        *,
        stride: int = 1,
        dropout: float = 0.0,
        padding_mode: str = "border",
    ) -> None:
        super().__init__()
        if len(in_shape) != 3:
            raise ValueError(f"in_shape: expected (C, H, W), got {tuple(in_shape)}")
        if num_layers < 1:
            raise ValueError(f"num_layers: expected at least 1, got {num_layers}")
        self.group = as_group(group)
        self.in_shape: tuple[int, ...] = tuple(in_shape)
        self.group_type = "roto-reflection" if self.group.reflections else "rotation"
        self.num_rotations, self.num_group_elements = self.group.n, self.group.order
        self.out_channels, self.kernel_size, self.stride = out_channels, kernel_size, stride
        self._check_size(num_layers)
        width = out_channels if num_layers > 1 else 1
        after = self._after() if num_layers > 1 else (None, None)
        layers: list[nn.Module] = [self._of(LiftConv2d, in_shape[0], width, padding_mode, *after)]
        for _ in range(num_layers - 2):
            layers.append(self._of(GroupConv2d, out_channels, out_channels, padding_mode, *self._after()))
        if dropout:
            layers = [module for layer in layers for module in (layer, nn.Dropout(dropout))]
        if num_layers > 1:
            layers.append(PooledGroupConv2d(out_channels, 1, kernel_size, self.group, stride=stride))
        self.layers = nn.Sequential(*layers)

    def _of(
        self, kind: type[OrbitConv2d], channels: int, out_channels: int, padding_mode: str, norm, activation
    ) -> OrbitConv2d:
        return kind(
            channels,
            out_channels,
            self.kernel_size,
            self.group,
            stride=self.stride,
            norm=norm,
            activation=activation,
            padding_mode=padding_mode,
        )

    def _after(self) -> tuple[nn.Module, nn.Module]:
        """What comes after a convolution that isn't the last."""
        return GroupBatchNorm(self.out_channels), nn.ReLU()

    def forward(self, x: Tensor) -> Tensor:
        checks.images("x", x)
        # Convolutions of many channels are faster in channels_last, and all layers keep it.
        x = channels_last(x)
        images = self._images_at_once(x)
        return self._run(x) if images is None else torch.cat([self._run(part) for part in x.split(images)])

    def _run(self, x: Tensor) -> Tensor:
        y = self.layers(x).flatten(1).mean(1)  # a single layer leaves the pixels
        return y.reshape(self.group.order, x.shape[0]).t()

    def _images_at_once(self, x: Tensor) -> int | None:
        """As many as fit the caches, where parts give the same as the whole; None for all of them."""
        if x.device.type != "cpu" or self.training or torch.compiler.is_compiling() or needs_grad(self, x):
            return None
        if any(map(has_hooks, self.modules())):
            return None
        height, width = self._convolved(x.shape[2:])
        output = self.group.order * self.out_channels * height * width * x.itemsize
        images = max(CHUNK_BYTES // max(output, 1), 1)
        return images if images < x.shape[0] else None

    def _convolved(self, size: Sequence[int]) -> tuple[int, ...]:
        """The (height, width) after one layer."""
        return output_size(size, (self.kernel_size,) * 2, (self.stride,) * 2, (0, 0), (1, 1))

    def _check_size(self, num_layers: int) -> None:
        size = self.in_shape[1:]
        for i in range(num_layers):
            size = self._convolved(size)
            if min(size) < 1:
                height, width = self.in_shape[1:]
                raise ValueError(
                    f"in_shape: {height}×{width} is too small for {num_layers} layers with kernel {self.kernel_size}: "
                    f"nothing is left for layer {i + 1}"
                )
