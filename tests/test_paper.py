"""The experiments of `examples/paper` on made-up images: figures by hand, killed runs, a page that follows its data."""

from __future__ import annotations

import dataclasses
import importlib
import json
import signal
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch

import equifast

ROOT = Path(__file__).resolve().parents[1]
EXAMPLES = ROOT / "examples"

pytestmark = pytest.mark.skipif(not EXAMPLES.exists(), reason="needs the source tree")


@pytest.fixture
def paper(monkeypatch):
    """Imports a module of the experiments by name."""
    pytest.importorskip("matplotlib")
    monkeypatch.syspath_prepend(EXAMPLES)
    return lambda name: importlib.import_module(f"paper.{name}")


#: A process with a tiny budget on made-up images. It kills itself at a step of a run, if told which; it prints nothing.
PROCESS = """
import os, signal, sys
from pathlib import Path
import torch
from paper import datasets, experiment, methods, plan, train
from paper.storage import Store

folder, fatal, step = sys.argv[1:]
torch.set_num_threads(1)

def made_up(name, train, test):
    generator = torch.Generator().manual_seed(len(name))
    images = torch.rand(train + test, 1, 28, 28, generator=generator)
    labels = torch.randint(10, (train + test,), generator=generator)
    return datasets.Split(images[:train], labels[:train], images[train:], labels[train:], "made up")

calls = {}
def loss(run, *rest, loss=methods.loss):
    calls[run.id] = calls.get(run.id, 0) + 1
    if run.id == fatal and calls[run.id] == int(step):
        os.kill(os.getpid(), signal.SIGKILL)
    return loss(run, *rest)

datasets.load, methods.loss = made_up, loss
train.BATCH, plan.DATA, plan.GROUPS = 20, ("mnist",), ("C4",)
budget = plan.Budget("tiny", 60, 10, 1, 2, 2, 2, 0, ())
experiment.everything(budget, Store(budget.name, Path(folder)))
"""


def process(folder: Path, fatal: str = "", step: int = 0) -> int:
    """The exit status of such a process."""
    command = [sys.executable, "-c", PROCESS, str(folder), fatal, str(step)]
    environment = {"PYTHONPATH": f"{ROOT}:{EXAMPLES}", "PATH": "/usr/bin:/bin"}
    return subprocess.run(command, cwd=folder, env=environment, capture_output=True).returncode


#: What depends on the machine and not on the seed.
MEASURED = ("training_seconds", "inference_ms", "conditions")


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
    assert figures(killed) == figures(whole) and len(figures(whole)) == 2 + 5
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


def corner(x):
    """Two classes by the upper left pixel: probabilities (2/3, 1/3) where it is 1, (2/5, 3/5) where it is 0."""
    pixel = x[:, 0, 0, 0]
    return torch.stack((pixel * torch.tensor(3.0).log(), torch.full_like(pixel, 1.5).log()), 1)


def test_figures_of_a_tiny_case(paper):
    """An image whose class follows its corner, and an empty one; by hand."""
    images = torch.zeros(2, 1, 2, 2)
    images[0, 0, 0, 0] = 1
    form = SimpleNamespace(element=torch.tensor([0, 3]))
    scores = paper("evaluate").evaluate(lambda x: (corner(x), form), images, torch.tensor([0, 1]), "C4")
    assert scores.angles == [1.0, 0.5, 0.5, 0.5]
    assert scores.accuracy == 1.0
    assert scores.group_accuracy == 0.625
    assert scores.identity == 0.5
    # each of three turns moves 2/3 − 2/5 of the first image's probability, and nothing of the second's
    assert scores.error == pytest.approx((2 / 3 - 2 / 5) / 2, abs=1e-6)
    alone = paper("evaluate").evaluate(lambda x: (corner(x), None), images, torch.tensor([0, 1]), "C4")
    assert alone == dataclasses.replace(scores, identity=None)


@pytest.mark.parametrize("group", ["C4", "D4"])
@pytest.mark.parametrize("method", ["equiadapt", "equioptadapt"])
def test_exact_groups_leave_no_error(paper, group, method):
    """Whatever the networks are: a canonicalized classifier is the same at every angle, to the last bit."""
    torch.manual_seed(0)
    methods = paper("methods")
    model = methods.Model(methods.METHODS[method], group).eval()
    scores = paper("evaluate").evaluate(model, torch.rand(20, 1, 28, 28), torch.arange(20) % 10, group)
    assert scores.error == 0 and len(set(scores.angles)) == 1 and 0 <= scores.identity <= 1


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
        before, _ = train.train(upright, images, labels, store)
        after, _ = train.train(run, images, (labels + shift) % 10, store)
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
    before, _ = train.train(parent, images, labels, store)
    if method != "augmentation":
        parent = plan.Run("mnist", method, 0, 1, "C4", parent=parent)
        train.train(parent, images, labels, store)
    after, _ = train.train(plan.Run("mnist", method, 0, 1, "C4", tuned=True, parent=parent), images, labels, store)
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


def test_augmentation_moves_by_every_element(paper):
    torch.manual_seed(0)
    x = torch.rand(1, 1, 5, 5).expand(200, 1, 5, 5)
    moved, element = paper("methods").moved(x, "D4")
    assert torch.equal(equifast.act(moved, element, group="D4", inverse=True), x)
    assert torch.equal(torch.bincount(element, minlength=8).ge(10), torch.ones(8, dtype=torch.bool))


@pytest.mark.parametrize("group", ["C4", "D4"])
def test_moved_images_change_nothing_for_exact_groups(paper, group):
    """The orbit of a moved image is that of the image, so the prior asks for the same member."""
    torch.manual_seed(0)
    methods = paper("methods")
    canonicalizer = methods.METHODS["moved"].canonicalizer(group)
    x = torch.rand(20, 1, 28, 28)
    moved, element = methods.moved(x, group)
    losses = [canonicalizer.eval()(x).prior_loss(), canonicalizer(moved).prior_loss(element)]
    torch.testing.assert_close(*losses)


def test_an_identity_metric_is_reached_where_it_stays(paper):
    points = {"seconds": [0.0, 1.0, 2.0, 3.0, 4.0], "identity": [0.2, 0.6, 0.5, 0.7, 0.9]}
    curve = {"contenders": {"ours": points}}
    reached = {level: paper("summary").seconds_to(curve, "ours", level) for level in (0.1, 0.5, 0.6, 0.8, 0.95)}
    assert reached == {0.1: 0.0, 0.5: 1.0, 0.6: 3.0, 0.8: 4.0, 0.95: None}


def test_contenders_of_a_curve_see_the_same_batches(paper, monkeypatch):
    curves, plan = paper("curves"), paper("plan")
    seen: dict[str, list] = {}

    class Watcher(torch.nn.Module):
        def __init__(self, package):
            super().__init__()
            self.package, self.weight = package, torch.nn.Parameter(torch.zeros(()))

        def loss(self, x):
            seen.setdefault(self.package, []).append(x.sum().item())
            return (self.weight - 1) ** 2

        def identity(self, x):
            assert not self.training
            return self.weight.detach()

    def missing(method, group):
        raise curves.published.Unavailable("not installed here")

    makers = {"equifast": lambda *_: Watcher("a"), "equiadapt": lambda *_: Watcher("b"), "third": missing}
    monkeypatch.setattr(curves, "PACKAGES", makers)
    found = curves.measure(plan.Curve("mnist", "C4", 0, 6), torch.rand(50, 1, 28, 28), torch.rand(5, 1, 28, 28))
    assert seen["a"] == seen["b"] and len(seen["a"]) == 2 * 6
    assert found["EquiAdapt, third"] == {"missing": "not installed here"}
    points = found["EquiOptAdapt, equifast"]
    assert points["steps"] == [0, 4, 6] and points["seconds"] == sorted(points["seconds"])
    assert points["identity"] == sorted(points["identity"]) and points["identity"][0] == 0


def result(data, method, tuned, seed, accuracy, group="C4", **more):
    """A stored result whose accuracy falls by one point at each further element."""
    order = equifast.as_group(group).order
    angles = [accuracy - 0.01 * e for e in range(order)]
    scores = {"angles": angles, "accuracy": accuracy, "group_accuracy": sum(angles) / order, "error": 0.125}
    scores["identity"] = None if method in ("vanilla", "augmentation") else 0.75
    conditions = {"device": "a processor", "threads": 2, "cores": 2, "backend": "cpu", "commit": "abc", "quick": False}
    return {
        "kind": "run", "id": f"{data}-{method}-{tuned}-{seed}", "data": data, "method": method, "group": group,
        "tuned": tuned, "seed": seed, "source": "made up", "training_images": 1000, "test_images": 10,
        "parameters": 12345, "training_seconds": 10.0, "inference_ms": 0.5, "scores": {group: scores},
        "conditions": conditions | {"packages": {"torch": "2"}, "date": "2026-11-30"}, **more,
    }  # fmt: skip


def test_the_page_has_means_deviations_and_gaps(paper):
    page = paper("report").page(
        [result("mnist", "vanilla", False, seed, 0.97 + 0.01 * seed) for seed in range(3)]
        + [result("mnist", "equioptadapt", False, seed, 0.99 + 0.01 * seed) for seed in (0, 1)]
        + [result("mnist", "equiadapt", False, seed, 0.98 + 0.01 * seed, training_seconds=25.0) for seed in (0, 1)]
    )
    lines = page.splitlines()
    row = "| vanilla | frozen | 98.00 ± 1.00 | 96.50 ± 1.00 | – | 0.1250 ± 0.0000 | 12,345 "
    assert row + "| 10 ± 0 s | 0.500 ± 0.000 ms |" in lines
    assert "| EquiOptAdapt | frozen | 99.50 ± 0.71 | 98.00 ± 0.71 | 0.750 ± 0.000 |" in page
    # Three points lie between the first angle and the last, which is where the gap to 98.00 is taken.
    gaps = next(line for line in lines if line.startswith("| MNIST, C4 |")).split(" | ")
    assert gaps[1:] == ["3.00", "–", "2.50", "–", "1.50", "–", "–", "– |"]
    assert "* MNIST, C4, frozen: +1.00 ± 0.00 points" in lines
    assert "* MNIST, C4: training 2.50×, inference 1.00×" in lines
    assert "quick" not in page


def test_the_page_says_that_a_run_was_quick(paper):
    quick = result("mnist", "vanilla", False, 0, 0.9)
    quick["conditions"]["quick"] = True
    assert "**A quick run on 1,000 + 10 images" in paper("report").page([quick])


def curve(seed, theirs):
    names = ("EquiAdapt, equifast", "EquiAdapt, equiadapt", "EquiOptAdapt, equifast", "EquiOptAdapt, equiadapt")
    made = {name: {"steps": [0, 10], "seconds": [0.0, 1.0], "identity": [0.3, 0.96]} for name in names}
    made["EquiOptAdapt, equiadapt"] = theirs
    return result("mnist", "curve", False, seed, 1.0) | {"kind": "curve", "contenders": made, "group": "C4"}


def test_the_page_tells_what_was_reached_beside_the_published_package(paper):
    theirs = {"steps": [0, 10], "seconds": [0.0, 4.0], "identity": [0.3, 0.85]}
    page = paper("report").page([curve(0, theirs), curve(1, theirs)])
    assert "* EquiOptAdapt, MNIST, C4: a step takes 0.25 of its time: reached" in page
    assert "* EquiAdapt, MNIST, C4: a step takes 1.00 of its time: **not reached**" in page
    assert "| EquiOptAdapt, equiadapt | 400 ms | 0.850 | 4.0 s | 4.0 s | not reached | not reached |" in page
    absent = paper("report").page([curve(0, {"missing": "no module"})])
    assert "| EquiOptAdapt, equiadapt | – | – | – | – | – | – | not installed |" in absent
    assert "EquiOptAdapt, MNIST, C4: equiadapt is not installed" in absent


def test_report_writes_page_and_small_plots(paper, tmp_path):
    theirs = {"steps": [0, 10], "seconds": [0.0, 4.0], "identity": [0.3, 0.85]}
    runs = [result("mnist", method, False, 0, 0.9) for method in ("vanilla", "equioptadapt")]
    paper("report").write([*runs, curve(0, theirs)], tmp_path)
    page = (tmp_path / "does_it_work.md").read_text()
    for name in ("accuracy_by_angle.png", "identity_over_time.png"):
        assert f"]({name})" in page and 1000 < (tmp_path / name).stat().st_size < 200_000


def test_the_published_page_is_that_of_the_stored_results(paper):
    report = paper("report")
    assert (report.DOCS / report.PAGE).read_text() == report.page(report.published())
