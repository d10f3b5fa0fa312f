"""The figures of a diagnosis, from which the page and the picture are made."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, fields

from torch import Tensor

from ..groups import Group
from .chance import Measured, Told, plain


@dataclass(eq=False)
class Views:
    """What becomes of the model's answers when an image x is turned to ``g_h·x``: one figure for each element h.

    All are means over the images, in [0, 1].

    Attributes:
        accuracy: share of right answers; None without labels.
        confidence: the largest probability.
        consistency: share of answers that are those for the image as it comes.
        distance: total variation ``½ Σ |p − q|`` between the probabilities for the turned image and those for the image
            as it comes.
        feature_distance: ``‖f − f′‖ / (‖f‖ + ‖f′‖)`` between the features of both; None if there are none.
    """

    accuracy: Measured | None
    confidence: Measured
    consistency: Measured
    distance: Measured
    feature_distance: Measured | None

    def to_dict(self) -> dict[str, object]:
        """What JSON can hold."""
        values = {field.name: getattr(self, field.name) for field in fields(self)}
        return {name: value and value.to_dict() for name, value in values.items()}


@dataclass(eq=False)
class Choices:
    """Which elements a canonicalizer chose.

    Attributes:
        counts: (E, E) int64. Row h has the numbers of images ``g_h·x`` for which each element was chosen.
        identity: share of the images as they come that are left so.
        equivariance: (E,), share of images for which the choice for ``g_h·x`` is h·e, with e that for x.
        tied: share of the images as they come that have several best elements, or scores that aren't finite.
        entropy: of the probabilities of the elements, on average, as a share of that of equal ones, log E. Images with
            scores that aren't finite are left out. NaN for a group of one element.
    """

    counts: Tensor
    identity: Measured
    equivariance: Measured
    tied: Measured
    entropy: Measured

    def to_dict(self) -> dict[str, object]:
        """What JSON can hold."""
        return {
            "counts": plain(self.counts),
            **{field.name: getattr(self, field.name).to_dict() for field in fields(self)[1:]},
        }


@dataclass(eq=False)
class Worst:
    """The images whose outputs a turn changes most, by the mean of the distance over the elements, for the model alone.

    Attributes:
        index: (k,), which images they are.
        images: (k, C, H, W), as the model gets them.
        element: (k, E), what was chosen for ``g_h·x``.
        before, after: (k, E), the class that the model answers for ``g_h·x``, alone and canonicalized; None for maps.
        right_before, right_after: (k, E), how far these are right, in [0, 1]; NaN without a label.
    """

    index: Tensor
    images: Tensor
    element: Tensor
    before: Tensor | None
    after: Tensor | None
    right_before: Tensor
    right_after: Tensor

    def to_dict(self) -> dict[str, object]:
        """What JSON can hold: all but the pixels."""
        values = {field.name: getattr(self, field.name) for field in fields(self) if field.name != "images"}
        return {name: value if value is None else plain(value) for name, value in values.items()}


@dataclass(eq=False)
class Findings:
    """All figures of a `Diagnosis`.

    Attributes:
        group: the group.
        count: the number of images.
        exact: for each element, whether it moves whole pixels; the others interpolate.
        before, after: what turns do to the answers of the model alone, and of the model behind the canonicalizer.
        kept: share of the images as they come for which canonicalization leaves the model's answer as it was.
        choices: which elements were chosen.
        label_from_element: what the element chosen for an image as it comes tells of its label, by itself; None without
            labels. Above chance, canonical images of some classes lie otherwise than those of others.
        label_from_turned: the same where each image has been turned by a random element. Above chance, the choice has
            another reason than how the image lies, and knows the label.
        turn_from_element: what the chosen element tells of that random element. This is what a canonicalizer is for.
        turn_from_disorder: the same for images whose pixels have changed places at random. Above chance, the choice
            sees by traces of the turn itself, such as corners or blur, that an image was turned.
        seconds: time for one image: "model", "canonicalizer", "together", "all members" (their outputs averaged). On a
            CPU it is time of the processor, all threads together. Empty if no time was taken.
        worst: the images that change most.
        features: where the features are from: the name of a module; None if there are none.
        notes: what a reader should know of how this was measured.
        classes: names of the classes, or None.
    """

    group: Group
    count: int
    exact: Sequence[bool]
    before: Views
    after: Views
    kept: Measured
    choices: Choices
    label_from_element: Told | None
    label_from_turned: Told | None
    turn_from_element: Told
    turn_from_disorder: Told
    seconds: dict[str, float]
    worst: Worst
    features: str | None
    notes: Sequence[str]
    classes: Sequence[str] | None = None

    @property
    def leaks(self) -> list[str]:
        """The names of those tests by which the choice tells the label, or traces of the turn, which it should not."""
        suspects = ("label_from_element", "label_from_turned", "turn_from_disorder")
        found = {name: getattr(self, name) for name in suspects}
        return [name for name, value in found.items() if value is not None and value.is_above_chance]
