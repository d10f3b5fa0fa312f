"""Shares of images with the interval that their number allows, and what a chosen element tells, against chance."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

#: Standard deviations to either side of an interval of 95 %.
Z = 1.959964

#: Parts of a cross-validation.
FOLDS = 5

#: Orders of the targets that a permutation test tries. The least p-value is 1 / (PERMUTATIONS + 1).
PERMUTATIONS = 999

#: A choice is said to tell something if none of the permutations does as well. A diagnosis has three such tests, so of
#: a thousand choices that tell nothing three are accused.
LEVEL = 0.001


@dataclass(eq=False)
class Measured:
    """Means over images, and the 95 % intervals of what they would be over many such images.

    Attributes:
        mean, low, high: float64, all of one shape: (E,), one for each element, or () for a single figure. NaN where no
            image counts.
    """

    mean: Tensor
    low: Tensor
    high: Tensor

    def to_dict(self) -> dict[str, object]:
        """Lists of numbers, with None for NaN."""
        return {name: plain(getattr(self, name)) for name in ("mean", "low", "high")}


def plain(values: Tensor) -> object:
    """A tensor as nested lists or as a number, with None for what isn't finite, which JSON has no word for."""

    def finite(value: object) -> object:
        if isinstance(value, list):
            return [finite(v) for v in value]
        return None if isinstance(value, float) and not abs(value) < float("inf") else value

    return finite(values.tolist())


def shares(values: Tensor) -> Measured:
    """Means of answers that are yes or no, or shares of such, (N, …) → (…), with Wilson's intervals.

    Values are bool, or numbers in [0, 1], of which those that are NaN are left out. For numbers between 0 and 1 the
    intervals are too wide, never too narrow: of all values of a mean, 0 and 1 deviate most from it.

    Source: E. B. Wilson, Probable inference, the law of succession, and statistical inference, 1927.
    """
    wide = values.double()
    n = (~wide.isnan()).sum(0)
    mean = wide.nanmean(0)
    centre = (mean + Z * Z / (2 * n)) / (1 + Z * Z / n)
    half = Z / (1 + Z * Z / n) * (mean * (1 - mean) / n + Z * Z / (4 * n * n)).clamp(min=0).sqrt()
    # The bounds of the shares 0 and 1 are these themselves, which rounding must not change.
    low = torch.where(mean == 0, mean, (centre - half).clamp(min=0))
    high = torch.where(mean == 1, mean, (centre + half).clamp(max=1))
    return Measured(mean, low, high)


def means(values: Tensor) -> Measured:
    """Means of numbers in [0, 1], (N, …) → (…), with Student's intervals; [0, 1] for less than six images.

    The quantile of Student's distribution is expanded about that of the normal one, which is within 1 % from five
    degrees of freedom on (M. Abramowitz and I. Stegun, Handbook of mathematical functions, 26.7.5).
    """
    wide = values.double()
    freedom = len(wide) - 1
    mean = wide.mean(0)
    if freedom < 5:
        return Measured(mean, torch.zeros_like(mean), torch.ones_like(mean))
    quantile = Z + (Z**3 + Z) / (4 * freedom) + (5 * Z**5 + 16 * Z**3 + 3 * Z) / (96 * freedom**2)
    half = quantile * wide.std(0) / len(wide) ** 0.5
    return Measured(mean, (mean - half).clamp(min=0), (mean + half).clamp(max=1))


@dataclass(eq=False)
class Told:
    """How well the chosen element alone predicts something about its image, cross-validated.

    Attributes:
        accuracy: share of images for which the commonest target of the same element, among other images, is right.
        chance: share of the commonest target, which needs no element to be guessed.
        p_value: share of random orders of the targets whose accuracy is as high, with this order among them.
        count, kinds: the number of images, and of different targets among them.
    """

    accuracy: Measured
    chance: float
    p_value: float
    count: int
    kinds: int

    @property
    def is_above_chance(self) -> bool:
        """Whether the element tells something; then no random order does as well, and the interval is above chance."""
        return self.p_value <= LEVEL and self.accuracy.low.item() > self.chance

    def to_dict(self) -> dict[str, object]:
        """What JSON can hold."""
        return {
            "accuracy": self.accuracy.to_dict(),
            "chance": self.chance,
            "p_value": self.p_value,
            "count": self.count,
            "kinds": self.kinds,
            "is_above_chance": self.is_above_chance,
        }


def told(element: Tensor, target: Tensor, order: int, generator: torch.Generator) -> Told:
    """What elements (N,) of a group of that order tell of targets (N,), both int64 on the CPU; N is at least 1.

    Equivalent to: for each of `FOLDS` parts, count the targets of each element among the other images, and predict the
    most frequent one; of all elements, where there is none of this one.
    """
    count = len(target)
    classes, target = target.unique(return_inverse=True)
    fold = torch.randperm(count, generator=generator, device="cpu") % FOLDS
    rows = fold * order + element

    def right(target: Tensor) -> Tensor:
        kinds = len(classes)
        counts = torch.bincount(rows * kinds + target, minlength=FOLDS * order * kinds).view(FOLDS, order, kinds)
        others = counts.sum(0) - counts
        common = others.sum(1, keepdim=True).argmax(2)  # (FOLDS, 1)
        best = torch.where(others.sum(2) > 0, others.argmax(2), common)
        return best.flatten()[rows] == target

    found = right(target)
    as_good = sum(
        bool(right(target[torch.randperm(count, generator=generator, device="cpu")]).sum() >= found.sum())
        for _ in range(PERMUTATIONS)
    )
    chance = torch.bincount(target).max().item() / count
    return Told(shares(found), chance, (1 + as_good) / (1 + PERMUTATIONS), count, len(classes))
