"""What the aerial example found: a table, the sentences that follow from it, and a picture."""

import math
import statistics
from collections.abc import Callable
from pathlib import Path

import matplotlib
import torch

matplotlib.use("Agg")

import matplotlib.pyplot as plt
import published
from crops import VIEWS, Windows

PICTURE = Path("pictures/aerial.png")
ABROAD = "Florida"  # no other photograph shows such a forest, so nothing of it can be learned from the others
NOTE = """\
Accuracy in percent on a photograph that was left out of training, by the angle of the camera, and its mean over all
angles; ± is the standard deviation over several seeds. But for its own column, Florida is left out of the figures: no
other photograph shows such a forest, so that nothing of it can be learned from them. Spread: by how much the
probability of a tree differs between views of one window, on average, over quarter turns and over all eight views.
Seconds: CPU time to train on two photographs.\
"""
CHOICES = """\
Which elements a canonicalizer chooses: entropy of their shares in percent of that of equal shares, the share of
elements that interpolate (half of C8 does, quarter turns don't), and how often the element alone tells trees from none
(50 % is chance). *Stored*: windows as they are in the photograph; *turned*: each window turned by a random angle.\
"""


def text(results: dict) -> str:
    """All of it in Markdown."""
    counts = ", ".join(f"{name} ({number} trees)" for name, number in results["trees"].items())
    parts = [
        f"Photographs: {counts}, with as many windows beside the trees. {results['epochs']} epochs, "
        f"seeds {', '.join(map(str, _seeds(results)))}, {results['threads']} threads.",
        _accuracies(results),
        NOTE,
        _choices(results),
        CHOICES,
        findings(results),
    ]
    return "\n\n".join(parts)


def _seeds(results: dict) -> list[int]:
    return sorted({run["seed"] for run in results["runs"]})


def methods(results: dict) -> list[str]:
    """Names of methods in the order in which they ran."""
    return list(dict.fromkeys(run["method"] for run in results["runs"]))


def mean(results: dict, method: str, key: Callable[[dict], float], **where: object) -> float:
    """Mean over runs of a method of what ``key`` makes of each; ``where``: values that these runs have.

    Runs that were tested abroad count only where there are no others.
    """
    runs = [run for run in results["runs"] if run["method"] == method and where.items() <= run.items()]
    at_home = [run for run in runs if run["test"] != ABROAD]
    return statistics.fmean(key(run) for run in at_home or runs)


def deviation(results: dict, method: str, key: Callable[[dict], float]) -> float:
    """Standard deviation over the seeds of the mean over photographs."""
    means = [mean(results, method, key, seed=seed) for seed in _seeds(results)]
    return statistics.stdev(means)


def stored(run: dict) -> float:
    """Accuracy at the angle of the photograph."""
    return run["accuracy"][0]


def turned(run: dict) -> float:
    """Mean accuracy over all angles."""
    return statistics.fmean(run["accuracy"])


def _accuracies(results: dict) -> str:
    head = ["", *(f"{angle}°" for angle in VIEWS), "mean", *results["trees"], "spread C4", "C8", "seconds"]
    rows = []
    for method in methods(results):
        row = [f"{mean(results, method, lambda run, i=i: run['accuracy'][i]):.1f}" for i in range(len(VIEWS))]
        spread = f" ± {deviation(results, method, turned):.1f}" if len(_seeds(results)) > 1 else ""
        row += [f"{mean(results, method, turned):.1f}{spread}"]
        row += [f"{mean(results, method, turned, test=name):.1f}" for name in results["trees"]]
        row += [f"{mean(results, method, lambda run, i=i: run['spread'][i]):.3f}" for i in range(2)]
        rows.append([method, *row, f"{mean(results, method, lambda run: run['seconds']):.1f}"])
    return published.table(head, rows)


def entropy(shares: list[float]) -> float:
    """Entropy of shares in percent of that of equal ones."""
    total = sum(shares)
    return -100 * sum(s / total * math.log(s / total) for s in shares if s) / math.log(len(shares))


def _choices(results: dict) -> str:
    rows = []
    for method in (m for m in methods(results) if m.startswith("canonicalizer")):
        row = [f"{mean(results, method, lambda run, k=k: entropy(run[k])):.1f}" for k in ("stored", "turned")]
        row += [f"{mean(results, method, interpolated):.1f}"]
        row += [f"{mean(results, method, lambda run, k=k: run[k]):.1f}" for k in ("stored_leak", "turned_leak")]
        rows.append([method, *row])
    return published.table(
        ["", "entropy, stored", "turned", "interpolated", "label from element, stored", "turned"], rows
    )


def interpolated(run: dict) -> float:
    """Share in percent of the chosen elements that are no quarter turn, over all turns of the windows."""
    shares = run["turned"]
    return sum(share for e, share in enumerate(shares) if 4 * e % len(shares))


def findings(results: dict) -> str:
    """Sentences, each computed from the table."""
    gain = {method: mean(results, method, turned) for method in methods(results)}
    best = max(gain, key=lambda method: gain[method])
    plain, learned, fixed, random = "plain", "canonicalizer C8, trained", "canonicalizer C8, random", "random C8 turns"
    upright = {method: mean(results, method, stored) for method in methods(results)}
    sun, smooth = upright[plain] - gain[plain], mean(results, learned, interpolated)
    spread = [mean(results, method, lambda run: run["spread"][0]) for method in (learned, random)]
    leaks = [mean(results, learned, lambda run, k=k: run[f"{k}_leak"]) for k in ("turned", "stored")]
    lines = [
        f"* The plain network loses {sun:.1f} points from the angle of the photographs to the mean of all angles."
        if sun > 0
        else f"* The plain network loses nothing by turns: {-sun:.1f} points better over all angles than as stored.",
        f"* Where nothing is turned, at 0°: {_against(upright[random], upright[plain], random, plain)}",
        f"* The highest mean is that of *{best}*, {gain[best]:.1f} %; "
        f"{_against(gain[learned], gain[random], learned, random)}",
        f"* A choice that is trained and a random one: {_against(gain[learned], gain[fixed], learned, fixed)}",
        f"* *{learned}* chooses an element that interpolates for {smooth:.0f} % of the windows, where half would "
        "be no preference: without a prior, how smooth a window is may decide.",
        f"* Quarter turns change outputs of *{learned}* by {spread[0]:.3f}, those of *{random}* by {spread[1]:.3f}: "
        "the first is equivariant by construction, the second only learns to be.",
        f"* The element that *{learned}* chooses tells trees from none in {leaks[0]:.1f} % of turned windows, and in "
        f"{leaks[1]:.1f} % of stored ones.",
    ]
    return "\n".join(lines)


def _against(a: float, b: float, first: str, second: str) -> str:
    if abs(a - b) < 1:
        return f"*{first}* and *{second}* are within a point of each other ({a:.1f} and {b:.1f} %)."
    return f"*{first}* is {abs(a - b):.1f} points {'above' if a > b else 'below'} *{second}* ({a:.1f} and {b:.1f} %)."


@torch.inference_mode()
def draw(results: dict, canonicalizer, windows: Windows, path: Path = PICTURE) -> None:
    """Accuracy by angle, shares of the chosen elements, and windows before and after."""
    figure = plt.figure(figsize=(15, 8), layout="constrained")
    left, right = figure.subfigures(1, 2, width_ratios=(1.2, 1))
    axes = left.subplots()
    for method in methods(results):
        axes.plot(
            VIEWS, [mean(results, method, lambda run, i=i: run["accuracy"][i]) for i in range(len(VIEWS))], label=method
        )
    axes.set(
        xlabel="angle of the camera (degrees)", ylabel="accuracy (%)", xticks=VIEWS, title="On the photograph left out"
    )
    axes.legend(fontsize=8)
    upper, lower = right.subfigures(2, 1)
    pies = upper.subplots(1, 2, subplot_kw={"projection": "polar"})
    for pie, key, title in zip(pies, ("stored", "turned"), ("as stored", "turned at random"), strict=True):
        runs = [run[key] for run in results["runs"] if run["method"] == "canonicalizer C8, trained"]
        shares = torch.tensor(runs).mean(0)
        pie.bar(torch.arange(len(shares)) * 2 * math.pi / len(shares), shares, width=0.7)
        pie.set_title(f"chosen elements, {title} (%)", fontsize=10)
    pick = torch.linspace(0, len(windows.labels) - 1, 6).long()
    images = windows.images[0, pick]
    pixels = torch.stack([images, canonicalizer(images).image]).mul(0.25).add(0.5).clamp(0, 1)
    for row, (name, some) in enumerate(zip(("stored", "canonical"), pixels, strict=True)):
        for column, picture in enumerate(some):
            cell = lower.add_subplot(2, 6, row * 6 + column + 1)
            cell.imshow(picture.permute(1, 2, 0).numpy())
            cell.set(xticks=[], yticks=[], ylabel=name if column == 0 else "")
    path.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path, dpi=100)
    plt.close(figure)
