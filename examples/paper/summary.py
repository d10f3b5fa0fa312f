"""Numbers of the stored results: means over seeds, gaps, ratios. Nothing here knows how they are shown."""

from __future__ import annotations

import math
import statistics
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from .plan import state
from .train import BATCH

Result = dict[str, Any]


@dataclass(frozen=True)
class Mean:
    """A mean over seeds or rounds, and the standard deviation of one (None for a single one)."""

    value: float
    deviation: float | None
    seeds: int

    @classmethod
    def of(cls, values: list[float]) -> Mean:
        return cls(statistics.fmean(values), statistics.stdev(values) if len(values) > 1 else None, len(values))


@dataclass(frozen=True)
class Cell:
    """All seeds of one method on one data set with one group."""

    data: str
    group: str
    method: str
    tuned: bool
    results: tuple[Result, ...]
    #: What the methods took with this group, in turn: None where they weren't timed.
    seconds: dict[str, dict[str, list[float]]] | None = None

    def mean(self, read: Callable[[Result], float | None]) -> Mean | None:
        """The mean of what `read` takes out of each result; None if it is None there."""
        values = [value for result in self.results if (value := read(result)) is not None]
        return Mean.of(values) if values else None

    def score(self, name: str) -> Mean | None:
        return self.mean(lambda result: result["scores"][self.group][name])

    def times(self, name: str) -> list[float] | None:
        """Seconds of a training step (``step``) or of inference for one image (``image``), by round."""
        return None if self.seconds is None else self.seconds[state(self.method, self.tuned)][name]

    @property
    def steps(self) -> int:
        """Steps of the training, without those of what it continues."""
        first = self.results[0]
        return first["epochs"] * math.ceil(first["training_images"] / BATCH)

    @property
    def angles(self) -> list[float]:
        """Accuracy at each element of the group, mean over seeds."""
        seeds = (result["scores"][self.group]["angles"] for result in self.results)
        return [statistics.fmean(at) for at in zip(*seeds, strict=True)]


#: Cells by data set, group, method and whether the classifier is tuned.
Found = dict[tuple[str, str, str, bool], Cell]


def cells(results: list[Result]) -> Found:
    """Runs by data set, group, method and whether the classifier is tuned; those of one cell by seed."""
    seconds = {result["group"]: result["seconds"] for result in results if result["kind"] == "times"}
    found: dict[tuple[str, str, str, bool], list[Result]] = {}
    for result in results:
        if result["kind"] == "run":
            for group in result["scores"]:
                found.setdefault((result["data"], group, result["method"], result["tuned"]), []).append(result)
    return {
        key: Cell(*key, tuple(sorted(some, key=lambda r: r["seed"])), seconds.get(key[1]))
        for key, some in found.items()
    }


def training_seconds(cell: Cell, found: Found) -> Mean | None:
    """The time of all steps beyond the upright classifier, those of a canonicalizer before its tuning included; for
    that classifier, its own. Each step takes what one took where the methods were timed in turn."""
    frozen = found.get((cell.data, cell.group, cell.method, False))
    parts = [cell, frozen] if cell.tuned and frozen is not None and cell.method != "vanilla" else [cell]
    steps = [part.times("step") for part in parts]
    if None in steps:
        return None
    totals = zip(*([part.steps * s for s in times] for part, times in zip(parts, steps, strict=True)), strict=True)
    return Mean.of([sum(each) for each in totals])


def ratio(one: Cell, other: Cell, name: str) -> Mean | None:
    """How many times as long one takes as another, round by round."""
    pair = one.times(name), other.times(name)
    if pair[0] is None or pair[1] is None:
        return None
    return Mean.of([a / b for a, b in zip(*pair, strict=True)])


def gap(cell: Cell, upright: Cell) -> float:
    """Points of accuracy that a cell's worst angle lies below the upright accuracy of the classifier alone."""
    score = upright.score("accuracy")
    assert score is not None
    return 100 * (score.value - min(cell.angles))


def paired(one: Cell, other: Cell, read: Callable[[Result], float]) -> Mean:
    """The difference of two cells, one − other, seed by seed."""
    theirs = {result["seed"]: read(result) for result in other.results}
    return Mean.of([read(result) - theirs[result["seed"]] for result in one.results if result["seed"] in theirs])


def seconds_to(curve: Result, contender: str, level: float) -> float | None:
    """Training time after which a contender's identity metric stays at `level` or above; None if it doesn't."""
    points = curve["contenders"][contender]
    reached = None
    for seconds, identity in zip(points["seconds"], points["identity"], strict=True):
        if identity < level:
            reached = None
        elif reached is None:
            reached = seconds
    return reached
