"""What the ops are held against: their definitions in eager PyTorch, and torch's own sampler."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from equifast.ops import registry

from .cases import Sample

#: The utilities of torch.library.opcheck that take milliseconds.
CHEAP = ("test_schema", "test_autograd_registration", "test_faketensor")


def in_tuple(out: Tensor | tuple[Tensor, ...]) -> tuple[Tensor, ...]:
    return out if isinstance(out, tuple) else (out,)


def call(op: str, *args) -> tuple[Tensor, ...]:
    """The outputs of an op on the backend under test, always in a tuple."""
    return in_tuple(getattr(torch.ops.equifast, op)(*args))


def eager(op: str, *args) -> tuple[Tensor, ...]:
    """The outputs by the op's definition, which runs where there is no kernel, always in a tuple."""
    return in_tuple(registry.FALLBACKS[op](*args))


def expected(sample: Sample) -> tuple[Tensor, ...]:
    return eager(sample.op, *sample.args)


def grid_sampled(x: Tensor, matrix: tuple[float, ...], padding_mode: str) -> Tensor:
    """x read at matrix·p about the pixel centre, by torch's own sampler."""
    height, width = x.shape[-2:]
    y = torch.arange(height, dtype=torch.float64, device=x.device)[:, None] - (height - 1) / 2
    x_ = torch.arange(width, dtype=torch.float64, device=x.device)[None] - (width - 1) / 2
    a, b, c, d = matrix
    # With align_corners, ±1 are the centres of the outermost pixels.
    grid = torch.stack(((a * x_ + b * y) * 2 / (width - 1), (c * x_ + d * y) * 2 / (height - 1)), -1)
    grid = grid.expand(x.shape[0], height, width, 2).to(x.dtype)
    return F.grid_sample(x, grid, mode="bilinear", padding_mode=padding_mode, align_corners=True)
