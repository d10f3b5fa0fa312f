"""What kernels know of a group: its action table, factored for one shape of images, on the host and on the device."""

from __future__ import annotations

from functools import lru_cache
from typing import NamedTuple

import torch
from torch import Tensor

from ...geometry import (
    IDENTITY,
    LEAST_STRETCH,
    MOST_STRETCH,
    ROW,
    Matrix,
    factor,
    multiply,
    quarter_turn,
    rows,
    stretch,
)

#: Matrices this near to a rotation are taken for one. At the edge of a large image, that is less than 1/100 of a pixel.
ROUNDING = 1e-6


class Action(NamedTuple):
    """One row of a table: the output at p is the source at ``base · quarter_turn(code) · p``."""

    code: int
    base: Matrix

    @property
    def is_exact(self) -> bool:
        """Whether it permutes the pixels of images of the shape that it was factored for."""
        return self.base == IDENTITY

    @property
    def matrix(self) -> Matrix:
        return multiply(self.base, quarter_turn(self.code))


@lru_cache(maxsize=256)
def actions(table: tuple[float, ...], square: bool) -> tuple[Action, ...]:
    """The rows of a table (`groups.Group.action_table`), factored for square images or for others."""
    for e, (_, base) in enumerate(rows(table)):
        least, most = stretch(base)
        if not (least >= LEAST_STRETCH - ROUNDING and most <= MOST_STRETCH + ROUNDING):  # not if NaN
            raise ValueError(
                f"table: expected matrices that stretch by 1/8 to 8, such as rotations, row {e} has another"
            )
    return tuple(Action(*factor(*row, square=square)) for row in rows(table))


@lru_cache(maxsize=256)
def bases(table: tuple[float, ...], square: bool) -> tuple[Matrix, ...]:
    """The distinct bases that interpolate, in order of appearance."""
    return tuple(dict.fromkeys(a.base for a in actions(table, square) if not a.is_exact))


@lru_cache(maxsize=256)
def rotates(table: tuple[float, ...], square: bool) -> bool:
    """Whether every base is a rotation, but for rounding. Then each pixel has few readers."""

    def is_rotation(m: Matrix) -> bool:
        a, b, c, d = m
        return max(abs(a - d), abs(b + c), abs(a * a + b * b - 1)) < ROUNDING

    return all(map(is_rotation, bases(table, square)))


@lru_cache(maxsize=256)
def device_rows(table: tuple[float, ...], square: bool, device: torch.device) -> Tensor:
    """(E, ROW) float64: the code and the identity of an exact element; −1 and the whole matrix of any other."""
    listed = [(a.code, *IDENTITY) if a.is_exact else (-1, *a.matrix) for a in actions(table, square)]
    return torch.tensor(listed, dtype=torch.float64, device=device).reshape(-1, ROW)


@lru_cache(maxsize=256)
def device_integers(values: tuple[int, ...], device: torch.device) -> Tensor:
    """The values as int32 on the device, such as a permutation of channels."""
    return torch.tensor(values, dtype=torch.int32, device=device)


@lru_cache(maxsize=256)
def device_reals(values: tuple[float, ...], device: torch.device) -> Tensor:
    """The values as float64 on the device, such as a mixing of channels."""
    return torch.tensor(values, dtype=torch.float64, device=device)
