"""What the fallbacks of `orbit`, `act`, `orbit_average` and `orbit_inner` share: ρ(g)·S in eager PyTorch."""

from __future__ import annotations

import torch
from torch import Tensor
from torch._prims_common import suggest_memory_format

from .. import reference
from ..dtypes import accumulate_dtype
from ..geometry import ROW, order_of, rows
from ..representations import transpose


def new_images(x: Tensor, shape: tuple[int, ...]) -> Tensor:
    """An uninitialized tensor of this shape, in the dtype and memory format that resampling x returns."""
    return torch.empty(shape, dtype=x.dtype, device=x.device, memory_format=memory_format(x))


def memory_format(x: Tensor) -> torch.memory_format:
    """The memory format that resampling x returns: channels_last if x has it, of each element or of all."""
    if x.is_contiguous():
        return torch.contiguous_format
    return suggest_memory_format(x if x.dim() == 4 else x[0])


def member_of(y: Tensor, e: int) -> Tensor:
    """The images that element e acts on: y[e] of (E, B, C, H, W), or all of (B, C, H, W), which all elements share."""
    return y[e] if y.dim() == 5 else y


def resample(
    x: Tensor,
    e: int,
    table: list[float],
    permutation: list[int],
    mixing: list[float],
    padding_mode: str,
    adjoint: bool,
) -> Tensor:
    """ρ(g_e)·S_e x, or ρ(g_e)·S_eᵀ x if ``adjoint``, for ``x (…, C, H, W)``; in the accumulate dtype."""
    sample = reference.sample_adjoint if adjoint else reference.sample
    (row,) = rows(table[ROW * e : ROW * (e + 1)])
    resampled = sample(x.to(accumulate_dtype(x.dtype)), row, padding_mode)
    return reference.transform_channels(resampled, permutation, mixing, e)


def transposed(table: list[float], permutation: list[int], mixing: list[float]) -> tuple:
    """The channel action ρ of the transposed resampling."""
    return transpose(permutation, mixing, order_of(table))
