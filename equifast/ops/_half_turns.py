"""The convolution of patches by a group that has a half turn, on a CPU: each product serves two members.

A half turn reverses the numbers of a patch, and the order of the patches of an image. So patches and the weight are
split into an even part, which a reversal keeps, and an odd part, of which it changes the sign. A member's output is
the product of the even parts plus that of the odd parts. The output of the member turned by half is their difference,
in reverse order. A part has half the numbers of a patch, so half of the multiplications are left.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence

import torch
from torch import Tensor

from ..geometry import ROW, rows
from ._patches import patches_of

#: Two elements. The second one is the first one and a half turn.
Pair = tuple[int, int]


def pairs_of(table: Sequence[float], x: Tensor, weight: Tensor) -> list[Pair]:
    """All elements of an action table in pairs; nothing if this module does not suit the layer.

    It does not if some element has no partner, or if patches leave a margin of the images: then a half turn does not
    move patches to patches.
    """
    actions = rows(table)
    ids = {action: e for e, action in enumerate(actions)}
    # The lowest two bits of a code count quarter turns.
    partners = [ids.get((code ^ 2, base)) for code, base in actions]
    pairs = [(e, partner) for e, partner in enumerate(partners) if partner is not None and e < partner]
    margin = x.shape[2] % weight.shape[2] + x.shape[3] % weight.shape[3]
    return pairs if margin == 0 and len(ids) == len(actions) == 2 * len(pairs) else []


def first_rows(table: Sequence[float], pairs: list[Pair]) -> list[float]:
    """The action table of the first element of each pair."""
    return [value for first, _ in pairs for value in table[ROW * first : ROW * (first + 1)]]


def is_moderate(*tensors: Tensor) -> bool:
    """Whether all numbers are finite, and none is so large that a sum of two may not be.

    Elsewhere, the parts of a patch would be ∞ − ∞.
    """
    largest = [max(-low, high) for low, high in (t.aminmax() for t in tensors if t.numel())]
    return all(bool(n <= torch.finfo(n.dtype).max / 2) for n in largest)


def split(t: Tensor) -> tuple[Tensor, Tensor]:
    """The even and the odd part of the last axis: sums and differences of numbers that a reversal exchanges.

    A number in the middle stays where it is. It comes last in the even part.
    """
    n = t.shape[-1]
    first, last = t[..., : n // 2], t[..., n - n // 2 :].flip(-1)
    even = first + last
    return torch.cat((even, t[..., n // 2 : n - n // 2]), -1) if n % 2 else even, first - last


def split_weight(weight: Tensor) -> tuple[Tensor, Tensor]:
    """The parts of a weight (C_out, C, kH, kW) as matrices of C_out rows.

    Sums and differences are halved: ⟨p, w⟩ is then the sum of the products of the parts.
    """
    even, odd = split(weight.flatten(2))
    even[..., : odd.shape[-1]] /= 2
    odd /= 2
    return even.flatten(1), odd.flatten(1)


def joined(even: Tensor, odd: Tensor, *, weight: Tensor) -> Tensor:
    """The gradient of the weight from those of its parts: the transpose of `split_weight`."""
    even, odd = (part.unflatten(1, (weight.shape[1], -1)) for part in (even, odd))
    sums, middle = even.split((odd.shape[-1], even.shape[-1] - odd.shape[-1]), -1)
    return torch.cat(((sums + odd) / 2, middle, ((sums - odd) / 2).flip(-1)), -1).view(weight.shape)


def split_patches(images: Tensor, weight: Tensor) -> tuple[Tensor, Tensor]:
    """The parts of the patches of images (N, C, H, W), as rows of products: (N, H'·W', …)."""
    even, odd = split(patches_of(images, weight).unflatten(2, (weight.shape[1], -1)))
    return even.flatten(2), odd.flatten(2)


def in_pairs(members: Tensor, pairs: list[Pair], images: range) -> Iterator[tuple[Tensor, Tensor]]:
    """What pairs of elements have of (E, B, C_out, H', W'), a matrix (C_out, H'·W') for each image."""
    for first, second in pairs:
        for b in images:
            yield members[first, b].flatten(1), members[second, b].flatten(1)


def convolve_pairs(
    images: Tensor,
    weight: Tensor,
    parts: tuple[Tensor, Tensor],
    bias: Tensor | None,
    outs: Iterable[tuple[Tensor, Tensor]],
    activate: Callable[[Tensor], Tensor],
) -> None:
    """Write the activated convolution of each image, and that of the image turned by half, to a pair of ``outs``.

    ``parts``: those of the weight.
    """
    for even, odd, (out, turned) in zip(*split_patches(images, weight), outs, strict=True):
        if bias is None:
            torch.mm(parts[0], even.mT, out=out)
        else:
            torch.addmm(bias[:, None], parts[0], even.mT, out=out)
        odd_product = torch.mm(parts[1], odd.mT, out=torch.empty_like(out))
        turned.copy_((out - odd_product).flip(1))
        out += odd_product
        activate(out), activate(turned)


def new_stack(like: Tensor, count: int) -> Tensor:
    """An uninitialized (C_out, count, H'·W'), whose channels or pixels are neighbours as those of ``like`` are."""
    channels, pixels = like.shape
    if like.stride(0) == 1:
        return like.new_empty(count, pixels, channels).permute(2, 0, 1)
    return like.new_empty(channels, count, pixels)


def add_gradients(
    images: Tensor, weight: Tensor, grads: Iterable[tuple[Tensor, Tensor]], totals: tuple[Tensor, Tensor]
) -> None:
    """Add the gradients of the parts of the weight to ``totals``; ``grads`` are those of `convolve_pairs`' outputs."""
    parts, grads = split_patches(images, weight), list(grads)
    # All images side by side, so that the totals are read and written once.
    sums, differences = stacks = [new_stack(grads[0][0], len(grads)) for _ in totals]
    for i, (grad, turned) in enumerate(grads):
        reverse = turned.flip(1)
        torch.add(grad, reverse, out=sums[:, i])
        torch.sub(grad, reverse, out=differences[:, i])
    for total, stack, part in zip(totals, stacks, parts, strict=True):
        total.addmm_(stack.flatten(1), part.flatten(0, 1))
