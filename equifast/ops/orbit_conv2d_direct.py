"""`orbit_conv2d_direct`: the first layers of a network on a CPU, by our own kernel; and the gradients of one layer.

The native library has both ops. `orbit_conv2d` calls them for a layer that they suit, and `nn` for several layers: a
core then convolves a member by one layer after the other, and what lies between two layers never leaves its cache.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

from ..dtypes import accumulate_dtype
from ..geometry import order_of
from ..layers import ACTIVATIONS, output_size
from ._convolution import conv2d_backward
from .registry import CHOSEN, register

#: The types that our own kernel knows. Up to this many input channels, and up to this many weights, it measured faster
#: than oneDNN on a ready orbit.
DIRECT_DTYPES, DIRECT_CHANNELS, DIRECT_WEIGHTS = (torch.float32, torch.bfloat16), 16, 1 << 16

#: Likewise for the weight gradient: input channels, and columns of the widest kernel, which must not be dilated.
BACKWARD_CHANNELS, BACKWARD_WIDTH = 4, 7


def suits_direct(x: Tensor, weight: Tensor, dtype: torch.dtype | None = None) -> bool:
    """Whether the native op is there, and suits the layer: few channels come in, and there are few weights.

    ``dtype``: what the layer computes in, if not in the type of x.
    """
    native = x.device.type == "cpu" and CHOSEN["cpu"] == "cpu" and (dtype or x.dtype) in DIRECT_DTYPES
    return native and weight.shape[1] <= DIRECT_CHANNELS and weight.numel() <= DIRECT_WEIGHTS


def suits_direct_backward(x: Tensor, weight: Tensor, dilation: list[int]) -> bool:
    narrow = weight.shape[1] <= BACKWARD_CHANNELS and weight.shape[3] <= BACKWARD_WIDTH
    return narrow and dilation[1] == 1 and x.dtype == torch.float32 and suits_direct(x, weight)


class Norm(NamedTuple):
    """A batch normalization in eval mode, as `F.batch_norm` takes it."""

    mean: Tensor | None = None
    var: Tensor | None = None
    weight: Tensor | None = None
    bias: Tensor | None = None


class DirectLayer(NamedTuple):
    """A convolution, and the normalization and the activation after it. Its tensors have the type of the images or
    float32.
    """

    weight: Tensor
    bias: Tensor | None
    stride: Sequence[int]
    padding: Sequence[int]
    dilation: Sequence[int]
    activation: str
    norm: Norm = Norm()
    eps: float = 0.0


def conv2d_direct(x: Tensor, layers: Sequence[DirectLayer], table, padding_mode: str, channels_last: bool) -> Tensor:
    """The layers of the orbit of images, if all layers suit the native op. There is no gradient."""
    return torch.ops.equifast.orbit_conv2d_direct(
        x,
        [layer.weight for layer in layers],
        [layer.bias for layer in layers],
        [t for layer in layers for t in layer.norm],
        [layer.eps for layer in layers],
        table,
        [size for layer in layers for size in layer.stride],
        [size for layer in layers for size in layer.padding],
        [size for layer in layers for size in layer.dilation],
        padding_mode,
        [layer.activation for layer in layers],
        channels_last,
    )


def _parts(sequence: list, length: int) -> list[list]:
    return [sequence[i : i + length] for i in range(0, len(sequence), length)]


def _eager(
    x, weights, biases, norms, eps, table, strides, paddings, dilations, padding_mode, activations, channels_last
):
    y, wide = torch.ops.equifast.orbit(x, None, table, [], [], padding_mode, False), accumulate_dtype(x.dtype)
    sizes = zip(*(_parts(pairs, 2) for pairs in (strides, paddings, dilations)), strict=True)
    for layer in zip(weights, biases, sizes, _parts(norms, 4), eps, activations, strict=True):
        weight, bias, options, (mean, var, gain, offset), epsilon, activation = layer
        bias, mean, var, gain, offset = (None if t is None else t.to(wide) for t in (bias, mean, var, gain, offset))
        y = F.conv2d(y.to(wide), weight.to(wide), bias, *options)
        if mean is not None:
            y = F.batch_norm(y, mean, var, gain, offset, False, 0.0, epsilon)
        y = ACTIVATIONS[activation](y).to(x.dtype)
    return y.contiguous(memory_format=_memory_format(channels_last))


def _fake(
    x, weights, biases, norms, eps, table, strides, paddings, dilations, padding_mode, activations, channels_last
):
    size = x.shape[2:]
    for weight, *options in zip(weights, *(_parts(pairs, 2) for pairs in (strides, paddings, dilations)), strict=True):
        size = output_size(size, weight.shape[2:], *options)
    shape = (order_of(table) * x.shape[0], weights[-1].shape[0], *size)
    return x.new_empty(shape).to(memory_format=_memory_format(channels_last))


def _memory_format(channels_last: bool) -> torch.memory_format:
    return torch.channels_last if channels_last else torch.contiguous_format


register("orbit_conv2d_direct", eager=_eager, fake=_fake, has_gpu_kernel=False)


def _backward_eager(grad, x, kernel, table, stride, padding, dilation, padding_mode, channels_last):
    weight = x.new_empty((grad.shape[1], x.shape[1], *kernel))
    rows = torch.ops.equifast.orbit(x, None, table, [], [], padding_mode, False)
    parts = conv2d_backward(grad, rows, weight, stride, padding, dilation, [False, True, True])
    return tuple(part.contiguous() for part in parts[1:])


def _backward_fake(grad, x, kernel, table, stride, padding, dilation, padding_mode, channels_last):
    return x.new_empty((grad.shape[1], x.shape[1], *kernel)), x.new_empty(grad.shape[1])


register("orbit_conv2d_direct_backward", eager=_backward_eager, fake=_backward_fake, has_gpu_kernel=False)
