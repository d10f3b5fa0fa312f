"""`batch_norm_act`: batch normalization by the statistics of the batch, then an activation.

The native library for CPUs has it. Together the two are five passes over memory in PyTorch, and two here; backward
computes the derivative of the activation from x again, so that nothing but x is kept. The networks of `nn` call it in
training where it suits.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from torch._prims_common import suggest_memory_format

from ..dtypes import DTYPES, accumulate_dtype
from ..layers import ACTIVATION_GRADIENTS, NORM_ACTIVATIONS
from .registry import CHOSEN, register

#: All axes but that of the channels.
AXES = (0, 2, 3)


def suits_batch_norm_act(x: Tensor, weight: Tensor | None, bias: Tensor | None) -> bool:
    """Whether the native op is there, and takes these: images with at least two values for each channel."""
    if x.device.type != "cpu" or CHOSEN["cpu"] != "cpu" or x.dtype not in DTYPES or x.dim() != 4:
        return False
    known = (x.dtype, accumulate_dtype(x.dtype))
    return x.numel() > x.shape[1] > 0 and all(p is None or p.dtype in known for p in (weight, bias))


def batch_norm_act(
    x: Tensor, weight: Tensor | None, bias: Tensor | None, eps: float, activation: str
) -> tuple[Tensor, Tensor, Tensor]:
    """``activation((x − mean) / √(var + eps) · weight + bias)``, with the mean and variance of each channel.

    Args:
        x: (N, C, H, W), any strides. The output is channels_last if x is.
        weight, bias: (C,), of the dtype of x or of the one that x is summed in.
        activation: a key of `layers.NORM_ACTIVATIONS`.

    Returns:
        The output; mean and variance (C,), which no gradient passes through. The variance is the biased one.
    """
    channels_last = suggest_memory_format(x) == torch.channels_last
    return torch.ops.equifast.batch_norm_act(x, weight, bias, eps, activation, channels_last)


def _new(x: Tensor, channels_last: bool) -> Tensor:
    memory_format = torch.channels_last if channels_last else torch.contiguous_format
    return torch.empty(x.shape, dtype=x.dtype, device=x.device, memory_format=memory_format)


def _each(numbers: Tensor) -> Tensor:
    """One number for each channel, as images have them."""
    return numbers[:, None, None]


def _statistics(x: Tensor) -> tuple[Tensor, Tensor]:
    x = x.to(accumulate_dtype(x.dtype))
    mean = x.mean(AXES)
    return mean, (x - _each(mean)).square().mean(AXES)


def _normalized(x, weight, bias, mean, var, eps) -> tuple[Tensor, Tensor]:
    """The normalized images, then with weight and bias."""
    normal = (x.to(mean.dtype) - _each(mean)) * _each(torch.rsqrt(var + eps))
    z = normal if weight is None else normal * _each(weight.to(mean.dtype))
    return normal, z + (0 if bias is None else _each(bias.to(mean.dtype)))


def _eager(x, weight, bias, eps, activation, channels_last):
    mean, var = _statistics(x)
    _, z = _normalized(x, weight, bias, mean, var, eps)
    return _new(x, channels_last).copy_(NORM_ACTIVATIONS[activation](z)), mean, var


def _fake(x, weight, bias, eps, activation, channels_last):
    mean = x.new_empty(x.shape[1], dtype=accumulate_dtype(x.dtype))
    return _new(x, channels_last), mean, mean.new_empty(x.shape[1])


def _setup_context(ctx, inputs, output):
    x, weight, bias, *ctx.options = inputs
    _, mean, var = output
    ctx.mark_non_differentiable(mean, var)
    ctx.save_for_backward(x, weight, bias, mean, var)


def _backward(ctx, grad, *_):
    grads = torch.ops.equifast.batch_norm_act_backward(grad, *ctx.saved_tensors, *ctx.options)
    needed = (g if needs else None for g, needs in zip(grads, ctx.needs_input_grad, strict=False))
    return *needed, None, None, None


register(
    "batch_norm_act",
    eager=_eager,
    fake=_fake,
    setup_context=_setup_context,
    backward=_backward,
    has_gpu_kernel=False,
)


def _backward_eager(grad, x, weight, bias, mean, var, eps, activation, channels_last):
    normal, z = _normalized(x, weight, bias, mean, var, eps)
    # torch's gradient of GELU refuses one of which pixels share memory.
    g = ACTIVATION_GRADIENTS[activation](grad.to(mean.dtype).contiguous(), z)
    of_weight, of_bias = (g * normal).sum(AXES), g.sum(AXES)
    count = max(x.numel() // max(x.shape[1], 1), 1)
    through_statistics = (_each(of_bias) + normal * _each(of_weight)) / count
    scale = torch.rsqrt(var + eps) * (1 if weight is None else weight.to(mean.dtype))
    of_x = _new(x, channels_last).copy_(_each(scale) * (g - through_statistics))
    types = (mean.dtype if p is None else p.dtype for p in (weight, bias))
    return of_x, *(total.to(dtype) for total, dtype in zip((of_weight, of_bias), types, strict=True))


def _backward_fake(grad, x, weight, bias, mean, var, eps, activation, channels_last):
    parameters = (mean.new_empty(mean.shape, dtype=(mean if p is None else p).dtype) for p in (weight, bias))
    return _new(x, channels_last), *parameters


def _double_setup_context(ctx, inputs, output):
    grad, x, weight, bias, _, _, ctx.eps, ctx.activation, _ = inputs
    ctx.save_for_backward(grad, x, weight, bias)


def _alias(t: Tensor) -> Tensor:
    """The same values, of a tensor that has a gradient of its own."""
    return t.view_as(t) if t.requires_grad else t.detach().requires_grad_()


def _double_backward(ctx, *grads):
    """Differentiates the definition twice, in which mean and variance are functions of x."""
    with torch.enable_grad():
        # Aliases, whose gradients are partial ones: the gradient of y may itself be a function of x.
        inputs: list[Any] = [None if t is None else _alias(t) for t in ctx.saved_tensors]
        grad, x, weight, bias = inputs
        leaves = [t for t in (x, weight, bias) if t is not None]
        _, z = _normalized(x, weight, bias, *_statistics(x), ctx.eps)
        y = NORM_ACTIVATIONS[ctx.activation](z).to(grad.dtype)
        found = torch.autograd.grad(y, leaves, grad, create_graph=True)
    upstream = [g for g, leaf in zip(grads, (x, weight, bias), strict=True) if leaf is not None]
    wanted = {i: t for i, t in enumerate(inputs) if ctx.needs_input_grad[i]}
    second = torch.autograd.grad(
        found, list(wanted.values()), upstream, create_graph=torch.is_grad_enabled(), allow_unused=True
    )
    by_input = dict(zip(wanted, second, strict=True))
    return *(by_input.get(i) for i in range(4)), *[None] * 5


register(
    "batch_norm_act_backward",
    eager=_backward_eager,
    fake=_backward_fake,
    setup_context=_double_setup_context,
    backward=_double_backward,
    has_gpu_kernel=False,
)
