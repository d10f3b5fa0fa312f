"""The smallest canonicalizer: its network is one convolution of the orbit, and the mean over the pixels."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor, nn

from .. import checks, ops
from ..groups import Group, as_group
from ..layers import ACTIVATIONS
from .canonicalizer import Canonicalizer
from .orbit_conv2d import Size, sizes_of


class PooledOrbitConv2d(nn.Module):
    """`equifast.orbit_conv2d_pool` as a module: (B, C, H, W) → (E·B, out_channels), features of each orbit member.

    It convolves every member, applies the activation, and takes the mean over the pixels. It is a network for
    `canonicalize` that makes the orbit itself. Neither the orbit nor the output of the convolution is in memory as a
    whole, forward or backward.

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
        group: Group | str,
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
        self.orbit_group = as_group(group)
        self.padding_mode = padding_mode

    # New values for weight and bias, drawn as those of a new `torch.nn.Conv2d`. Its method needs no more of ``self``.
    reset_parameters = nn.Conv2d.reset_parameters

    @property
    def out_vector_size(self) -> int:
        return self.weight.shape[0]

    def forward(self, x: Tensor) -> Tensor:
        return ops.orbit_conv2d_pool(
            x,
            self.weight,
            self.bias,
            group=self.orbit_group,
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


class TinyCanonicalizer(Canonicalizer):
    """A `Canonicalizer` whose network is one layer: orbit, convolution, activation, mean over pixels.

    The vectors are compared with the reference as in every `Canonicalizer`. On a GPU two launches lead from x to the
    chosen element, one of `orbit_conv2d_pool` and one of `orbit_scores`, and only the vectors (E·B, channels) are in
    memory between them. Small batches, and groups that interpolate, take a few launches more. ``forward(x)`` takes
    (B, C, H, W) and returns a `CanonicalForm`; ``state_dict`` has ``reference``, ``network.weight`` and
    ``network.bias``.

    Equivalent to::

        vectors = gelu(conv(orbit(preprocess(x), group))).mean((2, 3))         # (E·B, channels)
        scores = orbit_scores(vectors, reference, group=group, beta=beta, similarity=similarity)

    Args:
        in_channels: C of x, after ``preprocess``.
        group: such as ``"C4"``.
        channels: output channels of the convolution, which are the length d of the vectors.
        kernel_size, stride, padding, dilation, bias: of the convolution, as in `torch.nn.Conv2d`.
        activation: "none", "relu", "gelu" or "silu".
        reference: the initial vector (channels,); by default it is drawn from a normal distribution.
        learn_reference: whether the reference is a parameter; otherwise it is a buffer.
        beta, similarity, preprocess, estimator, padding_mode, network_dtype: as in `canonicalize`. In eval mode
            "gumbel" takes the arg max.

    Raises:
        ValueError: for an unknown option, or a reference of another size.
    """

    def __init__(
        self,
        in_channels: int,
        group: Group | str,
        *,
        channels: int = 64,
        kernel_size: Size = 7,
        stride: Size = 2,
        padding: Size | str = 0,
        dilation: Size = 1,
        bias: bool = True,
        activation: str = "gelu",
        reference: Tensor | None = None,
        learn_reference: bool = True,
        beta: float = 1.0,
        similarity: str = "cosine",
        preprocess: Callable[[Tensor], Tensor] | None = None,
        estimator: str = "straight_through",
        padding_mode: str = "border",
        network_dtype: torch.dtype | None = None,
    ) -> None:
        network = PooledOrbitConv2d(
            in_channels,
            channels,
            kernel_size,
            group,
            stride=stride,
            padding=padding,
            dilation=dilation,
            bias=bias,
            activation=activation,
            padding_mode=padding_mode,
        )
        super().__init__(
            network,
            group,
            vector_size=channels,
            reference=reference,
            learn_reference=learn_reference,
            beta=beta,
            similarity=similarity,
            preprocess=preprocess,
            estimator=estimator,
            padding_mode=padding_mode,
            network_dtype=network_dtype,
        )

    def extra_repr(self) -> str:
        return f"{self.group}, beta={self.beta}, similarity={self.similarity}, estimator={self.estimator}"
