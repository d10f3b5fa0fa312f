"""What a model says of a batch: its outputs, its features, and how far those of two batches are apart."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from .. import checks


class Answers(NamedTuple):
    """What a model says of images.

    ``logits``: (B, K), or maps (B, K, H, W); ``features``: (B, d), or None.
    """

    logits: Tensor
    features: Tensor | None

    def places(self, inside: Tensor | None) -> Placed:
        """The same, with maps as rows of places; of these the ones ``inside`` (H, W), bool, if that is given."""
        rows = self.logits.double().flatten(2) if self.logits.dim() == 4 else self.logits.double()[:, :, None]
        if inside is not None and self.logits.dim() == 4:
            rows = rows[:, :, inside.flatten()]
        features = None if self.features is None else self.features.double()
        return Placed(rows.softmax(1), features)


class Placed(NamedTuple):
    """Probabilities (B, K, P) at P places, one for a classifier, and features (B, d), or None; float64."""

    probabilities: Tensor
    features: Tensor | None

    @property
    def answer(self) -> Tensor:
        """The likeliest class (B, P); −1 where an output isn't finite."""
        return torch.where(self.probabilities.isfinite().all(1), self.probabilities.argmax(1), -1)

    @property
    def confidence(self) -> Tensor:
        """The largest probability, on average over the places, (B,); 0 where an output isn't finite."""
        return self.probabilities.amax(1).nan_to_num(nan=0.0).mean(1)

    def agreement(self, other: Placed) -> Tensor:
        """Share of the places with the same answer, (B,). An output that isn't finite agrees with none."""
        mine = self.answer
        return ((mine == other.answer) & (mine >= 0)).double().mean(1)

    def distance(self, other: Placed) -> Tensor:
        """Total variation ``½ Σ |p − q|`` of the probabilities, in [0, 1], on average over the places, (B,).

        1 where an output isn't finite.
        """
        moved = (self.probabilities - other.probabilities).abs().sum(1) / 2
        return moved.nan_to_num(nan=1.0).clamp(max=1).mean(1)

    def feature_distance(self, other: Placed) -> Tensor | None:
        """``‖f − f′‖ / (‖f‖ + ‖f′‖)`` in [0, 1], (B,), or None without features; 1 where one isn't finite.

        0 for equal features, 0.71 for such of one length at right angles, 1 for opposite ones.
        """
        if self.features is None or other.features is None:
            return None
        lengths = self.features.norm(dim=1) + other.features.norm(dim=1)
        moved = (self.features - other.features).norm(dim=1)
        return torch.where(moved == 0, 0, moved / lengths).nan_to_num(nan=1.0).clamp(max=1)

    def right(self, labels: Tensor) -> Tensor:
        """Share of the places with a right answer, (B,); NaN where no place has a label.

        Labels are (B, P) int64, negative where there is none, or (B, K) bool, which of the classes are right.
        """
        answer = self.answer
        if labels.dtype == torch.bool:
            hit = labels.gather(1, answer.clamp(min=0)) & (answer >= 0)
            return torch.where(labels.any(1), hit[:, 0].double(), torch.nan)
        counted = labels >= 0
        return ((answer == labels) & counted).sum(1).double() / counted.sum(1)


class Reader:
    """Runs a model and takes its logits and features.

    Args:
        model: images (B, C, H, W) → logits (B, K) or maps (B, K, H', W'), or an object with such ``logits``.
        is_dense: whether it returns maps.
        features: the name of a module within the model, whose output is taken. By default the input of the linear layer
            that is called last; `source` then tells its name, or None if there is no such layer.
    """

    def __init__(self, model: Callable[[Tensor], Any], *, is_dense: bool, features: str | None) -> None:
        self.model, self.is_dense, self.features = model, is_dense, features
        self.source: str | None = features
        modules = dict(model.named_modules()) if isinstance(model, nn.Module) else {}
        if features is not None and features not in modules:
            raise ValueError(f"features: found no module of the model with the name {features!r}")
        self.watched = {
            name: module
            for name, module in modules.items()
            if (name == features if features is not None else isinstance(module, nn.Linear))
        }

    def __call__(self, x: Tensor) -> Answers:
        with self._kept() as kept:
            logits = self.logits(x)
        if not kept:
            return Answers(logits, None)
        name, found = kept[-1]
        rows = _rows(found, len(x))
        if rows is None and self.features is not None:
            got = checks.shape(found) if isinstance(found, Tensor) else type(found).__name__
            raise ValueError(f"features: expected {name!r} to return {len(x)} rows, got {got}")
        self.source = None if rows is None else name
        return Answers(logits, rows)

    def logits(self, x: Tensor) -> Tensor:
        """The logits alone, checked."""
        output = self.model(x)
        y = checks.tensor("model(images)", output if isinstance(output, Tensor) else getattr(output, "logits", output))
        checks.floating("model(images)", y)
        if self.is_dense:
            if y.dim() != 4 or len(y) != len(x) or y.shape[1] < 2:
                raise ValueError(
                    f"model(images): expected maps ({len(x)}, K, H, W) with K ≥ 2 classes, "
                    f"for representation='trivial', got {checks.shape(y)}"
                )
        elif y.dim() != 2 or len(y) != len(x) or y.shape[1] < 2:
            hint = "; maps need representation='trivial' and a canonicalizer" if y.dim() == 4 else ""
            raise ValueError(f"model(images): expected ({len(x)}, K) with K ≥ 2 classes, got {checks.shape(y)}{hint}")
        return y

    @contextmanager
    def _kept(self) -> Iterator[list[tuple[str, Any]]]:
        """What the watched modules see or return while this is open, by their names, in the order of their calls."""
        kept: list[tuple[str, Any]] = []
        handles = []
        for name, module in self.watched.items():
            if self.features is None:

                def keep(_module: nn.Module, args: tuple, kwargs: dict, name: str = name) -> None:
                    kept[:] = [(name, args[0] if args else kwargs.get("input"))]

                handles.append(module.register_forward_pre_hook(keep, with_kwargs=True))
            else:

                def keep_output(_module: nn.Module, _args: tuple, output: object, name: str = name) -> None:
                    kept[:] = [(name, output)]

                handles.append(module.register_forward_hook(keep_output))
        try:
            yield kept
        finally:
            for handle in handles:
                handle.remove()


def _rows(found: Any, count: int) -> Tensor | None:
    """Features of any shape as (B, d): means over the pixels of maps, and over tokens; None if they aren't B rows."""
    if not isinstance(found, Tensor) or found.dim() < 2 or len(found) != count or not found.is_floating_point():
        return None
    if found.dim() == 4:
        return found.mean((2, 3))
    return found.mean(1) if found.dim() == 3 else found.flatten(1)
