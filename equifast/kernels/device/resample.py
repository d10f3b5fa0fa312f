"""ρ(g)·S x at a tile of pixels and channels: the one primitive of orbit, act, orbit_average and orbit_inner.

There are two kinds of tiles. Most are (I, J) rectangles of pixels; where an element turns by a quarter, they are read
along the rows of the source. The transposed interpolation with border padding also has edge tiles: runs of the pixels
on the edge of an image (see `adjoint`). It launches once for each kind.
"""

from __future__ import annotations

import triton
import triton.language as tl

from .adjoint import any_readers, edge_count, edge_pixel, edge_readers, readers
from .sample import ROW, interpolated, inverse_code, permuted, permuted_tile


@triton.jit
def tile_pixels(tile, H, W, BLOCK_I: tl.constexpr, BLOCK_J: tl.constexpr, IS_EDGE: tl.constexpr, INDEX: tl.constexpr):
    """The pixels of a tile: (rows [I], columns [J], rows [I, 1], columns [1, J], whether each is in bounds [I, J]).

    For an edge tile, rows and columns are [I, J] each.
    """
    if IS_EDGE:
        q = tile * (BLOCK_I * BLOCK_J) + tl.arange(0, BLOCK_I)[:, None] * BLOCK_J + tl.arange(0, BLOCK_J)[None, :]
        row, column = edge_pixel(q, H, W)
        in_bounds = q < edge_count(H, W)
    else:
        across = tl.cdiv(W, BLOCK_J)
        row = tile // across * BLOCK_I + tl.arange(0, BLOCK_I)
        column = tile % across * BLOCK_J + tl.arange(0, BLOCK_J)
        in_bounds = (row < H)[:, None] & (column < W)[None, :]
    row, column = row.to(INDEX), column.to(INDEX)
    if IS_EDGE:
        return row, column, row, column, in_bounds
    else:
        return row, column, row[:, None], column[None, :], in_bounds


@triton.jit
def tile_count(H, W, BLOCK_I: tl.constexpr, BLOCK_J: tl.constexpr, IS_EDGE: tl.constexpr):
    """The number of tiles of one image."""
    if IS_EDGE:
        return tl.cdiv(edge_count(H, W), BLOCK_I * BLOCK_J)
    else:
        return tl.cdiv(H, BLOCK_I) * tl.cdiv(W, BLOCK_J)


@triton.jit
def stored_pixels(in_bounds, i, j, H, W, HAS_EDGE_TILES: tl.constexpr, IS_EDGE: tl.constexpr):
    """Which pixels of a tile it stores, [I, J]: those in bounds, but for pixels on the edge that edge tiles own."""
    if HAS_EDGE_TILES and not IS_EDGE:
        in_bounds = in_bounds & (i > 0) & (i < H - 1) & (j > 0) & (j < W - 1)
    return in_bounds


@triton.jit
def resampled(
    image, row, pixels, c, c_in_bounds, H, W, sh, sw,
    INTERPOLATES: tl.constexpr, TURNS: tl.constexpr, BORDER: tl.constexpr, ADJOINT: tl.constexpr,
    IS_EDGE: tl.constexpr, TYPE: tl.constexpr,
):  # fmt: skip
    """S x, or Sᵀ x if ADJOINT, in TYPE: [I, J, C].

    ADJOINT: 0; or 1 if every element that interpolates is a rotation or a reflection, as in a group; or else 2.

    row: of the table. pixels: as `tile_pixels` returns them. c [C]: the channels' offsets in memory. INTERPOLATES:
    whether any element of the table does.
    """
    tile_i, tile_j, i, j, in_bounds = pixels
    all_in_bounds = in_bounds[:, :, None] & c_in_bounds[None, None, :]  # [I, J, C]
    code = tl.load(row).to(tl.int32)
    turn = inverse_code(code) if ADJOINT else code
    if IS_EDGE:
        if code < 0:
            if ADJOINT == 2:
                tile = any_readers(image, row, i, j, c, all_in_bounds, H, W, sh, sw, BORDER, IS_EDGE, TYPE)
            else:
                tile = edge_readers(image, row, i, j, c, all_in_bounds, H, W, sh, sw, TYPE)
        else:
            tile = permuted(image, turn, i, j, c, all_in_bounds, H, W, sh, sw).to(TYPE)
    elif INTERPOLATES:
        if code < 0:
            if ADJOINT == 2:
                tile = any_readers(image, row, i, j, c, all_in_bounds, H, W, sh, sw, BORDER, IS_EDGE, TYPE)
            elif ADJOINT:
                tile = readers(image, row, i, j, 0, 0, 0, c, all_in_bounds, H, W, sh, sw, BORDER, TYPE)
            else:
                tile = interpolated(image, row, i, j, c, c_in_bounds, H, W, sh, sw, BORDER, TYPE)
        else:
            tile = permuted_tile(image, turn, tile_i, tile_j, c, c_in_bounds, H, W, sh, sw, TURNS).to(TYPE)
    else:
        tile = permuted_tile(image, turn, tile_i, tile_j, c, c_in_bounds, H, W, sh, sw, TURNS).to(TYPE)
    return tile


@triton.jit
def transformed(
    image, e, rows, permutation, mixing, E, pixels, c, c_in_bounds, H, W, sc, sh, sw,
    INTERPOLATES: tl.constexpr, TURNS: tl.constexpr, BORDER: tl.constexpr, ADJOINT: tl.constexpr,
    IS_EDGE: tl.constexpr, TYPE: tl.constexpr,
):  # fmt: skip
    """ρ(g_e)·S_e x, or ρ(g_e)·S_eᵀ x if ADJOINT, of one image: [I, J, C].

    ρ is a permutation of channels if ``permutation`` is given, a mixing of pairs of channels if ``mixing`` is given.
    c [C]: the channels.
    """
    row = rows + e * ROW
    if mixing is not None:
        entry = mixing + 4 * e + 2 * (c & 1)
        even = c - c % 2
        first = resampled(
            image, row, pixels, even * sc, c_in_bounds, H, W, sh, sw,
            INTERPOLATES, TURNS, BORDER, ADJOINT, IS_EDGE, TYPE,
        )  # fmt: skip
        second = resampled(
            image, row, pixels, (even + 1) * sc, c_in_bounds, H, W, sh, sw,
            INTERPOLATES, TURNS, BORDER, ADJOINT, IS_EDGE, TYPE,
        )  # fmt: skip
        of_first, of_second = tl.load(entry).to(TYPE), tl.load(entry + 1).to(TYPE)  # [C]
        tile = of_first[None, None, :] * first + of_second[None, None, :] * second
    else:
        if permutation is not None:
            c = c - c % E + tl.load(permutation + e * E + c % E)
        tile = resampled(
            image, row, pixels, c * sc, c_in_bounds, H, W, sh, sw,
            INTERPOLATES, TURNS, BORDER, ADJOINT, IS_EDGE, TYPE,
        )  # fmt: skip
    return tile
