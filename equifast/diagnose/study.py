"""Runs every image in every orientation, and keeps what is measured of each."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
from torch import Tensor

from .. import checks, ops
from ..canonical_form import CanonicalForm
from ..disc import within_disc
from ..groups import Group
from .outputs import Answers, Placed, Reader


class Study:
    """Runs batches, and collects what is measured of each image, (N, E) for the turned copies."""

    def __init__(
        self,
        reader: Reader,
        choose: Callable[[Tensor], CanonicalForm],
        group: Group,
        padding_mode: str,
        shape: torch.Size,
        classes: Sequence[str] | None,
    ) -> None:
        self.reader, self.choose, self.group, self.padding_mode = reader, choose, group, padding_mode
        self.classes = classes
        self.is_cut = not group.permutes(shape[2], shape[3])
        self.columns: dict[str, list[Tensor]] = {}

    def seen(self, x: Tensor) -> Tensor:
        """What of the images all turned copies have: the disc where an element interpolates."""
        return within_disc(x) if self.is_cut else x

    def notes(self, has_features: bool) -> list[str]:
        notes = []
        if self.is_cut:
            notes.append(
                "Some elements interpolate, and turned images lose their corners. All images, upright ones too, were "
                "shown within the inscribed disc, with zeros around it."
            )
        if not has_features:
            notes.append("The model has no linear layer whose input could be compared; name a module by `features`.")
        return notes

    def turned(self, x: Tensor, element: int | Tensor, *, inverse: bool = False) -> Tensor:
        ids = torch.as_tensor(element, device=x.device).expand(len(x)).contiguous()
        return ops.act(x, ids, group=self.group, inverse=inverse, padding_mode=self.padding_mode)

    def form(self, x: Tensor) -> CanonicalForm:
        form = self.choose(x)
        if not isinstance(form, CanonicalForm):
            raise TypeError(f"canonicalizer: expected to return a CanonicalForm, got {type(form).__name__}")
        if form.group != self.group:
            raise ValueError(f"canonicalizer: expected to choose from {self.group}, got elements of {form.group}")
        return form

    def add(self, x: Tensor, labels: Tensor | None, turns: Tensor, generator: torch.Generator) -> None:
        """Measure a batch: (B, C, H, W), labels as `Placed.right` takes them or (B, H', W'), and turns (B,)."""
        x = self.seen(x)
        rows: dict[str, list[Tensor]] = {}
        firsts: list[Placed] = []
        for h in range(self.group.order):
            moved = self.turned(x, h)
            alone = self._placed(self.reader(moved), h, None)
            if self.classes is not None and len(self.classes) != alone.probabilities.shape[1]:
                count = alone.probabilities.shape[1]
                raise ValueError(f"classes: expected {count} names, one for each output, got {len(self.classes)}")
            form = self.form(moved)
            canonical = self._placed(self.reader(form.image), h, form)
            firsts = firsts or [alone, canonical]
            for placed, first, name in ((alone, firsts[0], ""), (canonical, firsts[1], " after")):
                _append(rows, self._measures(placed, first, labels), name)
            element = {"chosen": form.element, "tied": form.tied, "entropy": form.entropy}
            _append(rows, element if h == 0 else {"chosen": form.element}, "")
            if h == 0:
                _append(rows, {"kept": canonical.agreement(alone)}, "")
        order = torch.rand(len(x), 1, x[0, 0].numel(), generator=generator, device="cpu").argsort(2).to(x.device)
        disorder = x.flatten(2).gather(2, order.expand(-1, x.shape[1], -1)).view(x.shape)
        form = self.form(self.turned(self.seen(disorder), turns.to(x.device)))
        _append(rows, {"disordered": form.element}, "")
        for name, values in rows.items():
            self.columns.setdefault(name, []).append(torch.stack(values, 1).cpu())

    def collected(self) -> dict[str, Tensor]:
        """Each measure of all images: (N, E), or (N, 1) where only the images as they come have it."""
        return {name: torch.cat(parts) for name, parts in self.columns.items()}

    def _placed(self, answers: Answers, h: int, form: CanonicalForm | None) -> Placed:
        """Answers for images that were turned by h, as answers for the images before: maps are turned back."""
        if not self.reader.is_dense:
            return answers.places(None)
        y = answers.logits if form is None else form.invert(answers.logits)
        inside = within_disc(y.new_ones(1, 1, *y.shape[2:]))[0, 0] > 0 if self.is_cut else None
        return answers._replace(logits=self.turned(y, h, inverse=True)).places(inside)

    def _measures(self, placed: Placed, first: Placed, labels: Tensor | None) -> dict[str, Tensor]:
        found = {
            "confidence": placed.confidence,
            "consistency": placed.agreement(first),
            "distance": placed.distance(first),
        }
        if (moved := placed.feature_distance(first)) is not None:
            found["features"] = moved
        if not self.reader.is_dense:
            found["answer"] = placed.answer[:, 0]
        found["right"] = (
            torch.full_like(placed.confidence, torch.nan) if labels is None else self._right(placed, labels)
        )
        return found

    def _right(self, placed: Placed, labels: Tensor) -> Tensor:
        count, places = placed.probabilities.shape[1:]
        if labels.dtype == torch.bool:
            if labels.shape[1:] != (count,):
                raise ValueError(f"labels: expected {count} columns, one for each class, got {checks.shape(labels)}")
            return placed.right(labels)
        if labels.max() >= count:
            raise ValueError(f"labels: expected classes below {count}, got {labels.max().item()}")
        if not self.reader.is_dense:
            return placed.right(labels[:, None])
        if self.is_cut:
            inside = within_disc(torch.ones(1, 1, *labels.shape[1:], device=labels.device))[0, 0] > 0
            labels = labels[:, inside]
        if labels[0].numel() != places:
            raise ValueError(f"labels: expected maps as large as the model's, {places} pixels, got {labels[0].numel()}")
        return placed.right(labels.flatten(1))


def _append(rows: dict[str, list[Tensor]], found: dict[str, Tensor], suffix: str) -> None:
    for name, values in found.items():
        rows.setdefault(name + suffix, []).append(values)
