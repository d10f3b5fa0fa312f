"""Calls of the CUDA ops on CPU tensors, and what surrounds those tensors."""

from __future__ import annotations

import torch
from torch import Tensor

from equifast.groups import Group, as_group
from equifast.representations import channel_action

from ..cases import Sample, amid_nan

OPS = (
    "orbit",
    "act",
    "orbit_average",
    "orbit_inner",
    "angle_inner",
    "orbit_conv2d",
    "orbit_conv2d_backward",
    "orbit_scores",
    "orbit_scores_backward",
    "contrastive_loss",
    "contrastive_loss_backward",
    "orbit_losses",
    "orbit_losses_backward",
)
WITH_TF32 = ("orbit_conv2d", "orbit_conv2d_backward")


def call(op: str, *args, tf32: bool = False) -> tuple[Tensor, ...]:
    """Its outputs, always in a tuple."""
    out = getattr(torch.ops.equifast_emulated, op)(*args, *([tf32] if op in WITH_TF32 else []))
    return out if isinstance(out, tuple) else (out,)


def action(group: Group | str, representation="trivial", padding_mode="border", adjoint=False, inverse=True) -> tuple:
    """What `orbit`, `act` and `orbit_average` take after their tensors."""
    group = as_group(group)
    channels = map(list, channel_action(group, representation, inverse=inverse))
    return list(group.action_table(inverse=inverse)), *channels, padding_mode, adjoint


def surrounded(sample: Sample, before: int = 64) -> Sample:
    return Sample(sample.op, tuple(amid_nan(a, before) if isinstance(a, Tensor) else a for a in sample.args))
