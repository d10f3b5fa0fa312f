"""What a model, a canonicalizer and both together cost in time."""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable

import torch
from torch import Tensor


def seconds(runs: dict[str, Callable[[], object]], x: Tensor, rounds: int) -> dict[str, float]:
    """Median seconds of each run for one of the images x, by turns, after one round to warm up; {} for no rounds."""
    taken: dict[str, list[float]] = {name: [] for name in runs}
    for _ in range(rounds + 1 if rounds else 0):
        for name, run in runs.items():
            _wait(x)
            start = time.perf_counter()
            run()
            _wait(x)
            taken[name].append((time.perf_counter() - start) / len(x))
    return {name: statistics.median(values[1:]) for name, values in taken.items() if values}


def _wait(x: Tensor) -> None:
    if x.is_cuda:
        torch.cuda.synchronize(x.device)
