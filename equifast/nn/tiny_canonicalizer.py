"""The smallest canonicalizer: its network is one convolution of the orbit, and the mean over the pixels."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from ..transform_set import Transforms
from .canonicalizer import Canonicalizer
from .orbit_conv2d import Size
from .orbit_conv2d_pool import PooledOrbitConv2d


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
        beta, similarity, preprocess, estimator, padding_mode, network_dtype, gate, refine: as in `canonicalize`. In
            eval mode "gumbel" takes the arg max.

    Raises:
        ValueError: for an unknown option, or a reference of another size.
    """

    def __init__(
        self,
        in_channels: int,
        group: Transforms | str,
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
        gate: float | None = None,
        refine: int = 0,
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
            gate=gate,
            refine=refine,
        )

    def extra_repr(self) -> str:
        return f"{self.group}, beta={self.beta}, similarity={self.similarity}, estimator={self.estimator}"
