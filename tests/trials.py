"""What tests of the benchmarks time: tiny settings, a trial of contenders, and times as a run would have found them."""

from __future__ import annotations

import torch

from benchmarks.harness.measure import Case, Contender, Options, largest_difference, run
from benchmarks.harness.settings import GROUPS, Setting
from benchmarks.harness.timings import Timings

CPU = torch.device("cpu")
TINY = {group: Setting(group, batch=3, size=40, resize=32, layers=2, vector=16) for group in GROUPS}
OPTIONS = Options(CPU, rounds=2, quick=True)


def numbers(generator: torch.Generator) -> tuple[torch.Tensor]:
    return (torch.rand(4, generator=generator),)


def trial(*entries: Contender, rounds: int = 3, inputs=numbers) -> Timings:
    def compare(got, expected, name):
        return largest_difference(got, expected, 1e-6)

    case = Case("trial", Setting("C4"), inputs, list(entries), "eager", compare)
    return run(case, Options(CPU, rounds))


def some_timings() -> Timings:
    """Two rounds of the contenders of `canonicalize`."""
    times = {
        "equiadapt": [90.0, 100.0],
        "eager": [20.0, 22.0],
        "compile": [15.0, 17.0],
        "limit": [5.0, 5.0],
        "floor": [8.0, 8.0],
    }
    return Timings(times | {"equifast-cpu": [10.0, 10.0]}, {"other": "no such thing"})
