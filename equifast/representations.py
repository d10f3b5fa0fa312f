"""How channels transform: ρ(g) for the trivial, regular and vector representations."""

from __future__ import annotations

from collections.abc import Sequence
from operator import index

from .geometry import matrices_of
from .groups import Group, remembered
from .transform_set import Transforms, TransformSet

#: How many channels one copy of each representation has, for a group of order E.
SIZES = {"trivial": lambda order: 1, "regular": lambda order: order, "vector": lambda order: 2}


def check(group: Transforms, representation: str) -> None:
    """Raise an error unless the group, or the set of maps, has this representation."""
    if representation not in SIZES:
        raise ValueError(f"representation: expected one of {', '.join(SIZES)}, got {representation!r}")
    if representation == "regular" and isinstance(group, TransformSet):
        raise ValueError(f"representation: 'regular' permutes the elements of a group, but a {group} is none")


def channel_action(
    group: Transforms, representation: str, *, inverse: bool
) -> tuple[tuple[int, ...], tuple[float, ...]]:
    """ρ(g_e), or ρ(g_e⁻¹) if ``inverse``, for every e, as kernels read it: a permutation and a mixing of channels.

    At least one of them is empty.

    ``permutation`` (E × E, regular): in each block of E channels, output k is input ``permutation[e·E + k] = g⁻¹k``.
    ``mixing`` (E × 4, vector): the row-major 2×2 matrix of g for each pair of channels (x right, y down).
    """
    check(group, representation)
    if representation == "trivial":
        return (), ()
    if isinstance(group, Group):
        return _channel_action(index(group.n), group.reflections, representation, inverse)
    return (), _mixing(group.action_table(inverse=not inverse))


@remembered
def _channel_action(
    n: int, reflections: bool, representation: str, inverse: bool
) -> tuple[tuple[int, ...], tuple[float, ...]]:
    group = Group(n, reflections)
    if representation == "vector":
        return (), _mixing(group.action_table(inverse=not inverse))
    elements = range(group.order)
    acting = [group.inverse(e) if inverse else e for e in elements]
    return tuple(group.compose(group.inverse(g), k) for g in acting for k in elements), ()


def _mixing(table: tuple[float, ...]) -> tuple[float, ...]:
    return tuple(v for matrix in matrices_of(table) for v in matrix)


def transpose(
    permutation: Sequence[int] | None, mixing: Sequence[float] | None, order: int
) -> tuple[list[int], list[float]]:
    """The transposed channel action of every element; that of a group is also the inverse."""
    permutation, mixing = permutation or (), mixing or ()
    inverted = [0] * len(permutation)
    size = len(permutation) // order if order else 0
    for i, source in enumerate(permutation):
        inverted[i // size * size + source] = i % size
    swapped = [mixing[i + k] for i in range(0, len(mixing), 4) for k in (0, 2, 1, 3)]
    return inverted, swapped
