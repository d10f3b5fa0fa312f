"""What a model, a canonicalizer and both together cost in time."""

from __future__ import annotations

import time
from collections.abc import Callable

import torch
from torch import Tensor


def seconds(runs: dict[str, Callable[[], object]], x: Tensor, rounds: int) -> dict[str, float]:
    """Median seconds of each run for one of the images x, by turns, after one round to warm up; {} for no rounds.

    For images on a CPU this is time of the processor, all threads together: what else runs there then hardly counts.
    """
    clock = time.process_time if x.device.type == "cpu" else time.perf_counter
    taken: dict[str, list[float]] = {name: [] for name in runs}
    for _ in range(rounds + 1 if rounds else 0):
        for name, run in runs.items():
            _wait(x)
            start = clock()
            run()
            _wait(x)
            taken[name].append((clock() - start) / len(x))
    rows = {
        name: torch.tensor(values[1:], dtype=torch.float64, device="cpu") for name, values in taken.items() if values
    }
    return {name: row.quantile(0.5).item() for name, row in rows.items()}


def _wait(x: Tensor) -> None:
    if x.is_cuda:
        torch.cuda.synchronize(x.device)
