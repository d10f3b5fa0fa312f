"""The action table that kernels read in place of a group, and the 2×2 matrices in it.

A table is a flat list of floats. Its row e is ``(code, b00, b01, b10, b11)``: the exact permutation ``Q`` of element e
as a code, and a base matrix ``B``, which is a rotation if the table is that of a group. The output of the element at
position p is the source at ``B·Q·p``.
`csrc/geometry.h` is the same for C++.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from fractions import Fraction

#: A 2×2 matrix in row-major order, on image coordinates (x right, y down) about the centre of the image.
Matrix = tuple[float, float, float, float]

IDENTITY: Matrix = (1.0, 0.0, 0.0, 1.0)

#: Floats in a row of an action table: the exact-permutation code, then a 2×2 matrix.
ROW = 5

#: Sample offsets are rounded to this many steps a pixel: then 1 − fraction is exact in float32, sums of offsets are
#: exact in float64, and interpolation commutes bit for bit with the exact elements.
STEPS = 2.0**24


#: By how much a map may stretch lengths, at least and at most. Kernels count positions in 32 bits, and each pixel may
#: have up to 256 readers.
LEAST_STRETCH, MOST_STRETCH = 1 / 8, 8.0

#: How far a number of a rotation may be from what it stands for.
ROUNDING = 1e-12


def order_of(table: Sequence[float]) -> int:
    """The number of elements E of an action table."""
    return len(table) // ROW


def rows(table: Sequence[float]) -> list[tuple[int, Matrix]]:
    """The rows of a flat action table as ``(code, base)`` pairs."""
    parts = (table[i : i + ROW] for i in range(0, len(table), ROW))
    return [(int(code), (b00, b01, b10, b11)) for code, b00, b01, b10, b11 in parts]


def factor(code: int, base: Matrix, *, square: bool) -> tuple[int, Matrix]:
    """The same action, with a code that maps the pixel grid onto itself.

    Square images permit every code. Other images permit only half turns and flips, so a quarter turn moves into the
    base.
    """
    if square or code % 2 == 0:
        return code, base
    return code - 1, multiply(base, quarter_turn(1))


def quarter_turn(code: int) -> Matrix:
    """``R(90°)^q · F^r`` for ``code = q + 4r``, exactly."""
    q, r = code % 4, code // 4
    c, s = ((1.0, 0.0), (0.0, 1.0), (-1.0, 0.0), (0.0, -1.0))[q]
    return (-c if r else c, s, s if r else -s, c)


def matrices_of(table: Sequence[float]) -> list[Matrix]:
    """The whole matrix ``B·Q`` of every row: what a member does to the positions of its output.

    Row e of ``action_table(inverse=True)`` has the matrix of e itself, row e of the other table that of its inverse.
    """
    return [multiply(base, quarter_turn(code)) for code, base in rows(table)]


def multiply(a: Matrix, b: Matrix) -> Matrix:
    """The product of two matrices. It is exact if one of them is a signed permutation."""
    return (
        a[0] * b[0] + a[1] * b[2],
        a[0] * b[1] + a[1] * b[3],
        a[2] * b[0] + a[3] * b[2],
        a[2] * b[1] + a[3] * b[3],
    )


def row_of(m: Matrix) -> tuple[float, ...]:
    """The row of an action table that reads at m·p.

    Of the eight ways to write m as ``B·Q``, it is that with ``det B > 0``, ``b00 > 0`` and ``b01 ≥ 0``.
    """
    reflection = 4 if m[0] * m[3] < m[1] * m[2] else 0
    for code in range(reflection, reflection + 4):
        xx, xy, yx, yy = quarter_turn(code)
        base = multiply(m, (xx, yx, xy, yy))  # times the inverse of the permutation
        if base[0] > 0 and base[1] >= 0:
            return (float(code), *(v + 0.0 for v in base))  # + 0.0, since −0.0 is no zero of a table
    raise AssertionError(f"one of four turns has its first row in the first quadrant: {m}")


def inverse_of(m: Matrix) -> Matrix:
    """m⁻¹, correctly rounded. That of a rotation or a reflection has the same numbers, transposed."""
    a, b, c, d = m
    if (a, b) in ((d, -c), (-d, c)) and abs(a * a + b * b - 1) < ROUNDING:
        return a, c, b, d
    p, q, r, s = map(Fraction, m)
    determinant = p * s - q * r
    return float(s / determinant), float(-q / determinant), float(-r / determinant), float(p / determinant)


def stretch(m: Matrix) -> tuple[float, float]:
    """By how much a map stretches lengths, at least and at most: its singular values."""
    a, b, c, d = m
    # A 2×2 matrix is a rotation times one number, and a reflection times another.
    rotation, reflection = math.hypot(a + d, b - c) / 2, math.hypot(a - d, b + c) / 2
    return abs(rotation - reflection), rotation + reflection
