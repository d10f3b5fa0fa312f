"""Triton kernels, one file an op, forward and backward. Triton itself is imported at the first call of one."""

from __future__ import annotations

from collections.abc import Callable
from importlib import import_module

#: The file of each op that has kernels; in it, a function named as the op and with its arguments.
FILES = {
    "orbit": "orbit",
    "act": "act",
    "orbit_average": "orbit_average",
    "orbit_inner": "orbit_inner",
    "angle_inner": "angle_inner",
    "orbit_conv2d": "orbit_conv2d",
    "orbit_conv2d_backward": "orbit_conv2d_backward",
    "orbit_conv2d_pool": "orbit_conv2d_pool",
    "orbit_conv2d_pool_backward": "orbit_conv2d_pool",
    "orbit_scores": "orbit_scores",
    "orbit_scores_backward": "orbit_scores",
    "orbit_linear_scores": "orbit_linear_scores",
    "orbit_losses": "orbit_losses",
    "orbit_losses_backward": "orbit_losses",
    "contrastive_loss": "contrastive_loss",
    "contrastive_loss_backward": "contrastive_loss",
}


def load(name: str) -> Callable:
    """The function of an op."""
    return getattr(import_module(f"{__name__}.{FILES[name]}"), name)
