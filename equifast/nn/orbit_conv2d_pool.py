"""A convolution of every orbit member, and the mean over its pixels, as a module."""

from __future__ import annotations

from torch import Tensor, nn

from .. import checks, ops
from ..layers import ACTIVATIONS
from ..transform_set import Transforms, as_transforms
from .orbit_conv2d import Size, sizes_of


class PooledOrbitConv2d(nn.Module):
    """`equifast.orbit_conv2d_pool` as a module: (B, C, H, W) → (E·B, out_channels), features of each orbit member.

    It convolves every member, applies the activation, and takes the mean over the pixels. It is a network for
    `canonicalize` that makes the orbit itself. Neither the orbit nor the output of the convolution is in memory as a
    whole, forward or backward. ``forward`` takes another group in place of its own.

    Args:
        in_channels, out_channels, kernel_size, stride, padding, dilation, bias: as in `torch.nn.Conv2d`.
        group: such as ``"C4"``.
        activation: "none", "relu", "gelu" or "silu".
        padding_mode: "border" or "zeros", of the orbit; the convolution itself pads with zeros.

    Raises:
        ValueError: for an unknown group, activation or padding_mode.
    """

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        kernel_size: Size,
        group: Transforms | str,
        *,
        stride: Size = 1,
        padding: Size | str = 0,
        dilation: Size = 1,
        bias: bool = True,
        activation: str = "gelu",
        padding_mode: str = "border",
    ) -> None:
        super().__init__()
        checks.one_of("activation", activation, ACTIVATIONS)
        checks.padding_mode(padding_mode)
        conv = nn.Conv2d(in_channels, out_channels, kernel_size, stride, padding, dilation, bias=bias)
        self.weight, self.bias = conv.weight, conv.bias
        self.stride, self.padding, self.dilation = sizes_of(conv)
        self.activation = activation
        self.orbit_group = as_transforms(group)
        self.padding_mode = padding_mode

    # New values for weight and bias, drawn as those of a new `torch.nn.Conv2d`. Its method needs no more of ``self``.
    reset_parameters = nn.Conv2d.reset_parameters

    @property
    def out_vector_size(self) -> int:
        return self.weight.shape[0]

    def forward(self, x: Tensor, group: Transforms | None = None) -> Tensor:
        return ops.orbit_conv2d_pool(
            x,
            self.weight,
            self.bias,
            group=group or self.orbit_group,
            stride=self.stride,
            padding=self.padding,
            dilation=self.dilation,
            padding_mode=self.padding_mode,
            activation=self.activation,
        )

    def extra_repr(self) -> str:
        weight = " × ".join(map(str, self.weight.shape))
        return (
            f"{self.orbit_group}, weight {weight}, bias={self.bias is not None}, stride={self.stride}, "
            f"padding={self.padding}, dilation={self.dilation}, activation={self.activation}, "
            f"padding_mode={self.padding_mode}"
        )
