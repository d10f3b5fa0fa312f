"""Both data sets, upright: what `examples/data` has of them, or the first images of it."""

from __future__ import annotations

from typing import NamedTuple

from torch import Tensor


class Split(NamedTuple):
    """Standardized images (N, 1, 28, 28) and labels (N,), for training and for tests, and where they are from."""

    train: Tensor
    train_labels: Tensor
    test: Tensor
    test_labels: Tensor
    source: str


def load(name: str, train: int, test: int) -> Split:
    """The first images of a data set, at most ``train`` and ``test``."""
    import data  # it needs packages that read archives, and nothing else here does

    whole = {"mnist": data.digits, "fashion": data.fashion}[name]()
    shorter = (whole.train[:train], whole.train_labels[:train], whole.test[:test], whole.test_labels[:test])
    return Split(*shorter, whole.source)
