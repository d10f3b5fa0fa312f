"""One warp ρ(g)·S in eager PyTorch, as the fallbacks of orbit, act, orbit_average and orbit_inner need it."""

from __future__ import annotations

import torch
from torch import Tensor
from torch._prims_common import suggest_memory_format

from .. import reference
from ..groups import ROW
from ..representations import transpose
from ._library import CHOSEN, GPU


def new_images(x: Tensor, shape: tuple[int, ...]) -> Tensor:
    """What a warp of x returns, not yet filled."""
    return torch.empty(shape, dtype=x.dtype, device=x.device, memory_format=memory_format(x))


def memory_format(x: Tensor) -> torch.memory_format:
    """That of a warp of x: channels_last if x is so and a GPU's kernels run; others write NCHW."""
    if x.is_contiguous() or CHOSEN.get(x.device.type) not in GPU:
        return torch.contiguous_format
    return suggest_memory_format(x if x.dim() == 4 else x[0])


def order_of(table: list[float]) -> int:
    return len(table) // ROW


def member(
    x: Tensor,
    e: int,
    table: list[float],
    permutation: list[int],
    mixing: list[float],
    padding_mode: str,
    adjoint: bool,
) -> Tensor:
    """ρ S_e x, or ρ S_eᵀ x if ``adjoint``, of ``x (…, C, H, W)``, in the accumulate dtype."""
    warp = reference.sample_adjoint if adjoint else reference.sample
    wide = x.to(reference.accumulate_dtype(x.dtype))
    moved = warp(wide, reference.rows(table[ROW * e : ROW * (e + 1)])[0], padding_mode)
    return reference.transform_channels(moved, permutation, mixing, e)


def transposed(table: list[float], permutation: list[int], mixing: list[float]) -> tuple:
    """Channel action of the transposed warp."""
    return transpose(permutation, mixing, order_of(table))


def unflatten(orbit: Tensor, order: int) -> Tensor:
    """(E·B, …) → (E, B, …)."""
    return orbit.view(order, orbit.shape[0] // order, *orbit.shape[1:])
