"""Every run and every curve of a budget, each to its stored result; what has one is not run again."""

from __future__ import annotations

from dataclasses import asdict
from typing import Any

import torch
from tqdm import tqdm

from benchmarks.harness import results

from . import curves, datasets, methods, networks, plan
from .evaluate import evaluate, milliseconds
from .plan import Budget, Curve, Run
from .storage import Store
from .train import train


def everything(budget: Budget, store: Store, only: str = "") -> None:
    """Run what has no result yet; of that, with ``only``, what has this text in its id."""
    loaded: dict[str, datasets.Split] = {}
    waiting = [item for item in plan.everything(budget) if only in item.id and not store.has(item.id)]
    for item in tqdm(waiting, desc="all runs", ncols=100):
        if item.data not in loaded:
            loaded[item.data] = datasets.load(item.data, budget.train, budget.test)
        data = loaded[item.data]
        found = of_run(item, data, store) if isinstance(item, Run) else of_curve(item, data)
        conditions = results.conditions(torch.device("cpu"), 1, budget.quick)
        store.write(item.id, {"id": item.id, "data": item.data, "seed": item.seed, **found, "conditions": conditions})


def of_run(run: Run, data: datasets.Split, store: Store) -> dict[str, Any]:
    """Train a run and measure its model."""
    model, seconds = train(run, data.train, data.train_labels, store)
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
        "training_seconds": seconds + _seconds_before(run, store),
        "inference_ms": milliseconds(model, data.test),
        "scores": {group: asdict(evaluate(model, data.test, data.test_labels, group)) for group in run.groups},
    }


def of_curve(curve: Curve, data: datasets.Split) -> dict[str, Any]:
    found = curves.measure(curve, data.train, data.test)
    return {"kind": "curve", "group": curve.group, "source": data.source, "contenders": found}


def _seconds_before(run: Run, store: Store) -> float:
    """Training time of those that a run continues, without the upright classifier, which all share."""
    parent = run.parent
    if parent is None or parent.parent is None:
        return 0.0
    return store.load(parent.id)["seconds"] + _seconds_before(parent, store)
