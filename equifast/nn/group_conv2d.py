"""Convolutions between feature maps over a group, and the lifting convolution that makes the first of them."""

from __future__ import annotations

from collections.abc import Sequence
from functools import reduce

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from .. import checks
from ..disc import within_disc
from ..dtypes import accumulate_dtype
from ..frames import lifting_table
from ..groups import Group, as_group
from ..layers import ACTIVATIONS, output_size
from ..ops._layers import layer_options
from .cosets import Cosets, at_place, in_one_frame, in_own_frames
from .orbit_conv2d import OrbitConv2d, Size
from .plain import channels_last

#: In rows e·B + b, the statistics of a channel are those over all members, images and pixels, so that no member is
#: treated otherwise than another one. Therefore `torch.nn.BatchNorm2d` is equivariant as it is.
GroupBatchNorm = nn.BatchNorm2d


class LiftConv2d(OrbitConv2d):
    """From images to feature maps over a group: (B, C, H, W) → (E·B, C_out, H', W'), rows e·B + b.

    Row e·B + b is the map of member e in that member's own frame: it is computed from g_e⁻¹·x, and nothing turns it
    back. Turning the images therefore permutes the rows, ``lift(g_h·x)[e] == lift(x)[h⁻¹e]``: bit for bit in eval mode
    if h maps the pixels onto themselves, otherwise up to interpolation.

    Where every element maps the pixels onto themselves this is `OrbitConv2d`. Elsewhere it differs in two ways, without
    which a network would prefer some members for what interpolation does to them:

    * Pixels beyond the inscribed disc count as 0, with a smooth edge. They leave the image at some element.
    * The frames are turned by half a step of the group, so that every member is interpolated. See ``equifast.frames``.

    Equivalent to: ``equifast.reference.lift_conv2d(x, weight, bias, …)``, then ``norm`` and ``activation``.

    Arguments, attributes and errors are those of `OrbitConv2d`.
    """

    group: Group
    _transforms = staticmethod(as_group)

    def forward(self, x: Tensor) -> Tensor:
        checks.images("x", x)
        return super().forward(x if self.group.permutes(*x.shape[2:]) else within_disc(x))

    def _convolve(self, x: Tensor, weight: Tensor, bias: Tensor | None, activation: str) -> Tensor:
        sizes = (self.stride, self.padding, self.dilation)
        _, *options = layer_options(x, weight, bias, self.group, *sizes, self.padding_mode, activation)
        table = lifting_table(self.group, *x.shape[2:])
        return torch.ops.equifast.orbit_conv2d(x, weight, bias, table, *options)


class GroupConv2d(OrbitConv2d):
    """A convolution of feature maps over a group: (E·B, C, H, W) → (E·B, C_out, H', W'), rows e·B + b.

    Row e·B + b is the map of member e in that member's own frame, as `LiftConv2d` makes it. The member that has the
    place k as seen from member e is member e·k, and g_k carries its map into the frame of e::

        out[e] = bias + Σ_k g_k · conv2d(x[e·k], weight[:, k·C : (k + 1)·C])

    with the product e·k of the group, and with `act` about the centre of the output. (In frames that are turned, g_k is
    turned likewise; see ``equifast.frames``.) In eval mode every member is computed by the same arithmetic, in the same
    order, from the same maps seen from its own place. Permuting the members of x by a left multiplication then permutes
    the output likewise, bit for bit, for every group, kernel, stride and padding, even where g_k interpolates. In
    training it does so up to rounding, and members that differ by exact elements are channels of one convolution. See
    ``nn/cosets.py``. Filters are turned by exact elements only, so nothing blurs them.

    For groups of exact elements on square maps this is the group convolution of Cohen and Welling (arXiv 1602.07576)
    with the filters ``g_k · weight[:, k·C : (k + 1)·C]``. Their map of e is ``g_e · x[e]``.

    Equivalent to: ``equifast.reference.group_conv2d(x, weight, bias, …)``, then ``norm`` and ``activation``.

    In eval mode, if no gradient is needed, the normalization is folded into the weight.

    Args:
        in_channels, out_channels: C and C_out of each member.
        kernel_size, stride, padding, dilation, bias: as in `torch.nn.Conv2d`. Turned maps have the centre of the image
            if ``size + 2·padding − dilation·(kernel_size − 1) − 1`` is a multiple of the stride.
        group: such as ``"C4"``.
        norm: a module for (N, C_out, H', W'), such as `GroupBatchNorm`, or None.
        activation: a module that runs after ``norm``, or None.
        padding_mode: "border" or "zeros", beyond the edge of a map that is turned; the convolution pads with zeros.

    Attributes:
        weight: (C_out, E·C, kH, kW), column k·C + c for the place k and channel c.

    Raises:
        ValueError: for an unknown group or padding_mode, or rows that are not E·B.
    """

    group: Group
    _transforms = staticmethod(as_group)

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        kernel_size: Size,
        group: Group | str,
        *,
        stride: Size = 1,
        padding: Size | str = 0,
        dilation: Size = 1,
        bias: bool = True,
        norm: nn.Module | None = None,
        activation: nn.Module | None = None,
        padding_mode: str = "border",
    ) -> None:
        super().__init__(
            in_channels * as_group(group).order,
            out_channels,
            kernel_size,
            group,
            stride=stride,
            padding=padding,
            dilation=dilation,
            bias=bias,
            norm=norm,
            activation=activation,
            padding_mode=padding_mode,
        )

    def forward(self, x: Tensor) -> Tensor:
        _check_rows(x, self.group, self.weight)
        return super().forward(x)

    def _convolve(self, x: Tensor, weight: Tensor, bias: Tensor | None, activation: str) -> Tensor:
        options = (self.stride, self.padding, self.dilation)
        is_channels_last = x.is_contiguous(memory_format=torch.channels_last)

        def convolve(x: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
            weight = channels_last(weight) if is_channels_last else weight
            return F.conv2d(x, weight, bias, self.stride, self.padding, self.dilation)

        kernel = weight.shape[2:]
        size = x.shape[2:] if self.padding == "same" else output_size(x.shape[2:], kernel, *self._sizes())
        cosets = Cosets.of(self.group, *size)
        one_frame = self.training and len(cosets.exact) > 1 and cosets.commute(x.shape[2:], kernel, *options)
        compute = in_one_frame if one_frame else in_own_frames
        return ACTIVATIONS[activation](compute(x, weight, bias, cosets, convolve, self.padding_mode))

    def _sizes(self) -> tuple[Sequence[int], ...]:
        """Stride, padding and dilation, unless the padding is "same"."""
        return self.stride, (0, 0) if isinstance(self.padding, str) else self.padding, self.dilation


class PooledGroupConv2d(GroupConv2d):
    """The mean over pixels of a group convolution, without the convolution: (E·B, C, H, W) → (E·B, C_out).

    A mean over pixels is linear, so only the means of x below each tap of the kernel are needed, which takes one pass
    over x. Maps aren't turned before they are averaged. So this equals ``GroupConv2d(…)(x).mean((2, 3))`` where
    elements are exact, and leaves out the interpolation where they aren't::

        out[e] = bias + Σ_k conv2d(x[e·k], weight[:, k·C : (k + 1)·C]).mean((2, 3))

    Arguments, attributes and errors are those of `GroupConv2d`, but for ``norm``, ``activation`` and ``padding_mode``,
    which have no place here. Means and sums are in float32 at least, also under autocast.
    """

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        kernel_size: Size,
        group: Group | str,
        *,
        stride: Size = 1,
        padding: Size = 0,
        dilation: Size = 1,
        bias: bool = True,
    ) -> None:
        super().__init__(
            in_channels, out_channels, kernel_size, group, stride=stride, padding=padding, dilation=dilation, bias=bias
        )

    def forward(self, x: Tensor) -> Tensor:
        _check_rows(x, self.group, self.weight)
        order = self.group.order
        with torch.autocast(x.device.type, enabled=False):
            wide = accumulate_dtype(x.dtype)
            means = self._means_below_taps(x.to(wide))
            filters = self.weight.to(wide).unflatten(1, (order, -1)).permute(1, 0, 3, 4, 2).flatten(2).flatten(0, 1)
            # One product for each row, not one for all rows: a row's sum must not depend on its place in the batch.
            places = torch.bmm(filters.expand(x.shape[0], -1, -1), means[:, :, None])  # (E·B, E·C_out, 1)
            own = places.unflatten(1, (order, -1)).squeeze(3).unbind(1)
            total = reduce(torch.add, (at_place(y, self.group, k) for k, y in enumerate(own)))
            return (total if self.bias is None else total + self.bias.to(wide)).to(x.dtype)

    def _means_below_taps(self, x: Tensor) -> Tensor:
        """Means over the output's pixels of what each tap reads: (N, C, H, W) → (N, kH·kW·C)."""
        assert not isinstance(self.padding, str)
        sizes = zip(x.shape[2:], self.weight.shape[2:], self.stride, self.padding, self.dilation, strict=True)
        down, across = (_averages(*size, like=x) for size in sizes)
        pixels = x.permute(0, 2, 3, 1).flatten(2)  # (N, H, W·C)
        rows = torch.bmm(down.expand(x.shape[0], -1, -1), pixels).unflatten(2, (x.shape[3], -1))  # (N, kH, W, C)
        rows = rows.flatten(0, 1)
        return torch.bmm(across.expand(rows.shape[0], -1, -1), rows).unflatten(0, (-1, len(down))).flatten(1)


def _check_rows(x: Tensor, group: Group, weight: Tensor) -> None:
    checks.images("x", x)
    checks.orbit_rows("x", x, group.order)
    if x.shape[1] * group.order != weight.shape[1]:
        raise ValueError(f"x: expected {weight.shape[1] // group.order} channels, got {checks.shape(x)}")


def _averages(size: int, kernel: int, stride: int, padding: int, dilation: int, like: Tensor) -> Tensor:
    """(kernel, size): row i averages, along one axis, the pixels that tap i reads for all outputs."""
    (outputs,) = output_size((size,), (kernel,), (stride,), (padding,), (dilation,))
    if outputs < 1:
        raise ValueError(f"x: expected a map that is not smaller than the kernel, got {size} for {kernel}")
    taps, positions, pixels = (torch.arange(n, device=like.device) for n in (kernel, outputs, size))
    read = taps[:, None] * dilation + positions * stride - padding  # (kernel, outputs)
    return (read[:, :, None] == pixels).sum(1).to(like.dtype) / outputs
