"""Finite lists of linear maps of the image plane: any candidates, where a group would have its elements.

Kernels read an action table and never learn whether its rows make up a group. So a `TransformSet` gives every map its
row, and stands where a group stands in everything that doesn't compose elements.
"""

from __future__ import annotations

import json
import math
from collections.abc import Iterable, Iterator, Sequence
from fractions import Fraction
from itertools import combinations, product
from typing import Any

from .geometry import (
    IDENTITY,
    LEAST_STRETCH,
    MOST_STRETCH,
    Matrix,
    factor,
    inverse_of,
    matrices_of,
    multiply,
    quarter_turn,
    row_of,
    rows,
    stretch,
)
from .groups import Group, as_group, cosine, remembered

#: An angle this near to k/n of a right angle, in right angles, is taken for it if n is at most the second number. So
#: 360/7 is a step of C7, to the last bit.
NEAR, LARGEST_DENOMINATOR = 1e-14, 4096

#: Two maps whose entries differ by no more than this are one map: it moves no pixel by a step of 2⁻²⁴ of its size.
SAME = 1e-12


class TransformSet:
    """A finite list of invertible linear maps about the centre of an image, taken wherever a group is taken.

    Its maps are ``R(angle) · F^flip · diag(scale) · matrix`` for every matrix, scale, flip and angle: the rightmost
    acts on an image first, and angles vary fastest, so ids run over angles, then flips, scales and matrices. Id 0 is
    always the identity, as samples without a usable score fall back to it: it moves to the front, and is put there if
    the arguments don't list it. With ids ``e`` and ``T_e = matrix(e)``, the member e of an orbit is ``T_e⁻¹·x``, which
    reads x at ``T_e·p``; an object that T_e has enlarged is shrunk in it.

    A set that lists the elements of C_n or D_n in their order is that group, in every respect: ``as_group`` returns it.
    In any other, quarter turns and flips are still exact permutations, and maps that differ by a permutation alone
    share one interpolated image. What composes elements refuses a set: the representation "regular", the estimator
    "angle", group convolutions, ``gate_curve``.

    Args:
        angles: in degrees, counter-clockwise as displayed.
        flips: whether each map is listed a second time, after a left-right flip.
        scales: numbers, or pairs (x, y), by which images are stretched along their axes. Negative ones mirror.
        matrices: 2 × 2, on image coordinates (x right, y down): nested sequences or a tensor (N, 2, 2).

    Raises:
        ValueError: naming the argument, for a number that is not finite, a map that can't be inverted, a map that
            stretches some length by less than 1/8 or more than 8, or a map that is listed twice. TypeError: for what
            is no number.
    """

    #: All maps as JSON. It is the whole state, and a string, so that compilers, pytrees and files take it as a name.
    name: str

    def __init__(
        self,
        *,
        angles: Iterable[float] = (0.0,),
        flips: bool = False,
        scales: Iterable[float | Sequence[float]] = (1.0,),
        matrices: Iterable[Sequence[Sequence[float]]] = (((1.0, 0.0), (0.0, 1.0)),),
    ) -> None:
        if not isinstance(flips, bool):
            raise TypeError(f"flips: expected a bool, got {type(flips).__name__}")
        turns = [_quarter_turns(_number("angles", angle)) for angle in _listed("angles", angles)]
        stretches = [_pair("scales", scale) for scale in _listed("scales", scales)]
        linear = [_matrix(f"matrices[{i}]", matrix) for i, matrix in enumerate(_listed("matrices", matrices))]
        maps = list(_products(turns, flips, stretches, linear))
        _check(maps)
        maps = [IDENTITY, *(m for m in maps if m != IDENTITY)]
        self.name = json.dumps(maps)

    def __eq__(self, other: object) -> bool:
        return isinstance(other, TransformSet) and self.name == other.name

    def __hash__(self) -> int:
        return hash(self.name)

    def __str__(self) -> str:
        return f"TransformSet of {self.order} maps"

    def __repr__(self) -> str:
        return f"TransformSet(matrices={[[m[:2], m[2:]] for m in _maps(self.name)]})"

    @property
    def order(self) -> int:
        """Number of maps, E in the shapes of this package."""
        return len(_maps(self.name))

    def matrix(self, e: int) -> Matrix:
        """Map e as a row-major 2×2 matrix on image coordinates (x right, y down) about the centre."""
        return _maps(self.name)[e]

    def is_exact(self, e: int, height: int, width: int) -> bool:
        """Whether map e permutes a pixel grid of that size: multiples of 90° on squares, of 180° on any, flips."""
        row = rows(self.action_table(inverse=True))[e]
        return factor(*row, square=height == width)[1] == IDENTITY

    def permutes(self, height: int, width: int) -> bool:
        """Whether every map permutes a pixel grid of that size, so that nothing is ever interpolated."""
        return all(self.is_exact(e, height, width) for e in range(self.order))

    def action_table(self, *, inverse: bool) -> tuple[float, ...]:
        """What kernels know of the set, as `Group.action_table`: here the base B of a row is any matrix.

        Of the eight ways to write a matrix as ``B·Q``, a row has that with ``det B > 0``, ``b00 > 0`` and ``b01 ≥ 0``.
        """
        return _action_table(self.name, inverse)

    def as_group(self) -> Group:
        """The group whose elements these are, in their order.

        Raises:
            ValueError: if they are those of none.
        """
        name = _group_name(self.name)
        if not name:
            raise ValueError(
                f"group: expected a group such as 'C4', since elements are composed here; got a {self}, which are not "
                "those of a C_n or D_n in order"
            )
        return as_group(name)


#: What an operation takes that composes no elements.
Transforms = Group | TransformSet


def as_transforms(group: Transforms | str) -> Transforms:
    """A `Group` or a `TransformSet` from itself or from its ``name``. A set that lists a group's elements is the group.

    Raises:
        ValueError, TypeError: as `as_group`.
    """
    if isinstance(group, str) and group.startswith("["):
        # Not by the constructor, which torch.compile would trace.
        listed = TransformSet.__new__(TransformSet)
        listed.name = _checked(group)
        group = listed
    if isinstance(group, TransformSet):
        name = _group_name(group.name)
        return as_group(name) if name else group
    return as_group(group)


@remembered
def _checked(name: str) -> str:
    """The name of the set of which this is the name, or an error."""
    try:
        maps = [(m[:2], m[2:]) for m in json.loads(name)]
    except (ValueError, TypeError):
        raise ValueError(f"group: expected the name of a TransformSet, got {name!r}") from None
    return TransformSet(matrices=maps).name


@remembered
def _maps(name: str) -> tuple[Matrix, ...]:
    return tuple((m[0], m[1], m[2], m[3]) for m in json.loads(name))


@remembered
def _group_name(name: str) -> str:
    """The name of the group that has these maps in this order, or nothing."""
    order = len(_maps(name))
    groups = [Group(order)] + ([Group(order // 2, True)] if order % 2 == 0 else [])
    return next((g.name for g in groups if tuple(matrices_of(g.action_table(inverse=True))) == _maps(name)), "")


@remembered
def _action_table(name: str, inverse: bool) -> tuple[float, ...]:
    # Member e is T⁻¹·x, which reads x at T·p.
    return tuple(v for m in _maps(name) for v in row_of(m if inverse else inverse_of(m)))


def _products(
    turns: list[Fraction], flips: bool, scales: list[tuple[float, float]], matrices: list[Matrix]
) -> Iterator[Matrix]:
    for (a, b, c, d), (x, y), flip, turn in product(matrices, scales, range(1 + flips), turns):
        quarters = math.floor(turn)
        k, n = (turn - quarters).as_integer_ratio()
        base = (cosine(k, n), cosine(n - k, n), -cosine(n - k, n), cosine(k, n))
        turned = multiply(base, quarter_turn(quarters % 4 + 4 * flip))
        xx, xy, yx, yy = multiply(turned, (x * a, x * b, y * c, y * d))
        yield xx + 0.0, xy + 0.0, yx + 0.0, yy + 0.0


def _quarter_turns(angle: float) -> Fraction:
    """The angle in right angles; exactly k/n of one where it is that up to rounding."""
    turns = Fraction(angle) / 90
    near = turns.limit_denominator(LARGEST_DENOMINATOR)
    return near if abs(near - turns) <= NEAR * max(Fraction(1), abs(turns)) else turns


def _check(maps: list[Matrix]) -> None:
    for m in maps:
        least, most = stretch(m)
        if least <= SAME * most:
            raise ValueError(f"TransformSet: expected maps that can be inverted, got {_shown(m)}")
        if not (least >= LEAST_STRETCH - SAME and most <= MOST_STRETCH + SAME):
            raise ValueError(
                f"TransformSet: expected maps that stretch lengths by 1/8 to 8, got {_shown(m)}, which stretches them "
                f"by {least:.6g} to {most:.6g}"
            )
    for (i, m), (k, other) in combinations(enumerate(maps), 2):
        if all(abs(a - b) <= SAME for a, b in zip(m, other, strict=True)):
            raise ValueError(f"TransformSet: expected each map once, but numbers {i} and {k} are both {_shown(m)}")


def _shown(m: Matrix) -> str:
    a, b, c, d = m
    return f"[[{a:.6g}, {b:.6g}], [{c:.6g}, {d:.6g}]]"


def _listed(name: str, values: Any) -> list[Any]:
    try:
        listed = values.tolist() if hasattr(values, "tolist") else list(values)
    except TypeError:
        raise TypeError(f"{name}: expected a list, got {values!r}") from None
    if not isinstance(listed, list) or not listed:
        raise ValueError(f"{name}: expected at least one, got {values!r}")
    return listed


def _number(name: str, value: Any) -> float:
    if isinstance(value, (bool, str)):
        raise TypeError(f"{name}: expected numbers, got {value!r}")
    try:
        number = float(value)
    except (TypeError, ValueError):
        raise TypeError(f"{name}: expected numbers, got {value!r}") from None
    if not math.isfinite(number):
        raise ValueError(f"{name}: expected finite numbers, got {value!r}")
    return number


def _pair(name: str, scale: Any) -> tuple[float, float]:
    if not hasattr(scale, "__len__"):
        number = _number(name, scale)
        return number, number
    if len(scale) != 2:
        raise ValueError(f"{name}: expected numbers or pairs (x, y), got {scale!r}")
    return _number(name, scale[0]), _number(name, scale[1])


def _matrix(name: str, matrix: Any) -> Matrix:
    listed = matrix.tolist() if hasattr(matrix, "tolist") else matrix
    try:
        (a, b), (c, d) = listed
    except (TypeError, ValueError):
        raise ValueError(f"{name}: expected 2 × 2 numbers, got {matrix!r}") from None
    return _number(name, a), _number(name, b), _number(name, c), _number(name, d)
