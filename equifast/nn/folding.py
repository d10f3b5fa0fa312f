"""Runs layers together: normalization and activation with the layer before them."""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable
from typing import Protocol, TypeGuard

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ..layers import ACTIVATIONS
from ..lazy_orbit import LazyOrbit, is_transformed
from ..ops.orbit_conv2d_direct import conv2d_direct, suits_direct
from .normalization import normalize, suits_normalize
from .plain import activation_name, has_hooks


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


def run(layers: Iterable[nn.Module], x: Tensor, *, fold: bool) -> Tensor:
    """``nn.Sequential(*layers)(x)``, in which some layers run together.

    With ``fold``, which is for calls that need no gradient, the normalization and the activation after a Conv2d are
    folded into it. A BatchNorm2d that uses the statistics of its batch runs together with the activation after it.
    """
    pending = deque(layers)
    while pending:
        layer = pending.popleft()
        if fold and type(layer) is nn.Conv2d and layer.padding_mode == "zeros" and not has_hooks(layer):
            following = pending[0] if pending else None
            norm = following if isinstance(following, nn.BatchNorm2d) and is_foldable(following) else None
            if norm is not None:
                pending.popleft()
            x = _convolve(x, layer, norm, _take_activation(pending))
        elif suits_normalize(layer, x):
            x = normalize(layer, x, _take_activation(pending))
        else:
            x = layer(x)
    return x


def _take_activation(pending: deque[nn.Module]) -> str:
    """Remove the next layer if it is an activation that kernels know, and return their name of it; else "none"."""
    name = activation_name(pending[0]) if pending and not has_hooks(pending[0]) else None
    if name is None:
        return "none"
    pending.popleft()
    return name


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
