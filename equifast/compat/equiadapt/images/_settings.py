"""Reading of hyperparameters, and the sizes of images that follow from them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from torch import Tensor


def has(options: object, name: str) -> bool:
    """Whether there is a hyperparameter of that name, by key or by attribute."""
    return name in options if isinstance(options, Mapping) else hasattr(options, name)


def option(options: object, name: str):
    """A hyperparameter, by key or by attribute."""
    if not has(options, name):
        raise ValueError(f"canonicalization_hyperparams: {name} is missing")
    return options[name] if isinstance(options, Mapping) else getattr(options, name)


def centre_crop(x: Tensor, size: Sequence[int]) -> Tensor:
    """The middle of x (B, C, H, W), with ``size`` as its (height, width)."""
    if tuple(x.shape[2:]) == tuple(size):
        return x
    top, left, height, width = in_the_middle(x, size)
    return x[:, :, top : top + height, left : left + width]


def in_the_middle(x: Tensor, size: Sequence[int]) -> tuple[int, int, int, int]:
    """(top, left, height, width) of the rectangle of that size in the middle of x (B, C, H, W)."""
    height, width = size
    return (x.shape[2] - height) // 2, (x.shape[3] - width) // 2, height, width


def centred(length: int, parent: int) -> int:
    """``length``, or one pixel more if that is needed to share a centre on the pixel grid with a side of ``parent``."""
    return length + (length - parent) % 2


def resized(size: tuple[int, int], shape: int | tuple[int, int]) -> tuple[int, int]:
    """(height, width) after a resize to ``shape``: to a pair, or to a length of the shorter side in proportion."""
    if not isinstance(shape, int):
        return shape
    height, width = size
    long = shape * max(size) // min(size)
    return (long, shape) if width <= height else (shape, long)
