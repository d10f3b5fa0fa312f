"""Calls of the CUDA ops on CPU tensors, and what surrounds those tensors."""

from __future__ import annotations

import torch
from torch import Tensor

from equifast.groups import Group, as_group
from equifast.representations import channel_action

from ..cases import Sample

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


def amid_nan(t: Tensor, before: int = 64) -> Tensor:
    """The same numbers and strides within NaN; ``before`` of them decide whether it begins on 16 bytes."""
    if not t.is_floating_point():
        return t
    if any(size > 1 and stride == 0 for size, stride in zip(t.shape, t.stride(), strict=True)):
        base = tuple(slice(1) if stride == 0 else slice(None) for stride in t.stride())
        return amid_nan(t[base], before).expand(t.shape)
    span = 1 + sum(max(size - 1, 0) * stride for size, stride in zip(t.shape, t.stride(), strict=True))
    out = torch.full((before + span + 64,), torch.nan, dtype=t.dtype).as_strided(t.shape, t.stride(), before)
    return out.copy_(t)


def surrounded(sample: Sample, before: int = 64) -> Sample:
    return Sample(sample.op, tuple(amid_nan(a, before) if isinstance(a, Tensor) else a for a in sample.args))
