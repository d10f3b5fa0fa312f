"""Folding of normalization and activation into the convolution before them, where no gradient is needed."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Protocol, TypeGuard

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ..layers import ACTIVATIONS
from ..lazy_orbit import LazyOrbit, is_transformed
from ..ops.orbit_conv2d_direct import conv2d_direct, suits_direct


class Convolution(Protocol):
    """Anything with a weight and perhaps a bias."""

    @property
    def weight(self) -> Tensor: ...
    @property
    def bias(self) -> Tensor | None: ...


class FoldableNorm(Protocol):
    """A batch normalization that has running statistics."""

    running_mean: Tensor
    running_var: Tensor
    eps: float
    affine: bool
    weight: Tensor
    bias: Tensor


#: What kernels call each activation module. `activation_name` adds GELU, of whose two kinds they know one.
NAMES = {type(None): "none", nn.Identity: "none", nn.ReLU: "relu", nn.SiLU: "silu"}


def needs_grad(module: nn.Module, x: Tensor) -> bool:
    """Whether a graph has to be recorded for ``module(x)``."""
    return torch.is_grad_enabled() and (x.requires_grad or any(p.requires_grad for p in module.parameters()))


def activation_name(module: nn.Module | None) -> str | None:
    """What kernels call an activation module: "none" if there is no module, None if they don't know the activation."""
    if type(module) is nn.GELU:
        return "gelu" if module.approximate == "none" else None
    return NAMES.get(type(module))


def is_foldable(norm: nn.Module | None) -> TypeGuard[FoldableNorm | None]:
    """Whether `folded` can fold ``norm`` in its present mode. Without a normalization it can."""
    if norm is None:
        return True
    known = type(norm) in (nn.BatchNorm2d, nn.SyncBatchNorm) and norm.running_mean is not None
    return known and not norm.training and not has_hooks(norm)


def folded(conv: Convolution, norm: FoldableNorm | None) -> tuple[Tensor, Tensor | None]:
    """Weight and bias of a convolution into which the batch normalization after it is folded.

    ``F.conv2d(x, *folded(conv, norm))`` equals ``norm(conv(x))`` in eval mode. The results have the dtype of the
    convolution, and are computed in float32 or float64.
    """
    if norm is None:
        return conv.weight, conv.bias
    wide = torch.promote_types(norm.running_mean.dtype, torch.float32)
    scale = torch.rsqrt(norm.running_var.to(wide) + norm.eps)
    if norm.affine:
        scale = scale * norm.weight
    shift = -norm.running_mean if conv.bias is None else conv.bias - norm.running_mean
    bias = shift * scale
    if norm.affine:
        bias = bias + norm.bias
    weight = conv.weight * scale[:, None, None, None]
    return weight.to(conv.weight.dtype), bias.to(conv.weight.dtype)


def run(layers: Iterable[nn.Module], x: Tensor) -> Tensor:
    """``nn.Sequential(*layers)(x)`` without a graph: each Conv2d with the normalization and activation after it."""
    pending = list(layers)
    while pending:
        layer = pending.pop(0)
        if not (type(layer) is nn.Conv2d and layer.padding_mode == "zeros" and not has_hooks(layer)):
            x = layer(x)
            continue
        following = pending[0] if pending else None
        norm = following if isinstance(following, nn.BatchNorm2d) and is_foldable(following) else None
        if norm is not None:
            pending.pop(0)
        name = activation_name(pending[0]) if pending and not has_hooks(pending[0]) else None
        if name is not None:
            pending.pop(0)
        x = _convolve(x, layer, norm, name or "none")
    return x


def _convolve(x: Tensor, layer: nn.Conv2d, norm: FoldableNorm | None, activation: str) -> Tensor:
    weight, bias = folded(layer, norm)
    if weight.itemsize == 2 or torch.is_autocast_enabled(x.device.type):
        # In a narrow type oneDNN runs all layers but the first, whose output is then channels_last too.
        weight = weight.contiguous(memory_format=torch.channels_last)
    if isinstance(x, LazyOrbit):
        # The activation while the output is in cache: 13 % less time for `ConvNetwork` (64×3×96×96).
        y = x.convolved(weight, bias, layer.stride, layer.padding, layer.dilation, layer.groups, activation)
        if y is not None:
            return y
    if _suits_our_kernel(x, layer):
        return conv2d_direct(x, weight, bias, layer.stride, layer.padding, layer.dilation, activation)
    # So the output is channels_last, where oneDNN is quicker.
    weight = weight.contiguous(memory_format=torch.channels_last)
    y = F.conv2d(x, weight, bias, layer.stride, layer.padding, layer.dilation, layer.groups)
    return ACTIVATIONS[activation](y)


def _suits_our_kernel(x: Tensor, layer: nn.Conv2d) -> bool:
    """Whether our own convolution does the same as ``F.conv2d``, and does it faster."""
    if torch.compiler.is_compiling() or is_transformed() or torch.is_autocast_enabled("cpu"):
        return False
    images = type(x) is Tensor and x.dim() == 4 and x.shape[1] == layer.in_channels
    known = layer.groups == 1 and not isinstance(layer.padding, str) and layer.weight.dtype == x.dtype
    return images and known and suits_direct(x, layer.weight)


def has_hooks(module: nn.Module) -> bool:
    """Whether a module has hooks. To call its kernel directly would leave them out."""
    kinds = ("_forward_hooks", "_forward_pre_hooks", "_backward_hooks", "_backward_pre_hooks")
    return any(getattr(module, kind) for kind in kinds)
