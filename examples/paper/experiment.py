"""Every run and every curve of a budget, each to its stored result; what has one is not run again."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import asdict
from typing import Any

import torch
from tqdm import tqdm

from benchmarks.harness import results

from . import curves, datasets, methods, networks, plan, times
from .evaluate import evaluate
from .plan import Budget, Curve, Run, Times
from .storage import Store
from .train import train


def everything(budget: Budget, store: Store, only: str = "") -> None:
    """Run what has no result yet; of that, with ``only``, what has an id that begins so."""
    loaded: dict[str, datasets.Split] = {}
    waiting = [item for item in plan.everything(budget) if item.id.startswith(only) and not store.has(item.id)]
    for item in tqdm(waiting, desc="all runs", ncols=100):
        if item.data not in loaded:
            loaded[item.data] = datasets.load(item.data, budget.train, budget.test)
        data = loaded[item.data]
        found = FOUND[type(item)](item, data, store)
        conditions = results.conditions(torch.device("cpu"), 1, budget.quick)
        store.write(item.id, {"id": item.id, "data": item.data, "seed": item.seed, **found, "conditions": conditions})


def of_run(run: Run, data: datasets.Split, store: Store) -> dict[str, Any]:
    """Train a run and measure its model."""
    model = train(run, data.train, data.train_labels, store)
    return {
        "kind": "run",
        "method": run.method,
        "group": run.group,
        "tuned": run.tuned,
        "epochs": run.epochs,
        "source": data.source,
        "training_images": len(data.train),
        "test_images": len(data.test),
        "parameters": networks.parameters(model),
        "trained_parameters": networks.parameters(methods.freeze(run, model), trained=True),
        "scores": {group: asdict(evaluate(model, data.test, data.test_labels, group)) for group in run.groups},
    }


def of_curve(curve: Curve, data: datasets.Split, store: Store) -> dict[str, Any]:
    found = curves.measure(curve, data.train, data.test)
    return {"kind": "curve", "group": curve.group, "source": data.source, "contenders": found}


def of_times(item: Times, data: datasets.Split, store: Store) -> dict[str, Any]:
    found = times.measure(item, data.train, data.train_labels)
    return {"kind": "times", "group": item.group, "source": data.source, "seconds": found}


#: How the result of each kind of item is found.
FOUND: dict[type, Callable[..., dict[str, Any]]] = {Run: of_run, Curve: of_curve, Times: of_times}
