"""What is said once about convolutional layers: output sizes, and the activations that kernels know."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial

import torch
import torch.nn.functional as F
from torch import Tensor

#: The activations that kernels of convolutions know, in place.
ACTIVATIONS: dict[str, Callable[[Tensor], Tensor]] = {
    "none": lambda y: y,
    "relu": torch.relu_,
    "gelu": torch.ops.aten.gelu_,
    "silu": torch.ops.aten.silu_,
}

#: Those that `batch_norm_act` knows: GELU by tanh as well.
NORM_ACTIVATIONS = ACTIVATIONS | {"gelu_tanh": partial(torch.ops.aten.gelu_, approximate="tanh")}

#: The gradient of an activation's input, from the gradient of its output and from its input.
ACTIVATION_GRADIENTS: dict[str, Callable[[Tensor, Tensor], Tensor]] = {
    "none": lambda grad, z: grad,
    "relu": lambda grad, z: torch.ops.aten.threshold_backward(grad, z, 0),
    "gelu": torch.ops.aten.gelu_backward,
    "gelu_tanh": partial(torch.ops.aten.gelu_backward, approximate="tanh"),
    "silu": torch.ops.aten.silu_backward,
}


def activated(y: Tensor, activation: str) -> Tensor:
    """One of `ACTIVATIONS`, not in place."""
    return y if activation == "none" else getattr(F, activation)(y)


def output_size(
    size: Sequence[int], kernel: Sequence[int], stride: Sequence[int], padding: Sequence[int], dilation: Sequence[int]
) -> tuple[int, ...]:
    """Height and width of a convolution's output, from those of its input. Below 1 where the kernel does not fit."""
    return tuple(
        (n + 2 * p - d * (k - 1) - 1) // s + 1
        for n, k, s, p, d in zip(size, kernel, stride, padding, dilation, strict=True)
    )
