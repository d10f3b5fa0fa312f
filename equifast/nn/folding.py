"""Runs layers together: normalization and activation with the layer before them."""

from __future__ import annotations

from collections import deque
from collections.abc import Container, Iterable
from typing import NamedTuple, Protocol, TypeGuard

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ..groups import CyclicGroup
from ..layers import ACTIVATIONS, NORM_ACTIVATIONS
from ..lazy_orbit import LazyOrbit
from ..ops.orbit_conv2d_direct import DirectLayer, Norm, conv2d_direct, suits_direct
from .normalization import normalize, suits_normalize
from .plain import activation_name, has_hooks, is_watched

#: Images alone, as the orbit of the trivial group.
C1 = CyclicGroup(1)


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


class Block(NamedTuple):
    """A convolution, and what is folded into it."""

    layer: nn.Conv2d
    norm: FoldableNorm | None
    activation: str

    def direct(self) -> DirectLayer:
        layer, norm = self.layer, self.norm
        assert not isinstance(layer.padding, str)
        options = (layer.weight, layer.bias, layer.stride, layer.padding, layer.dilation, self.activation)
        if norm is None:
            return DirectLayer(*options)
        return DirectLayer(*options, Norm(norm.running_mean, norm.running_var, norm.weight, norm.bias), norm.eps)


def run(layers: Iterable[nn.Module], x: Tensor, *, fold: bool) -> Tensor:
    """``nn.Sequential(*layers)(x)``, in which some layers run together.

    With ``fold``, which is for calls that need no gradient, the normalization and the activation after a Conv2d are
    folded into it. A BatchNorm2d that uses the statistics of its batch runs together with the activation after it.
    """
    pending = deque(layers)
    while pending:
        if fold and _is_plain_convolution(pending[0]):
            x = _convolve(x, _take_blocks(pending))
            continue
        layer = pending.popleft()
        x = normalize(layer, x, _take_activation(pending, NORM_ACTIVATIONS)) if suits_normalize(layer, x) else layer(x)
    return x


def run_together(layers: Iterable[nn.Module], images: Tensor) -> bool:
    """Whether `run` gives the orbit of these images to our own kernel for all layers at once."""
    pending = deque(layers)
    blocks = _take_blocks(pending)
    return not pending and len(blocks) > 1 and _suiting(images, blocks) == len(blocks)


def _is_plain_convolution(layer: nn.Module) -> TypeGuard[nn.Conv2d]:
    return type(layer) is nn.Conv2d and layer.padding_mode == "zeros" and not has_hooks(layer)


def _take_blocks(pending: deque[nn.Module]) -> deque[Block]:
    """Remove the convolutions at the start, each with what is folded into it."""
    blocks: deque[Block] = deque()
    while pending and _is_plain_convolution(layer := pending[0]):
        pending.popleft()
        norm = pending[0] if pending and isinstance(pending[0], nn.BatchNorm2d) and is_foldable(pending[0]) else None
        if norm is not None:
            pending.popleft()
        blocks.append(Block(layer, norm, _take_activation(pending, ACTIVATIONS)))
    return blocks


def _take_activation(pending: deque[nn.Module], known: Container[str]) -> str:
    """Remove the next layer if it is one of the ``known`` activations, and return its name; else "none"."""
    name = activation_name(pending[0], known) if pending and not has_hooks(pending[0]) else None
    if name is None:
        return "none"
    pending.popleft()
    return name


def _convolve(x: Tensor, blocks: deque[Block]) -> Tensor:
    """The blocks one after the other, as many at once as our own kernel takes."""
    while blocks:
        orbit = x.unmade() if isinstance(x, LazyOrbit) else None
        images = x if orbit is None else orbit.images
        count = _suiting(images, blocks)
        if count > 1 or (count == 1 and orbit is None):
            layers = [blocks.popleft().direct() for _ in range(count)]
            group, padding_mode = (C1, "border") if orbit is None else (orbit.group, orbit.padding_mode)
            images = images.to(_dtype_of_layers(images))
            x = conv2d_direct(images, layers, list(group.action_table(inverse=True)), padding_mode, False)
        else:
            x = _convolve_by_torch(x, *blocks.popleft())
    return x


def _convolve_by_torch(x: Tensor, layer: nn.Conv2d, norm: FoldableNorm | None, activation: str) -> Tensor:
    weight, bias = folded(layer, norm)
    if weight.itemsize == 2 or torch.is_autocast_enabled(x.device.type):
        # In a narrow type oneDNN often runs the layers that follow. The output is then channels_last too.
        weight = weight.contiguous(memory_format=torch.channels_last)
    if isinstance(x, LazyOrbit):
        # The activation while the output is in cache: 13 % less time for `ConvNetwork` (64×3×96×96).
        y = x.convolved(weight, bias, layer.stride, layer.padding, layer.dilation, layer.groups, activation)
        if y is not None:
            return y
    # So the output is channels_last, where oneDNN is quicker.
    weight = weight.contiguous(memory_format=torch.channels_last)
    y = F.conv2d(x, weight, bias, layer.stride, layer.padding, layer.dilation, layer.groups)
    return ACTIVATIONS[activation](y)


def _dtype_of_layers(images: Tensor) -> torch.dtype:
    """What a convolution of these images computes in: their type, or that of autocast, which leaves float64 alone."""
    device = images.device.type
    casts = torch.is_autocast_enabled(device) and images.dtype != torch.float64
    return torch.get_autocast_dtype(device) if casts else images.dtype


def _suiting(images: Tensor, blocks: Iterable[Block]) -> int:
    """How many of the blocks our own kernel runs as ``F.conv2d`` would, and faster."""
    if type(images) is not Tensor or images.dim() != 4 or is_watched():
        return 0
    dtype = _dtype_of_layers(images)
    # Autocast leaves parameters in float32. Our own kernel rounds them.
    dtypes = (dtype, torch.float32) if torch.is_autocast_enabled(images.device.type) else (dtype,)

    def is_plain(t: Tensor) -> bool:
        """Whether t has no dispatch of its own, and is where the images are, in a type that is taken."""
        return type(t) in (nn.Parameter, Tensor) and t.dtype in dtypes and t.device == images.device

    count, channels = 0, images.shape[1]
    for layer, norm, _ in blocks:
        weight = layer.weight
        known = layer.groups == 1 and not isinstance(layer.padding, str) and weight.shape[1] == channels
        tensors: list[Tensor | None] = [weight, layer.bias]
        if norm is not None:
            tensors += [norm.running_mean, norm.running_var, norm.weight, norm.bias]
        plain = all(t is None or is_plain(t) for t in tensors)
        if not (known and plain and suits_direct(images, weight, dtype)):
            break
        count, channels = count + 1, weight.shape[0]
    return count
