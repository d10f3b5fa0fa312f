"""Runs of `examples/paper` on made-up images: killed ones end like others, and train what they say."""

from __future__ import annotations

import importlib
import json
import os
import signal
import sys
from collections import Counter
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch

from ..distributed.processes import context
from .conftest import EXAMPLES


def run_everything(folder: Path, fatal: str, step: int) -> None:
    """All runs of a tiny budget on made-up images, in a process that kills itself at a step of a run, if told which."""
    os.chdir(folder)
    os.dup2(os.open(os.devnull, os.O_WRONLY), 1)
    sys.path.insert(0, str(EXAMPLES))
    datasets, experiment, methods, plan, storage, train = (
        importlib.import_module(f"paper.{name}")
        for name in ("datasets", "experiment", "methods", "plan", "storage", "train")
    )
    torch.set_num_threads(1)
    calls, loss = Counter(), methods.loss

    def made_up(name, train, test):
        generator = torch.Generator().manual_seed(len(name))
        images = torch.rand(train + test, 1, 28, 28, generator=generator)
        labels = torch.randint(10, (train + test,), generator=generator)
        return datasets.Split(images[:train], labels[:train], images[train:], labels[train:], "made up")

    def fatal_loss(run, *rest):
        calls[run.id] += 1
        if run.id == fatal and calls[run.id] == step:
            os.kill(os.getpid(), signal.SIGKILL)
        return loss(run, *rest)

    datasets.load, methods.loss = made_up, fatal_loss
    train.BATCH, plan.DATA, plan.GROUPS = 20, ("mnist",), ("C4",)
    budget = plan.Budget("tiny", 60, 10, 1, 2, 2, 2, 0, (), 1)
    experiment.everything(budget, storage.Store(budget.name, folder))


def process(folder: Path, fatal: str = "", step: int = 0) -> int:
    """The exit status of such a process."""
    started = context.Process(target=run_everything, args=(folder, fatal, step))
    started.start()
    started.join()
    return started.exitcode


#: What depends on the machine and not on the seed.
MEASURED = ("seconds", "conditions")


def figures(folder: Path) -> dict[str, dict]:
    """The stored results without what was timed."""
    found = (json.loads(path.read_text()) for path in folder.glob("results/tiny/*.json"))
    return {result["id"]: {k: v for k, v in result.items() if k not in MEASURED} for result in found}


@pytest.mark.slow
def test_killed_runs_end_like_one_that_was_not(paper, tmp_path):
    """Killed before a checkpoint and after one, in several runs: weights and figures are the same bit by bit."""
    whole, killed = tmp_path / "whole", tmp_path / "killed"
    whole.mkdir()
    killed.mkdir()
    assert process(whole) == 0
    steps = {"mnist-vanilla-seed0": 2, "mnist-augmentation-C4-tuned-seed0": 5, "mnist-equioptadapt-C4-tuned-seed0": 6}
    for fatal, step in steps.items():  # of three in each epoch
        assert process(killed, fatal, step) == -signal.SIGKILL
        assert fatal not in figures(killed)
    assert process(killed) == 0
    assert figures(killed) == figures(whole) and len(figures(whole)) == 2 + 5 + 1
    for path in whole.glob("checkpoints/tiny/*.pt"):
        one, other = (torch.load(folder / path.relative_to(whole), weights_only=True) for folder in (whole, killed))
        assert one["epochs"] == other["epochs"] and one["model"].keys() == other["model"].keys()
        assert all(torch.equal(one["model"][name], other["model"][name]) for name in one["model"])
    assert not list(tmp_path.rglob("*.unfinished"))


def test_data_sets_are_cut_to_the_budget(paper, monkeypatch):
    """From what `examples/data` has, with the labels of the images that are taken."""
    parts = [torch.rand(6, 1, 28, 28), torch.arange(6), torch.rand(4, 1, 28, 28), torch.arange(4)]
    whole = SimpleNamespace(train=parts[0], train_labels=parts[1], test=parts[2], test_labels=parts[3], source="here")
    monkeypatch.setitem(sys.modules, "data", SimpleNamespace(fashion=lambda: whole, digits=lambda: None))
    split = paper("datasets").load("fashion", 5, 3)
    expected = (parts[0][:5], parts[1][:5], parts[2][:3], parts[3][:3])
    assert all(torch.equal(one, other) for one, other in zip(split[:4], expected, strict=True))
    assert split.source == "here"


def test_runs_come_after_their_parents_and_have_names_of_their_own(paper):
    plan = paper("plan")
    for budget in (plan.FULL, plan.QUICK):
        seen = set()
        for run in plan.runs(budget):
            assert run.parent is None or run.parent.id in seen
            assert run.id not in seen
            seen.add(run.id)
        # Vanilla with and without tuning; for each group augmentation, and each method with and without tuning.
        cells = 2 + len(plan.GROUPS) * 5 + len(plan.INTERPOLATED) * 2
        assert len(seen) == budget.seeds * len(plan.DATA) * cells
        assert not seen & {curve.id for curve in plan.curves(budget)}


@pytest.mark.parametrize("method", ["equiadapt", "equioptadapt", "moved"])
def test_a_frozen_classifier_stays_and_labels_are_not_read(paper, tmp_path, monkeypatch, method):
    plan, storage, train = paper("plan"), paper("storage"), paper("train")
    monkeypatch.setattr(train, "BATCH", 10)
    images, labels = torch.rand(40, 1, 28, 28), torch.arange(40) % 10
    upright = plan.Run("mnist", "vanilla", 0, 1)
    run = plan.Run("mnist", method, 0, 1, "C4", parent=upright)
    weights = []
    for number, shift in enumerate((0, 3)):
        store = storage.Store("tiny", tmp_path / str(number))
        before = train.train(upright, images, labels, store)
        after = train.train(run, images, (labels + shift) % 10, store)
        for name, value in before.classifier.state_dict().items():
            assert torch.equal(value, after.classifier.state_dict()[name])
        weights.append(after.canonicalizer.state_dict())
    assert all(torch.equal(weights[0][name], weights[1][name]) for name in weights[0])
    untrained = paper("methods").model(run).canonicalizer.state_dict()
    assert any(not torch.equal(weights[0][name], untrained[name]) for name in untrained)


@pytest.mark.parametrize("method", ["augmentation", "equiadapt", "equioptadapt"])
def test_tuning_trains_the_classifier(paper, tmp_path, monkeypatch, method):
    plan, storage, train = paper("plan"), paper("storage"), paper("train")
    monkeypatch.setattr(train, "BATCH", 10)
    images, labels = torch.rand(40, 1, 28, 28), torch.arange(40) % 10
    store = storage.Store("tiny", tmp_path)
    parent = plan.Run("mnist", "vanilla", 0, 1)
    before = train.train(parent, images, labels, store)
    if method != "augmentation":
        parent = plan.Run("mnist", method, 0, 1, "C4", parent=parent)
        train.train(parent, images, labels, store)
    after = train.train(plan.Run("mnist", method, 0, 1, "C4", tuned=True, parent=parent), images, labels, store)
    pairs = zip(before.classifier.parameters(), after.classifier.parameters(), strict=True)
    assert all(not torch.equal(one, other) for one, other in pairs)


def test_a_run_needs_its_parent(paper, tmp_path):
    plan, store = paper("plan"), paper("storage").Store("tiny", tmp_path)
    upright = plan.Run("mnist", "vanilla", 0, 2)
    run = plan.Run("mnist", "augmentation", 0, 1, "C4", tuned=True, parent=upright)
    with pytest.raises(RuntimeError, match="mnist-vanilla-seed0: expected a finished checkpoint"):
        paper("train").train(run, torch.rand(4, 1, 28, 28), torch.arange(4), store)


def test_a_checkpoint_of_another_budget_is_refused(paper, tmp_path):
    run, store = paper("plan").Run("mnist", "vanilla", 0, 1), paper("storage").Store("tiny", tmp_path)
    images, labels = torch.rand(20, 1, 28, 28), torch.arange(20) % 10
    paper("train").train(run, images, labels, store)
    with pytest.raises(RuntimeError, match="expected a checkpoint of .*; delete "):
        paper("train").train(run, images[:10], labels[:10], store)
