"""Numbers of the stored results: means over seeds, gaps, ratios. Nothing here knows how they are shown."""

from __future__ import annotations

import statistics
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

Result = dict[str, Any]


@dataclass(frozen=True)
class Mean:
    """A mean over seeds, and the standard deviation of one seed (None for a single one)."""

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

    def mean(self, read: Callable[[Result], float | None]) -> Mean | None:
        """The mean of what `read` takes out of each result; None if it is None there."""
        values = [value for result in self.results if (value := read(result)) is not None]
        return Mean.of(values) if values else None

    def score(self, name: str) -> Mean | None:
        return self.mean(lambda result: result["scores"][self.group][name])

    @property
    def angles(self) -> list[float]:
        """Accuracy at each element of the group, mean over seeds."""
        seeds = (result["scores"][self.group]["angles"] for result in self.results)
        return [statistics.fmean(at) for at in zip(*seeds, strict=True)]


def cells(results: list[Result]) -> dict[tuple[str, str, str, bool], Cell]:
    """Runs by data set, group, method and whether the classifier is tuned; those of one cell by seed."""
    found: dict[tuple[str, str, str, bool], list[Result]] = {}
    for result in results:
        if result["kind"] == "run":
            for group in result["scores"]:
                found.setdefault((result["data"], group, result["method"], result["tuned"]), []).append(result)
    return {key: Cell(*key, tuple(sorted(some, key=lambda r: r["seed"]))) for key, some in found.items()}


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
