"""How a group convolution is computed: by the cosets of the elements that only permute pixels.

Let h_k carry the map of member e·k into the frame of member e, and let Q be the elements whose h_k maps the pixels onto
themselves. Q is a subgroup. So every element is t·q, where q is in Q, and t is the first element of a left coset t·Q.
The group convolution ::

    out[e] = Σ_k h_k · conv2d(x[e·k], W[k])

is therefore a sum over cosets, in which maps are interpolated once for each coset and not once for each element::

    out[e] = Σ_t h_t · u_t[e·t]        with        u_t[e] = Σ_q h_q · conv2d(x[e·q], W[t·q])

There are two ways to compute u_t. `in_own_frames` treats all members alike, to the last bit. `in_one_frame` is a plain
convolution with as many times the channels as Q has elements, which convolution libraries are fastest at.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from operator import index
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

from ..frames import carrying_table
from ..geometry import IDENTITY, ROW, factor, rows
from ..groups import Group, remembered

#: A convolution without its options: maps, weight and bias → maps.
Convolve = Callable[[Tensor, Tensor, Tensor | None], Tensor]

Elements = tuple[int, ...]

#: Output channels that fill a vector of a CPU. `in_own_frames` convolves as many places at once as it takes.
VECTOR = 16


class Cosets(NamedTuple):
    """The left cosets of Q, for maps of one shape."""

    group: Group
    exact: Elements  # Q
    first: Elements  # t of each coset; the identity comes first
    table: tuple[float, ...]  # the action table of every h_k

    @classmethod
    def of(cls, group: Group, height: int, width: int) -> Cosets:
        table = carrying_table(group, height, width)
        return cls(group, *_split(index(group.n), group.reflections, table, bool(height == width)), table)

    def turn(self, x: Tensor, k: int, padding_mode: str = "border") -> Tensor:
        """h_k·x, of maps or of filters."""
        if k == 0:
            return x
        row = self.table[ROW * k : ROW * (k + 1)]
        return torch.ops.equifast.orbit(x, None, row, [], [], padding_mode, False)

    def commute(
        self,
        size: Sequence[int],
        kernel: Sequence[int],
        stride: Sequence[int],
        padding: Sequence[int] | str,
        dilation: Sequence[int],
    ) -> bool:
        """Whether Q commutes with a convolution: ``h_q·conv2d(x, w)`` is ``conv2d(h_q·x, h_q·w)``.

        For that the windows lie as far from an edge as from the opposite one. For quarter turns they also lie along one
        axis as along the other.
        """
        beyond = [2 * p for p in padding] if not isinstance(padding, str) else [0, 0]
        if padding == "same":
            beyond = [d * (k - 1) for d, k in zip(dilation, kernel, strict=True)]
        axes = list(zip(size, kernel, stride, beyond, dilation, strict=True))
        centred = all(b % 2 == 0 and (n + b - d * (k - 1) - 1) % s == 0 for n, k, s, b, d in axes)
        quarter_turns = any(self.table[ROW * q] % 2 for q in self.exact)
        return centred and (axes[0] == axes[1] or not quarter_turns)


@remembered
def _split(n: int, reflections: bool, table: tuple[float, ...], square: bool) -> tuple[Elements, Elements]:
    """Q, and the first element of each left coset."""
    group = Group(n, reflections)
    exact = tuple(k for k, row in enumerate(rows(table)) if factor(*row, square=square)[1] == IDENTITY)
    cosets = {frozenset(group.compose(t, q) for q in exact) for t in range(group.order)}
    return exact, tuple(sorted(map(min, cosets)))


def in_own_frames(
    x: Tensor, weight: Tensor, bias: Tensor | None, cosets: Cosets, convolve: Convolve, padding_mode: str
) -> Tensor:
    """The group convolution of x (E·B, C, H, W), by the same arithmetic in the same order for every member.

    Each member is computed from the same maps seen from its own place. So permuting the members of x by a left
    multiplication permutes the output likewise, bit for bit.
    """
    group, exact = cosets.group, cosets.exact
    filters = weight.chunk(group.order, 1)
    # A few places at once, since the maps of all places are E times as large as the output.
    at_once = max(VECTOR // max(weight.shape[0], 1), 1)
    total: Tensor | None = None
    for t in cosets.first:
        u: Tensor | None = None
        for i in range(0, len(exact), at_once):
            places = exact[i : i + at_once]
            some = torch.cat([filters[group.compose(t, q)] for q in places])
            maps = convolve(x, some, None if bias is None or t or i else F.pad(bias, (0, len(some) - len(bias))))
            # A part of the maps is copied, so that sums have memory of their own.
            parts = [maps] if len(places) == 1 else [part.clone() for part in maps.chunk(len(places), 1)]
            for q, y in zip(places, parts, strict=True):
                u = _add_at_place(u, cosets.turn(y, q), group, q)
        assert u is not None  # the identity is one of the places
        total = _add_at_place(total, cosets.turn(u, t, padding_mode), group, t)
    assert total is not None  # and one of the first elements
    return total


def in_one_frame(
    x: Tensor, weight: Tensor, bias: Tensor | None, cosets: Cosets, convolve: Convolve, padding_mode: str
) -> Tensor:
    """The same where Q commutes with the convolution, up to rounding.

    The members of a coset are turned into the frame of its first element, and become channels of one image. There ::

        h_q · u_t[s·q] = Σ_p conv2d(h_p · x[s·p], h_p · W[t·q⁻¹·p])        for s of `first`, q and p of Q
    """
    group, exact = cosets.group, cosets.exact
    members = x.unflatten(0, (group.order, x.shape[0] // group.order)).unbind(0)
    frames = [[cosets.turn(members[group.compose(s, q)], q) for q in exact] for s in cosets.first]
    together = torch.cat([torch.cat(frame, 1) for frame in frames])  # (T·B, |Q|·C, H, W)
    # W[k] turned by every p, as blocks[p][k].
    blocks = {p: cosets.turn(weight, p).unflatten(1, (group.order, -1)).unbind(1) for p in exact}
    # Where member s·q is in the output.
    at = {group.compose(s, q): (i, j) for i, s in enumerate(cosets.first) for j, q in enumerate(exact)}
    total: Tensor | None = None
    for t in cosets.first:
        places = [[group.compose(group.compose(t, group.inverse(q)), p) for p in exact] for q in exact]
        filters = torch.cat([torch.cat([blocks[p][k] for p, k in zip(exact, row, strict=True)], 1) for row in places])
        y = convolve(together, filters, None if bias is None or t else bias.repeat(len(exact)))
        own = [frame.chunk(len(exact), 1) for frame in y.chunk(len(cosets.first))]
        seen = []
        for e in range(group.order):
            i, j = at[group.compose(e, t)]
            seen.append(cosets.turn(own[i][j], group.inverse(exact[j])))
        u = cosets.turn(torch.cat(seen), t, padding_mode)
        total = u if total is None else total.add_(u)
    assert total is not None  # the identity is one of the first elements
    return total


def at_place(rows: Tensor, group: Group, k: int) -> Tensor:
    """``rows[e·k]`` for every member e, which has that member at its place k: (E·B, …) → the same."""
    if k == 0:
        return rows
    members = rows.unflatten(0, (group.order, rows.shape[0] // group.order)).unbind(0)
    return torch.cat([members[group.compose(e, k)] for e in range(group.order)])


def _add_at_place(total: Tensor | None, rows: Tensor, group: Group, k: int) -> Tensor:
    """``total + rows[e·k]`` in the memory of the total; the rows if there is no total, since the first place is 0."""
    if total is None:
        return rows
    if rows.requires_grad:
        return total.add_(at_place(rows, group, k))
    # Without a copy. Autograd would record a copy of the total for each member.
    own, others = (t.unflatten(0, (group.order, t.shape[0] // group.order)) for t in (total, rows))
    for e in range(group.order):
        own[e].add_(others[group.compose(e, k)])
    return total
