"""Finite groups of planar rotations and reflections, and the action tables that kernels read.

An element is an integer id ``e = r·n + j`` standing for ``g_e = R(2πj/n) · F^r``: a left-right flip ``F`` if r is 1,
then a counter-clockwise rotation (as displayed). Ids are integers everywhere; a float angle never names an element.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from functools import lru_cache, wraps
from operator import index
from typing import TYPE_CHECKING, Protocol, TypeVar

from .compiler import assume_constant_result
from .geometry import ROW, Matrix, multiply, quarter_turn

if TYPE_CHECKING:
    from typing_extensions import TypeVarTuple, Unpack

    Arguments = TypeVarTuple("Arguments")

Result = TypeVar("Result")


def remembered(function: Callable[[Unpack[Arguments]], Result]) -> Callable[[Unpack[Arguments]], Result]:
    """Cache a function of numbers and strings. torch.compile calls it while tracing, and takes the result as it is.

    Arguments are passed by position. Keywords would take 60 ns more a call.
    """
    cached = lru_cache(maxsize=256)(function)

    @wraps(function)
    def call(*args: Unpack[Arguments]) -> Result:
        return cached(*args)

    return assume_constant_result(call)


# Not frozen, since Lightning refuses frozen dataclasses in what a model returns. Nothing changes a group.
@dataclass(eq=False)
class Group:
    """C_n (``reflections=False``) or D_n (``reflections=True``); ids run over ``range(order)``, 0 is the identity."""

    n: int
    reflections: bool = False

    def __post_init__(self) -> None:
        if isinstance(self.n, bool) or not isinstance(self.n, int):
            raise TypeError(f"n: expected an int, got {type(self.n).__name__}")
        if self.n < 1:
            raise ValueError(f"n: expected at least 1 rotation, got {self.n}")

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Group) and (self.n, self.reflections) == (other.n, other.reflections)

    def __hash__(self) -> int:
        return hash((self.n, self.reflections))

    @property
    def order(self) -> int:
        """Number of elements, E in the shapes of this package."""
        # For torch.compile, n may be a symbol; its index is a number.
        return (2 if self.reflections else 1) * index(self.n)

    @property
    def name(self) -> str:
        return f"{'D' if self.reflections else 'C'}{self.n}"

    def __str__(self) -> str:
        return self.name

    def element(self, rotation: int, reflection: int = 0) -> int:
        """Id of ``R(2π·rotation/n) · F^reflection``; ``rotation`` is taken modulo n."""
        if reflection not in (0, 1) or (reflection and not self.reflections):
            raise ValueError(f"reflection: {self.name} has none numbered {reflection}")
        return reflection * self.n + rotation % self.n

    def split(self, element: int) -> tuple[int, int]:
        """The pair ``(j, r)`` of an id."""
        if not 0 <= element < self.order:
            raise ValueError(f"element: expected an id in [0, {self.order}) for {self.name}, got {element}")
        return element % self.n, element // self.n

    def compose(self, g: int, h: int) -> int:
        """Id of g·h (h acts first): ``R^a F^r · R^b F^s = R^(a + (−1)^r b) F^(r+s)``."""
        (a, r), (b, s) = self.split(g), self.split(h)
        return self.element(a - b if r else a + b, (r + s) % 2)

    def inverse(self, g: int) -> int:
        """Id of g⁻¹; every reflection is its own."""
        j, r = self.split(g)
        return g if r else self.element(-j)

    def is_exact(self, g: int, height: int, width: int) -> bool:
        """Whether g maps a pixel grid of that size onto itself: multiples of 90° on squares, of 180° on any, flips."""
        quarters, remainder = divmod(4 * self.split(g)[0], self.n)
        return remainder == 0 and (height == width or quarters % 2 == 0)

    def permutes(self, height: int, width: int) -> bool:
        """Whether every element maps a grid of that size onto itself, so that nothing is ever interpolated."""
        return all(self.is_exact(g, height, width) for g in range(self.order))

    def matrix(self, g: int) -> Matrix:
        """g as a row-major 2×2 matrix on image coordinates (x right, y down) about the centre."""
        code, b00, b01, b10, b11 = self.action_table(inverse=True)[ROW * g : ROW * (g + 1)]
        return multiply((b00, b01, b10, b11), quarter_turn(int(code)))

    def action_table(self, *, inverse: bool) -> tuple[float, ...]:
        """What kernels know of the group: ``order`` rows of ``(code, b00, b01, b10, b11)``.

        Row e makes ``g_e⁻¹·x`` if ``inverse``, else ``g_e·x``, by reading the source at ``B·Q`` times the output
        position: ``Q`` is the exact permutation ``code = q + 4r`` (q quarter turns after r flips), ``B`` a rotation by
        less than a quarter turn, the identity for the elements that map a square pixel grid onto itself.
        """
        return _action_table(index(self.n), self.reflections, inverse)


# torch.compile makes groups anew from their fields, so the constructors below take all of them.


class CyclicGroup(Group):
    """C_n: the rotations by multiples of 360°/n."""

    def __init__(self, n: int, reflections: bool = False) -> None:
        if reflections:
            raise ValueError("reflections: expected False for a cyclic group, got True")
        super().__init__(n, False)


class DihedralGroup(Group):
    """D_n: the rotations by multiples of 360°/n, and each of them after a left-right flip."""

    def __init__(self, n: int, reflections: bool = True) -> None:
        if not reflections:
            raise ValueError("reflections: expected True for a dihedral group, got False")
        super().__init__(n, True)


class ListsElements(Protocol):
    """A list of transforms that may be the elements of a group, such as `TransformSet`."""

    def as_group(self) -> Group: ...


def as_group(group: Group | ListsElements | str) -> Group:
    """A ``Group`` from itself or from its name, such as ``"C4"`` or ``"D8"``.

    A `TransformSet` that lists the elements of a group in order gives that group, any other one an error.
    """
    if isinstance(group, Group):
        return group
    if not isinstance(group, str):
        if (of_set := getattr(group, "as_group", None)) is not None:
            return of_set()
        raise TypeError(f"group: expected a Group or a name such as 'C4', got {type(group).__name__}")
    # Not by a regular expression, which torch.compile would trace.
    letter, n = group[:1], group[1:]
    if letter not in ("C", "D") or not (n.isascii() and n.isdigit()) or n[0] == "0":
        raise ValueError(f"group: expected 'C<n>' or 'D<n>' with n ≥ 1, got {group!r}")
    return (DihedralGroup if letter == "D" else CyclicGroup)(int(n))


def cosine(k: int, n: int) -> float:
    """cos(90°·k/n) for 0 ≤ k ≤ n, such that ``cosine(n - k, n)`` is the matching sine to the last bit.

    It has the same bits for every k and n of one quotient, so equal angles of different groups are equal.
    """
    divisor = math.gcd(k, n)
    k, n = k // divisor, n // divisor
    if 2 * k <= n:
        return math.cos(math.pi / 2 * k / n)
    return math.sin(math.pi / 2 * (n - k) / n)


@remembered
def _action_table(n: int, reflections: bool, inverse: bool) -> tuple[float, ...]:
    rows: list[float] = []
    for r in range(2 if reflections else 1):
        for j in range(n):
            # g·x reads x at g⁻¹p, and g⁻¹·x reads it at gp; a reflection is its own inverse.
            turns = j if inverse or r else -j % n
            quarters, remainder = divmod(4 * turns, n)
            c, s = cosine(remainder, n), cosine(n - remainder, n)
            rows += (quarters + 4 * r, c, s, -s, c)
    return tuple(float(v) for v in rows)
