"""ρ(g)·S x at a tile of pixels and channels, the one primitive of orbit, act, orbit_average and orbit_inner; and what
their hosts have in common.

Two kinds of tiles: (I, J) squares of pixels, of which quarter turns are read along the source's rows; and, for the
transposed interpolation with border padding only, runs of the pixels on the edge of an image (see `_adjoint`).
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import lru_cache, partial
from itertools import count
from typing import NamedTuple

import torch
import triton
import triton.language as tl
from torch import Tensor
from torch._prims_common import suggest_memory_format

from . import _tables
from ._adjoint import edge_count, edge_pixel, edge_readers, readers
from ._launch import Config, Kernel, Problem, accumulator, ceil_div, power_of_two
from ._sample import ROW, interpolated, inverse_code, permuted, permuted_tile


@triton.jit
def tile_pixels(tile, H, W, BLOCK_I: tl.constexpr, BLOCK_J: tl.constexpr, EDGE: tl.constexpr, WIDE: tl.constexpr):
    """Rows (I,) and columns (J,) of a tile; the same as (I, 1) and (1, J); which exist (I, J). Of an edge tile, rows
    and columns are (I, J) each."""
    if EDGE:
        q = tile * (BLOCK_I * BLOCK_J) + tl.arange(0, BLOCK_I)[:, None] * BLOCK_J + tl.arange(0, BLOCK_J)[None, :]
        row, column = edge_pixel(q, H, W)
        live = q < edge_count(H, W)
    else:
        across = tl.cdiv(W, BLOCK_J)
        row = tile // across * BLOCK_I + tl.arange(0, BLOCK_I)
        column = tile % across * BLOCK_J + tl.arange(0, BLOCK_J)
        live = (row < H)[:, None] & (column < W)[None, :]
    if WIDE:
        row, column = row.to(tl.int64), column.to(tl.int64)
    if EDGE:
        return row, column, row, column, live
    else:
        return row, column, row[:, None], column[None, :], live


@triton.jit
def tile_count(H, W, BLOCK_I: tl.constexpr, BLOCK_J: tl.constexpr, EDGE: tl.constexpr):
    if EDGE:
        return tl.cdiv(edge_count(H, W), BLOCK_I * BLOCK_J)
    else:
        return tl.cdiv(H, BLOCK_I) * tl.cdiv(W, BLOCK_J)


@triton.jit
def inner_pixels(live, i, j, H, W):
    """Without those on the edge, which edge tiles own."""
    return live & (i > 0) & (i < H - 1) & (j > 0) & (j < W - 1)


@triton.jit
def moved(
    image, row, pixels, c, live_c, H, W, sh, sw,
    MIXED: tl.constexpr, TURNS: tl.constexpr, BORDER: tl.constexpr, ADJOINT: tl.constexpr, EDGE: tl.constexpr,
    TYPE: tl.constexpr,
):  # fmt: skip
    """S x, or Sᵀ x if ADJOINT, in the accumulate type: (I, J, C) of channels at offsets c (C,).

    MIXED: whether any element of the table interpolates.
    """
    tile_i, tile_j, i, j, live = pixels
    everything = live[:, :, None] & live_c[None, None, :]
    code = tl.load(row).to(tl.int32)
    turn = inverse_code(code) if ADJOINT else code
    if EDGE:
        if code < 0:
            tile = edge_readers(image, row, i, j, c, everything, H, W, sh, sw, TYPE)
        else:
            tile = permuted(image, turn, i, j, c, everything, H, W, sh, sw).to(TYPE)
    elif MIXED:
        if code < 0:
            if ADJOINT:
                tile = readers(image, row, i, j, 0, 0, 0, c, everything, H, W, sh, sw, BORDER, TYPE)
            else:
                tile = interpolated(image, row, i, j, c, live_c, H, W, sh, sw, BORDER, TYPE)
        else:
            tile = permuted_tile(image, turn, tile_i, tile_j, c, live_c, H, W, sh, sw, TURNS).to(TYPE)
    else:
        tile = permuted_tile(image, turn, tile_i, tile_j, c, live_c, H, W, sh, sw, TURNS).to(TYPE)
    return tile


@triton.jit
def transformed(
    image, e, rows, permutation, mixing, E, pixels, c, live_c, H, W, sc, sh, sw,
    MIXED: tl.constexpr, TURNS: tl.constexpr, BORDER: tl.constexpr, ADJOINT: tl.constexpr, EDGE: tl.constexpr,
    TYPE: tl.constexpr,
):  # fmt: skip
    """ρ(g_e)·S_e of one image at a tile, channels c (C,): a permutation of channels, or a mixing of pairs."""
    row = rows + e * ROW
    if mixing is not None:
        entry = mixing + 4 * e + 2 * (c & 1)
        own = c - c % 2
        first = moved(image, row, pixels, own * sc, live_c, H, W, sh, sw, MIXED, TURNS, BORDER, ADJOINT, EDGE, TYPE)
        second = moved(
            image, row, pixels, (own + 1) * sc, live_c, H, W, sh, sw, MIXED, TURNS, BORDER, ADJOINT, EDGE, TYPE
        )
        one, other = tl.load(entry).to(TYPE), tl.load(entry + 1).to(TYPE)
        tile = one[None, None, :] * first + other[None, None, :] * second
    else:
        if permutation is not None:
            c = c - c % E + tl.load(permutation + e * E + c % E)
        tile = moved(image, row, pixels, c * sc, live_c, H, W, sh, sw, MIXED, TURNS, BORDER, ADJOINT, EDGE, TYPE)
    return tile


#: Planes that a block takes, so that positions are worked out once for them.
PLANES = 4


class Action(NamedTuple):
    """A group acting on images of one shape, as the kernels take it."""

    order: int
    rows: Tensor
    permutation: Tensor | None
    mixing: Tensor | None
    constants: dict
    key: int  # of this action among all
    edge: bool  # whether the edge of an image needs tiles of its own


def action(x: Tensor, table, permutation, mixing, padding_mode: str, adjoint: bool = False) -> Action:
    """For images x (…, H, W)."""
    square = x.shape[-1] == x.shape[-2]
    channels = tuple(permutation), tuple(mixing)
    return _action(tuple(table), *channels, padding_mode, adjoint, square, x.dtype, x.device)


_counter = count()


@lru_cache(maxsize=256)
def _action(table, permutation, mixing, padding_mode, adjoint, square, dtype, device) -> Action:
    constants = {
        "MIXED": bool(_tables.bases(table, square)),
        "TURNS": any(a.exact and a.code % 2 for a in _tables.actions(table, square)),
        "BORDER": padding_mode == "border",
        "ADJOINT": adjoint,
        "TYPE": accumulator(dtype),
    }
    return Action(
        len(_tables.actions(table, square)),
        _tables.device_rows(table, square, device),
        _tables.device_integers(permutation, device) if permutation else None,
        _tables.device_reals(mixing, device) if mixing else None,
        constants,
        next(_counter),
        edge=constants["MIXED"] and adjoint and padding_mode == "border",
    )


def launch(
    kernel: Kernel,
    act: Action,
    tensors: Sequence[Tensor | None],
    scalars: tuple[int, ...],
    *,
    images: tuple[Tensor, ...],
    rows: int,
    whole: bool = False,
    summing: bool = False,
) -> None:
    """One block for each of ``rows``, and unless they are ``whole`` for each few planes and each tile of pixels.

    ``images``: all that have (C, H, W) last, the one read first; their sizes and strides are among the scalars. Where
    the edge has tiles of its own, twice. ``summing``: whether a block holds a sum over elements.
    """
    for edge in (False, True) if act.edge else (False,):
        problem = partial(_problem, act, scalars, images, rows, whole, summing, edge)
        kernel.launch((act.key, rows, images[0].dtype, edge, *scalars), tensors, problem)


def _problem(
    act: Action, scalars: tuple, images: tuple[Tensor, ...], rows: int, whole: bool, summing: bool, edge: bool
) -> Problem:
    channels, height, width = images[0].shape[-3:]
    chosen = configs(images[0], act, edge=edge, whole=whole, summing=summing)
    planes = channels if whole else max(PLANES, chosen[0].constants["BLOCK_C"])
    constants = act.constants | {"EDGE": edge, "SPLIT": act.edge, "WIDE": any(map(spans_wide, images))}

    def grid(config: dict[str, int]) -> int:
        return rows if whole else rows * ceil_div(channels, planes) * tiles(config, height, width, edge)

    flags = tuple(str(value) for value in constants.values())
    representation = act.permutation is not None, act.mixing is not None
    similar = images[0].dtype, *flags, *representation, chosen[0].constants["BLOCK_C"], power_of_two(max(height, width))
    return Problem(grid, (*scalars, planes), constants, chosen, similar)


def spans_wide(t: Tensor) -> bool:
    """Whether an offset within one image may need 64 bits."""
    return sum((n - 1) * s for n, s in zip(t.shape[-3:], t.stride()[-3:], strict=True)) >= 1 << 31


def new_images(x: Tensor, shape: tuple[int, ...]) -> Tensor:
    """Of the type and memory format of x, whose last three dimensions are (C, H, W)."""
    if x.is_contiguous():  # which suggest_memory_format takes microseconds to find out
        return x.new_empty(shape)
    memory_format = suggest_memory_format(x if x.dim() == 4 else x[0])
    return torch.empty(shape, dtype=x.dtype, device=x.device, memory_format=memory_format)


def tiles(config: dict[str, int], height: int, width: int, edge: bool = False) -> int:
    """Blocks of pixels of one image."""
    if edge:
        count = min(height, 2) * width + max(height - 2, 0) * min(width, 2)
        return ceil_div(count, config["BLOCK_I"] * config["BLOCK_J"])
    return ceil_div(height, config["BLOCK_I"]) * ceil_div(width, config["BLOCK_J"])


def configs(x: Tensor, act: Action, *, edge: bool = False, whole: bool = False, summing: bool = False) -> list[Config]:
    """Tiles for one layout and action, of about eight values a thread; of fewer where each gathers from nine pixels, is
    mixed of two or held besides a sum, for lack of registers.

    Several planes at once where positions are shared by them, or where channels lie together in memory.
    """
    channels, height, width = x.shape[-3:]
    together, mixed = x.stride(-3) == 1 and channels > 1, act.constants["MIXED"]
    pairs = act.mixing is not None
    most = 8 if pairs else 128 // max(x.element_size(), 4)
    block_c = min(power_of_two(channels), most if together else 4 if mixed else 1)
    nine = act.constants["ADJOINT"] and mixed
    few = nine or (mixed and (summing or x.element_size() > 4))
    values = 512 if few else 1024 if mixed or x.element_size() > 2 else 2048
    values //= 4 if pairs and nine else 2 if edge or whole or pairs else 1
    shapes = [(32, 64), (32, 32), (16, 64), (16, 32), (16, 16), (8, 32), (8, 16), (4, 16), (8, 8), (4, 8)]
    side = power_of_two(max(height, width, 8))
    fitting = [(i, j) for i, j in shapes if i * j * block_c <= values and j <= side] or shapes[-1:]
    # Left to itself, ptxas would spill a few of these to fit another block.
    registers = 255 if pairs and edge else 168 if nine or (summing and mixed) else 128 if whole else None
    return [Config({"BLOCK_I": i, "BLOCK_J": j, "BLOCK_C": block_c}, registers=registers) for i, j in fitting[:3]]
