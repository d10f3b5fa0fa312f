"""What the hosts of orbit, act, orbit_average and orbit_inner share: the plan of a resampling, and its launches."""

from __future__ import annotations

from collections.abc import Sequence
from functools import lru_cache, partial
from itertools import count
from typing import NamedTuple

import torch
from torch import Tensor
from torch._prims_common import suggest_memory_format

from . import tables
from .launch import Config, Kernel, Problem
from .sizes import accumulator, ceil_div, index_type, power_of_two

#: Channels that a block takes one after the other, so that it works out positions once for them.
PLANES = 4


class ResamplePlan(NamedTuple):
    """A group that acts on images of one shape, as kernels take it."""

    order: int
    rows: Tensor  # `tables.device_rows`
    permutation: Tensor | None
    mixing: Tensor | None
    constants: dict
    number: int  # tells this plan from all others
    has_edge_tiles: bool  # whether the pixels on the edge of an image have tiles of their own


def resample_plan(x: Tensor, table, permutation, mixing, padding_mode: str, adjoint: bool = False) -> ResamplePlan:
    """The plan for images x (…, H, W)."""
    square = x.shape[-1] == x.shape[-2]
    channels = tuple(permutation or ()), tuple(mixing or ())
    return _plan(tuple(table), *channels, padding_mode, adjoint, square, x.dtype, x.device)


_numbers = count()


@lru_cache(maxsize=256)
def _plan(table, permutation, mixing, padding_mode, adjoint, square, dtype, device) -> ResamplePlan:
    actions = tables.actions(table, square)
    constants = {
        "INTERPOLATES": bool(tables.bases(table, square)),
        "TURNS": any(a.is_exact and a.code % 2 for a in actions),
        "BORDER": padding_mode == "border",
        "ADJOINT": 0 if not adjoint else 1 if tables.rotates(table, square) else 2,
        "TYPE": accumulator(dtype),
    }
    return ResamplePlan(
        len(actions),
        tables.device_rows(table, square, device),
        tables.device_integers(permutation, device) if permutation else None,
        tables.device_reals(mixing, device) if mixing else None,
        constants,
        next(_numbers),
        has_edge_tiles=constants["INTERPOLATES"] and adjoint and padding_mode == "border",
    )


def launch_resampling(
    kernel: Kernel,
    plan: ResamplePlan,
    tensors: Sequence[Tensor | None],
    scalars: tuple[int | None, ...],
    *,
    images: tuple[Tensor, ...],
    rows: int,
    whole: bool = False,
    summing: bool = False,
) -> None:
    """Launch one block for each of ``rows``; unless they are ``whole``, for each few channels and each tile of them.

    It launches a second time if the edge has tiles of its own. ``images``: all tensors with (C, H, W) last, the one
    that is resampled first; their sizes and strides are among the scalars. ``summing``: whether a block holds a sum
    over elements.
    """
    for is_edge in (False, True) if plan.has_edge_tiles else (False,):
        problem = partial(_problem, plan, scalars, images, rows, whole, summing, is_edge)
        kernel.launch((plan.number, rows, images[0].dtype, is_edge, *scalars), tensors, problem)


def _problem(
    plan: ResamplePlan,
    scalars: tuple,
    images: tuple[Tensor, ...],
    rows: int,
    whole: bool,
    summing: bool,
    is_edge: bool,
) -> Problem:
    channels, height, width = images[0].shape[-3:]
    chosen = configs(images[0], plan, edge=is_edge, whole=whole, summing=summing)
    planes = channels if whole else max(PLANES, chosen[0].constants["BLOCK_C"])
    constants = plan.constants | {
        "IS_EDGE": is_edge,
        "HAS_EDGE_TILES": plan.has_edge_tiles,
        "INDEX": index_type(max(map(reach, images))),
    }

    def grid(config: dict[str, int]) -> int:
        return rows if whole else rows * ceil_div(channels, planes) * count_tiles(config, height, width, is_edge)

    flags = tuple(str(value) for value in constants.values())
    representation = plan.permutation is not None, plan.mixing is not None
    side = power_of_two(max(height, width))
    tuning_key = images[0].dtype, *flags, *representation, chosen[0].constants["BLOCK_C"], side
    return Problem(grid, (*scalars, planes), constants, chosen, tuning_key)


def reach(t: Tensor) -> int:
    """The largest offset within one image."""
    return sum((n - 1) * s for n, s in zip(t.shape[-3:], t.stride()[-3:], strict=True))


def new_images(x: Tensor, shape: tuple[int, ...]) -> Tensor:
    """An uninitialized tensor of the dtype and memory format of x, whose last three dimensions are (C, H, W)."""
    if x.is_contiguous():  # suggest_memory_format would take microseconds to find that out
        return x.new_empty(shape)
    memory_format = suggest_memory_format(x if x.dim() == 4 else x[0])
    return torch.empty(shape, dtype=x.dtype, device=x.device, memory_format=memory_format)


def count_tiles(config: dict[str, int], height: int, width: int, is_edge: bool = False) -> int:
    """The number of tiles of one image, as `device.resample.tile_count` has it."""
    if is_edge:
        pixels = min(height, 2) * width + max(height - 2, 0) * min(width, 2)
        return ceil_div(pixels, config["BLOCK_I"] * config["BLOCK_J"])
    return ceil_div(height, config["BLOCK_I"]) * ceil_div(width, config["BLOCK_J"])


#: Rows and columns of tiles, the largest first.
SHAPES = [(32, 64), (32, 32), (16, 64), (16, 32), (16, 16), (8, 32), (8, 16), (4, 16), (8, 8), (4, 8)]


def configs(
    x: Tensor, plan: ResamplePlan, *, edge: bool = False, whole: bool = False, summing: bool = False
) -> list[Config]:
    """Tiles for one layout and plan, about eight values a thread.

    They are smaller where registers would not suffice: where each value gathers from nine pixels, is mixed of two, or
    is held besides a sum. A tile has several channels where those share positions, or lie together in memory. The
    limits were found with ptxas: larger ones spill (docs/kernels.md lists the registers of each).
    """
    channels, height, width = x.shape[-3:]
    together, interpolates = x.stride(-3) == 1 and channels > 1, plan.constants["INTERPOLATES"]
    pairs = plan.mixing is not None
    most = 8 if pairs else 128 // max(x.element_size(), 4)
    block_c = min(power_of_two(channels), most if together else 4 if interpolates else 1)
    nine = plan.constants["ADJOINT"] and interpolates
    few = nine or (interpolates and (summing or x.element_size() > 4))
    values = 512 if few else 1024 if interpolates or x.element_size() > 2 else 2048
    values //= 4 if pairs and nine else 2 if edge or whole or pairs else 1
    side = power_of_two(max(height, width, 8))
    fitting = [(i, j) for i, j in SHAPES if i * j * block_c <= values and j <= side] or SHAPES[-1:]
    # Left to itself, ptxas would spill a few registers to fit another block. Edge tiles are too few to fill a GPU.
    registers = 255 if edge else 168 if nine or (interpolates and (summing or whole)) else 128 if whole else None
    if interpolates and whole and x.element_size() == 2:
        registers = 200  # 168 spill up to 80 bytes (Triton 3.9, sm_100)
    return [Config({"BLOCK_I": i, "BLOCK_J": j, "BLOCK_C": block_c}, registers=registers) for i, j in fitting[:3]]
