"""A stream of images through the network: workers read and decode them, and the process scores a batch at a time."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from itertools import islice
from typing import NamedTuple

import torch
from torch import Tensor
from torch.utils.data import DataLoader, Dataset

from .chooser import Chooser
from .pictures import view
from .sources import Item


class Choice(NamedTuple):
    """What is chosen for one image: an element, with the scores of all; or why it can't be read."""

    element: int = 0
    scores: tuple[float | None, ...] = ()  # None where a score isn't finite
    tied: bool = False
    error: str | None = None

    def line(self, item: Item) -> dict:
        """What the manifest tells about it."""
        if self.error is not None:
            return {"file": item.name, "error": self.error}
        return {"file": item.name, "element": self.element, "tied": self.tied, "scores": self.scores}


class Views(Dataset):
    """What a network sees of an image, or why it sees nothing, by the `Item` itself.

    Args:
        size: the sides of the square that it sees.
        mean, std: three numbers each; the red, green and blue of a view become (value − mean) / std.
    """

    def __init__(self, size: int, mean: tuple[float, ...], std: tuple[float, ...]) -> None:
        self.size = size
        self.mean, self.std = torch.tensor(mean)[:, None, None], torch.tensor(std)[:, None, None]

    def __getitem__(self, item: Item) -> tuple[Item, Tensor | str]:
        try:
            return item, (view(item.read(), self.size) - self.mean) / self.std
        except Exception as error:  # Pillow raises what its decoders do, of many kinds
            return item, why(error)


def why(error: Exception) -> str:
    """The error as one line."""
    return " ".join(f"{type(error).__name__}: {error}".split())


def _together(pairs: list[tuple[Item, Tensor | str]]) -> tuple[list[Item], Tensor | None, dict[int, str]]:
    """The items of a batch, the views of those that can be read, and the errors of the others by position."""
    errors = {i: found for i, (_, found) in enumerate(pairs) if isinstance(found, str)}
    views = [found for _, found in pairs if isinstance(found, Tensor)]
    return [item for item, _ in pairs], torch.stack(views) if views else None, errors


def batches(items: Iterable[Item], size: int) -> Iterator[list[Item]]:
    """Lists of ``size`` items, the last one perhaps shorter. They are taken as they are needed."""
    waiting = iter(items)
    while batch := list(islice(waiting, size)):
        yield batch


def scored(
    items: Iterable[Item], views: Views, chooser: Chooser, batch_size: int, workers: int
) -> Iterator[list[tuple[Item, Choice]]]:
    """Each item with its choice, a batch at a time, in their order."""
    loader = DataLoader(
        views,
        batch_sampler=batches(items, batch_size),
        num_workers=workers,
        collate_fn=_together,
    )
    for found, images, errors in loader:
        chosen = iter(() if images is None else _choices(chooser, images))
        yield [(item, Choice(error=errors[i]) if i in errors else next(chosen)) for i, item in enumerate(found)]


def _choices(chooser: Chooser, images: Tensor) -> Iterator[Choice]:
    form = chooser(images)
    for element, values, tied in zip(
        form.element.tolist(), form.activations.float().tolist(), form.tied.tolist(), strict=True
    ):
        finite = (float(f"{value:.7g}") if abs(value) < torch.inf else None for value in values)
        yield Choice(element, tuple(finite), tied)
