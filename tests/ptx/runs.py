"""Mistakes in kernels, and what kernels compute in which they are planted: their results, and the definition's."""

from __future__ import annotations

import contextlib
import re
from collections.abc import Callable, Iterable, Iterator

import pytest
import torch

import equifast
from equifast import reference

from ..cases import rand

#: An instruction of a kind of register that all kernels have, and that is an error wherever it is executed.
DIVIDE_BY_ZERO = "div.u32 %r1, %r1, 0;"


@contextlib.contextmanager
def edited(entries, places: Iterable, pattern: str, replacement: str, only: int | None = None) -> Iterator[int]:
    """``pattern`` becomes ``replacement`` in the entries at these places of a list or a dict, wherever it is or, with
    ``only``, where it is found for that time. Yields how often it was found."""
    before, found = {place: entries[place] for place in places}, 0

    def replaced(match: re.Match) -> str:
        nonlocal found
        found += 1
        return match.expand(replacement) if only in (None, found - 1) else match[0]

    for place, entry in before.items():
        entries[place] = entry.edited(lambda text: re.sub(pattern, replaced, text))
    assert found, f"nothing like {pattern} in {before}"
    try:
        yield found
    finally:
        for place, entry in before.items():
            entries[place] = entry


def moved() -> tuple[torch.Tensor, torch.Tensor]:
    """Images that are interpolated: the kernel's, and those of the definition, bit for bit the same."""
    x, element = rand(3, 2, 7, 7), torch.tensor([1, 3, 5])
    return tuple(library.act(x, element, group="C8") for library in (equifast, reference))


def scored() -> tuple[torch.Tensor, torch.Tensor]:
    vectors, target = rand(12, 37), rand(37, seed=1)
    return tuple(library.orbit_scores(vectors, target, group="C4").activations for library in (equifast, reference))


def convolved() -> tuple[torch.Tensor, torch.Tensor]:
    """The gradient of a convolution by its images."""
    x, weight = rand(2, 3, 9, 9, dtype=torch.float16), rand(5, 3, 3, 3, dtype=torch.float16, seed=1)
    grads = []
    for library in (equifast, reference):
        leaf = x.clone().requires_grad_()
        out = library.orbit_conv2d(leaf, weight, group="C8", stride=2)
        grads += torch.autograd.grad(out, leaf, rand(*out.shape, dtype=torch.float16, seed=2))
    return grads[0], grads[1]


def averaged() -> tuple[torch.Tensor, torch.Tensor]:
    y, weights = rand(24, 2, 7, 7), rand(3, 8, seed=1)
    return tuple(library.orbit_average(y, weights, group="C8") for library in (equifast, reference))


def summed() -> tuple[torch.Tensor, torch.Tensor]:
    """The gradient of an average by its weights, whose parts are added up."""
    y, weights = rand(24, 2, 7, 7), rand(3, 8, seed=1).requires_grad_()
    outs = [library.orbit_average(y, weights, group="C8") for library in (equifast, reference)]
    return tuple(torch.autograd.grad(out, weights, rand(*out.shape, seed=2))[0] for out in outs)


def caught(run: Callable, what: str) -> str:
    """The text of the error that ends a run."""
    with pytest.raises(RuntimeError, match=what) as raised:
        run()
    return str(raised.value)
