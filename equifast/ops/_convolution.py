"""The convolution of an orbit by PyTorch, and its gradients, in a type in which PyTorch computes them rightly."""

from __future__ import annotations

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor

from ..dtypes import accumulate_dtype
from .registry import CHOSEN


def conv2d(rows: Tensor, weight: Tensor, bias: Tensor | None, stride, padding, dilation) -> Tensor:
    """``F.conv2d`` of images (N, C, H, W), in their dtype."""
    dtype = _computed_in(rows, weight, padding, dilation)
    bias = None if bias is None else bias.to(dtype)
    return F.conv2d(rows.to(dtype), weight.to(dtype), bias, stride, padding, dilation).to(rows.dtype)


def conv2d_backward(grad: Tensor, rows: Tensor, weight: Tensor, stride, padding, dilation, needs: list[bool]):
    """The gradients of images, weight and bias that ``needs`` asks for, in the dtype of the images or a wider one."""
    dtype = _computed_in(rows, weight, padding, dilation)
    operands = (t.to(dtype) for t in (grad, rows, weight))
    options = ([weight.shape[0]], stride, padding, dilation, False, [0, 0], 1, needs)
    return torch.ops.aten.convolution_backward(*operands, *options)


def _computed_in(rows: Tensor, weight: Tensor, padding: Sequence[int], dilation: Sequence[int]) -> torch.dtype:
    """The dtype that PyTorch is to compute in: a wide one for the reference, and where a narrow one goes wrong.

    In 16 bits, PyTorch 2.13 is wrong on CPUs with AMX. A NaN reaches pixels that do not read it. Where an image is so
    small that a window reads padding on both sides of it, or padding alone, it reads and writes beyond its buffers: of
    1848 drawn convolutions of at most 6×6 pixels, 170 had a wrong output or weight gradient, or crashed.
    """
    if rows.device.type != "cpu":
        return rows.dtype
    sizes = zip(rows.shape[2:], weight.shape[2:], padding, dilation, strict=True)
    small = any(d * (k - 1) + 1 + p > n or p > d * (k - 1) for n, k, p, d in sizes)
    return accumulate_dtype(rows.dtype) if small or CHOSEN["cpu"] == "reference" else rows.dtype
