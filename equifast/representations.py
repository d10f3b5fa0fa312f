"""How channels transform: ρ(g) for the trivial, regular and vector representations."""

from __future__ import annotations

from collections.abc import Sequence
from operator import index

from .groups import Group, remembered

#: How many channels one copy of each representation has, for a group of order E.
SIZES = {"trivial": lambda order: 1, "regular": lambda order: order, "vector": lambda order: 2}


def channel_action(group: Group, representation: str, *, inverse: bool) -> tuple[tuple[int, ...], tuple[float, ...]]:
    """ρ(g_e), or ρ(g_e⁻¹) if ``inverse``, for every e, as kernels read it: a permutation and a mixing of channels.

    At least one of them is empty.

    ``permutation`` (E × E, regular): in each block of E channels, output k is input ``permutation[e·E + k] = g⁻¹k``.
    ``mixing`` (E × 4, vector): a row-major 2×2 matrix for each pair of channels (x right, y down).
    """
    return _channel_action(index(group.n), group.reflections, representation, inverse)


@remembered
def _channel_action(
    n: int, reflections: bool, representation: str, inverse: bool
) -> tuple[tuple[int, ...], tuple[float, ...]]:
    group = Group(n, reflections)
    elements = range(group.order)
    acting = [group.inverse(e) if inverse else e for e in elements]
    if representation == "regular":
        return tuple(group.compose(group.inverse(g), k) for g in acting for k in elements), ()
    if representation == "vector":
        return (), tuple(v for g in acting for v in group.matrix(g))
    if representation == "trivial":
        return (), ()
    raise ValueError(f"representation: expected one of {', '.join(SIZES)}, got {representation!r}")


def transpose(
    permutation: Sequence[int] | None, mixing: Sequence[float] | None, order: int
) -> tuple[list[int], list[float]]:
    """The transposed channel action of every element. The matrices are orthogonal, so it is the inverse."""
    permutation, mixing = permutation or (), mixing or ()
    inverted = [0] * len(permutation)
    size = len(permutation) // order if order else 0
    for i, source in enumerate(permutation):
        inverted[i // size * size + source] = i % size
    swapped = [mixing[i + k] for i in range(0, len(mixing), 4) for k in (0, 2, 1, 3)]
    return inverted, swapped
