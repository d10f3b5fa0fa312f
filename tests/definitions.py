"""What the ops are held against: their definitions in eager PyTorch, and torch's own sampler."""

from __future__ import annotations

from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import Tensor

from equifast.ops import registry

from .backend import NAME
from .cases import assert_near
from .samples import Sample

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


def check(sample: Sample, near: Callable = assert_near) -> None:
    """Holds the backend's outputs against the definition: values, shapes, dtypes and, on CPUs, strides."""
    for out, true in zip(sample.run(), expected(sample), strict=True):
        assert (out.shape, out.dtype) == (true.shape, true.dtype), sample
        assert NAME != "cpu" or strides(out) == strides(true) or 0 in out.shape, sample
        # Sums of a few more roundings than what they stand for; orbit_inner cancels.
        scale = 10 if "inner" in sample.op or "backward" in sample.op else 4
        near(out, true, scale=scale, about=str(sample))


def strides(t: Tensor) -> list[int]:
    """The strides that tell where values lie: those of axes with more than one."""
    return [stride for size, stride in zip(t.shape, t.stride(), strict=True) if size > 1]


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
