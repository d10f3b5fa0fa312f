"""`orbit_conv2d_direct`: the first layer of a network on a CPU, by our own kernel; and the gradients of its parameters.

The native library has both ops. `orbit_conv2d` calls them for the layers that they suit.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from ..groups import CyclicGroup
from ..layers import ACTIVATIONS
from ._layers import new_output
from .registry import CHOSEN, register

#: Up to this many input channels, for each type that our own kernel knows, and up to this many weights, it measured
#: faster than oneDNN on a ready orbit.
DIRECT_CHANNELS, DIRECT_WEIGHTS = {torch.float32: 16, torch.bfloat16: 4}, 1 << 16

#: Likewise for the weight gradient: input channels, and columns of the widest kernel, which must not be dilated.
BACKWARD_CHANNELS, BACKWARD_WIDTH = 4, 7


def suits_direct(x: Tensor, weight: Tensor) -> bool:
    """Whether the native op is there, and suits the layer: few channels come in, and there are few weights."""
    native = x.device.type == "cpu" and CHOSEN["cpu"] == "cpu"
    small = weight.shape[1] <= DIRECT_CHANNELS.get(x.dtype, 0) and weight.numel() <= DIRECT_WEIGHTS
    return native and small


def suits_direct_backward(x: Tensor, weight: Tensor, dilation: list[int]) -> bool:
    narrow = weight.shape[1] <= BACKWARD_CHANNELS and weight.shape[3] <= BACKWARD_WIDTH
    return narrow and dilation[1] == 1 and x.dtype == torch.float32 and suits_direct(x, weight)


def conv2d_direct(x: Tensor, weight: Tensor, bias: Tensor | None, stride, padding, dilation, activation) -> Tensor:
    """``F.conv2d`` and an activation, of images that suit the native op. There is no gradient."""
    trivial = list(CyclicGroup(1).action_table(inverse=True))
    options = (trivial, stride, padding, dilation, "border", activation, False)
    return torch.ops.equifast.orbit_conv2d_direct(x, weight, bias, *options)


def _eager(x, weight, bias, table, stride, padding, dilation, padding_mode, activation, channels_last):
    rows = torch.ops.equifast.orbit(x, None, table, [], [], padding_mode, False)
    y = ACTIVATIONS[activation](F.conv2d(rows, weight, bias, stride, padding, dilation))
    return y.contiguous(memory_format=_memory_format(channels_last))


def _fake(x, weight, bias, table, stride, padding, dilation, padding_mode, activation, channels_last):
    return new_output(x, weight, table, stride, padding, dilation, _memory_format(channels_last))


def _memory_format(channels_last: bool) -> torch.memory_format:
    return torch.channels_last if channels_last else torch.contiguous_format


register("orbit_conv2d_direct", eager=_eager, fake=_fake, has_gpu_kernel=False)


def _backward_eager(grad, x, kernel, table, stride, padding, dilation, padding_mode, channels_last):
    weight = x.new_empty((grad.shape[1], x.shape[1], *kernel))
    rows = torch.ops.equifast.orbit(x, None, table, [], [], padding_mode, False)
    options = (weight.shape[:1], stride, padding, dilation, False, [0, 0], 1, [False, True, True])
    return torch.ops.aten.convolution_backward(grad, rows, weight, *options)[1:]


def _backward_fake(grad, x, kernel, table, stride, padding, dilation, padding_mode, channels_last):
    return x.new_empty((grad.shape[1], x.shape[1], *kernel)), x.new_empty(grad.shape[1])


register("orbit_conv2d_direct_backward", eager=_backward_eager, fake=_backward_fake, has_gpu_kernel=False)
