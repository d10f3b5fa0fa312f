"""What a training step takes, and inference: of all methods with one group, in turn within each round."""

from __future__ import annotations

import time
from collections.abc import Callable

import torch
from torch import Tensor
from tqdm import tqdm

from . import methods, plan
from .plan import Run, Times, state
from .train import BATCH, seed_of

#: Calls that are timed in each turn, after one that isn't.
CALLS = 3

Seconds = dict[str, dict[str, list[float]]]


def measure(times: Times, images: Tensor, labels: Tensor) -> Seconds:
    """Time untrained models on the first images (N, 1, 28, 28) with labels (N,).

    Returns:
        For each method, as `plan.state` names it: ``step``, seconds of a training step of `BATCH` images, and
        ``image``, seconds of inference for one image of such a batch; a mean over `CALLS` for each round.
    """
    x, y = images[:BATCH], labels[:BATCH]
    calls = {state(run.method, run.tuned): _calls(run, x, y) for run in plan.kinds(times.group)}
    found: Seconds = {name: {"step": [], "image": []} for name in calls}
    for _ in tqdm(range(times.rounds), desc=times.id, leave=False, ncols=100):
        for name, (step, infer) in calls.items():
            found[name]["step"].append(_seconds(step))
            found[name]["image"].append(_seconds(infer) / len(x))
    return found


def _calls(run: Run, x: Tensor, y: Tensor) -> tuple[Callable[[], object], Callable[[], object]]:
    """A training step of a method, and its inference."""
    torch.manual_seed(seed_of(run.id, "times"))
    model = methods.model(run)
    optimizer = torch.optim.AdamW(methods.rates(run, model))

    def step() -> None:
        model.train()
        optimizer.zero_grad()
        methods.loss(run, model, x, y).backward()
        optimizer.step()

    @torch.inference_mode()
    def infer() -> None:
        model.eval()(x)

    return step, infer


def _seconds(call: Callable[[], object]) -> float:
    call()
    start = time.perf_counter()
    for _ in range(CALLS):
        call()
    return (time.perf_counter() - start) / CALLS
