"""Batch normalization by the statistics of the batch, together with the activation after it."""

from __future__ import annotations

from typing import TypeGuard

from torch import Tensor, nn

from ..ops.batch_norm_act import batch_norm_act, suits_batch_norm_act
from .plain import has_hooks, is_watched


def suits_normalize(norm: nn.Module, x: Tensor) -> TypeGuard[nn.BatchNorm2d]:
    """Whether `normalize` may stand in the place of ``norm(x)``.

    It may not where another normalizes or watches, nor for the derivatives that only PyTorch knows. A compiler gets the
    modules as they are, since it fuses them itself.
    """
    if type(norm) is not nn.BatchNorm2d or has_hooks(norm) or is_watched():
        return False
    running = norm.running_mean, norm.running_var
    by_batch = norm.training or running == (None, None)
    plain = all(type(t) in (Tensor, nn.Parameter, type(None)) for t in (x, norm.weight, norm.bias, *running))
    fits = x.dim() == 4 and x.shape[1] == norm.num_features and (running[0] is None) == (running[1] is None)
    return by_batch and plain and fits and suits_batch_norm_act(x, norm.weight, norm.bias)


def normalize(norm: nn.BatchNorm2d, x: Tensor, activation: str) -> Tensor:
    """``activation(norm(x))``, where `suits_normalize` holds; the running statistics of ``norm`` follow."""
    y, mean, var = batch_norm_act(x, norm.weight, norm.bias, norm.eps, activation)
    if norm.training and norm.track_running_stats:
        _track(norm, mean, var, x.numel() // x.shape[1])
    return y


def _track(norm: nn.BatchNorm2d, mean: Tensor, var: Tensor, count: int) -> None:
    """Move the running statistics towards those of a batch with ``count`` values in each channel."""
    factor = norm.momentum or 0.0
    if norm.num_batches_tracked is not None:
        norm.num_batches_tracked.add_(1)
        if norm.momentum is None:
            factor = 1.0 / float(norm.num_batches_tracked)
    unbiased = var * (count / (count - 1))
    for running, found in ((norm.running_mean, mean), (norm.running_var, unbiased)):
        if running is not None:
            running.copy_(factor * found + (1 - factor) * running)
