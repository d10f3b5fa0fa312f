"""The plots of the page, as small PNG files."""

from __future__ import annotations

from pathlib import Path

import matplotlib

matplotlib.use("Agg")
import matplotlib.pyplot as plt

from equifast import as_group

from . import methods
from .plan import DATA, GROUPS, MOVED
from .summary import Cell, Result

TITLES = {"mnist": "MNIST", "fashion": "Fashion-MNIST"}
COLORS = {"vanilla": "#999999", "augmentation": "#e69f00", "equiadapt": "#56b4e9", "equioptadapt": "#0072b2"}
COLORS[MOVED] = "#d55e00"
MARKERS = {"vanilla": "o", "augmentation": "s", "equiadapt": "x", "equioptadapt": "o", MOVED: "^"}
LINES = {"equifast": "-", "equiadapt": "--"}

#: How a method is trained where a plot has room for one curve of it.
SHOWN = {"vanilla": False, "augmentation": True, "equiadapt": False, "equioptadapt": False, MOVED: False}


def angles(path: Path, found: dict[tuple[str, str, str, bool], Cell]) -> None:
    """Accuracy at each element, a panel for each data set and group; lines end where reflections begin."""
    figure, grid = plt.subplots(len(DATA), len(GROUPS), figsize=(11, 5.6), squeeze=False, layout="constrained")
    labels = {}
    for row, data in zip(grid, DATA, strict=True):
        for axes, group in zip(row, GROUPS, strict=True):
            n, order = as_group(group).n, as_group(group).order
            for method, tuned in SHOWN.items():
                if (cell := found.get((data, group, method, tuned))) is not None:
                    style = {"color": COLORS[method], "marker": MARKERS[method], "markersize": 4, "alpha": 0.8}
                    for start in range(0, order, n):
                        places = range(start, start + n)
                        (line,) = axes.plot(places, [100 * cell.angles[e] for e in places], **style)
                    labels[methods.METHODS[method].title] = line
            axes.set(title=f"{TITLES[data]}, {group}", ylim=(0, 101), xticks=range(order))
            axes.set_xticklabels(_elements(n, order), rotation=90 if order > 4 else 0, fontsize=7)
            axes.grid(alpha=0.3)
        row[0].set_ylabel("accuracy, %")
    figure.legend(labels.values(), labels.keys(), fontsize=8, loc="outside lower center", ncols=len(labels))
    _save(figure, path)


def identity(path: Path, curves: list[Result]) -> None:
    """Identity metric against training time, a panel for each data set and group, a thin line for each seed."""
    kinds = sorted({(curve["data"], curve["group"]) for curve in curves}, key=lambda kind: (kind[0] != "mnist", kind))
    figure, (row,) = plt.subplots(1, len(kinds), figsize=(4 * len(kinds), 3.4), squeeze=False, layout="constrained")
    for axes, kind in zip(row, kinds, strict=True):
        for curve in curves:
            if (curve["data"], curve["group"]) == kind:
                for name, points in curve["contenders"].items():
                    if "missing" not in points:
                        method, package = name.split(", ")
                        label = name if curve["seed"] == 0 else None
                        style = {"color": COLORS[_key(method)], "linestyle": LINES[package], "label": label}
                        axes.plot(points["seconds"], points["identity"], alpha=0.8, linewidth=1.2, **style)
        axes.set(title=f"{TITLES[kind[0]]}, {kind[1]}", xlabel="training time, s", xscale="log", ylim=(0, 1.02))
        axes.grid(alpha=0.3)
    row[0].set_ylabel("identity metric")
    row[0].legend(fontsize=7, loc="lower right")
    _save(figure, path)


def _key(title: str) -> str:
    return next(key for key, method in methods.METHODS.items() if method.title == title)


def _elements(n: int, order: int) -> list[str]:
    """A name for each element: its angle, with a bar in front where it reflects first."""
    return [("|" if e >= n else "") + f"{360 * (e % n) // n}°" for e in range(order)]


def _save(figure: plt.Figure, path: Path) -> None:
    figure.savefig(path, dpi=90)
    plt.close(figure)
