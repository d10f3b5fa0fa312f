"""Plots of the stored results, for docs/performance.md: ratios with their spread, distance to the limit, scaling.

A plot is drawn only if the tests of the operations in it pass here. Those of a GPU's results run on the GPU.
"""

from __future__ import annotations

import hashlib
import io
import json
import re
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import matplotlib

matplotlib.use("Agg")

import matplotlib.pyplot as plt
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from PIL import Image
from PIL.PngImagePlugin import PngInfo

from . import parity, report
from .report import by_measure, number
from .results import ROOT, Row, is_ours, is_rival
from .timings import LIMIT

INK, MUTED, PALE, FAINT, ACCENT, OTHER = "#1d2733", "#66727e", "#a3aeb8", "#e3e8ec", "#0b7a75", "#c2571a"
STYLE = {"font.family": "DejaVu Sans", "text.color": INK, "font.size": 8, "axes.labelcolor": MUTED}

#: The package that came before this one, which has a bar of its own.
PUBLISHED = "equiadapt"

COUNTED = ROOT / "docs" / "counted.md"


@dataclass
class Plot:
    """A file, what is drawn, the tests that it rests on, and the text of the results.

    ``kind`` says where the tests run: "cpu", "cuda", or "ptx" for the CUDA kernels in PTX on the CPU. The file holds
    the digest of the text, which tells whether it is out of date.
    """

    name: str
    draw: Callable[[], Figure]
    tests: set[Path]
    kind: str
    source: str

    @property
    def digest(self) -> str:
        return hashlib.sha256(self.source.encode()).hexdigest()


def plots() -> list[Plot]:
    """All that can be drawn from what is stored."""
    found = []
    for path in sorted(report.RESULTS.glob("*.json")):
        run = json.loads(text := path.read_text())
        kind, measures = run["conditions"]["kind"], {row["measure"] for row in run["rows"]}
        tests = set().union(*map(parity.tests_of, measures))
        found.append(Plot(f"benchmarks_{path.stem}_ratios.png", lambda run=run: ratios(run), tests, kind, text))
        found.append(Plot(f"benchmarks_{path.stem}_limits.png", lambda run=run: limits(run), tests, kind, text))
    for path in sorted((report.RESULTS / "scaling").glob("*.json")):
        run = json.loads(text := path.read_text())
        kind, tests = run["conditions"]["kind"], parity.tests_of("canonicalize")
        found.append(Plot(f"benchmarks_{path.stem}_scaling.png", lambda run=run: scaling(run), tests, kind, text))
    page = COUNTED.read_text()
    tests = set(parity.LAWS.values())
    return [*found, Plot("counted_limits.png", lambda: predicted(page), tests, "ptx", _predictions(page))]


def _predictions(page: str) -> str:
    """The part of docs/counted.md that has the predicted times."""
    return page.partition("## Time, predicted")[2]


def main(folder: Path = report.DOCS.parent) -> int:
    """Draw what may be drawn; 1 if anything may not."""
    chosen = plots()
    wrong: dict[str, set[Path]] = {}
    for kind in sorted({plot.kind for plot in chosen}):
        wrong[kind] = parity.red(set().union(*(plot.tests for plot in chosen if plot.kind == kind)), kind)
    refused = 0
    for plot in chosen:
        if red := sorted(path.name for path in plot.tests & wrong[plot.kind]):
            print(f"not drawn: {plot.name}, since tests fail ({plot.kind}): {', '.join(red)}")
            refused += 1
        else:
            save(plot.draw(), folder / plot.name, plot.digest)
            print(f"wrote {plot.name}")
    return 1 if refused else 0


def save(figure: Figure, path: Path, digest: str) -> None:
    """As a PNG of 64 colours, which is small, with the digest of what it was drawn from."""
    raw = io.BytesIO()
    figure.savefig(raw, dpi=85)
    plt.close(figure)
    told = PngInfo()
    told.add_text("Source", digest)
    Image.open(raw).convert("RGB").quantize(64).save(path, optimize=True, pnginfo=told)


def ratios(run: dict) -> Figure:
    """For each setting the published package and the quickest other contender, as multiples of ours."""
    halves = [], []
    for measure, rows in by_measure(run["rows"]):
        whole = measure.startswith(report.WHOLE)
        for setting, rivals in _by_setting([row for row in rows if is_rival(row)]).items():
            label = f"{measure}, {setting}"
            best = min((r for r in rivals if r["contender"] != PUBLISHED), key=_median, default=None)
            published = next((r for r in rivals if r["contender"] == PUBLISHED), None)
            halves[not whole].append((label, [(published, PALE), (best, ACCENT)]))
    with plt.rc_context(STYLE):
        height = 0.9 + 0.3 * max(map(len, halves))
        figure, (left, right) = plt.subplots(1, 2, figsize=(15, height), layout="constrained")
        for axes, title, half in ((left, "Whole pipelines", halves[0]), (right, "Parts and operations", halves[1])):
            _bars(axes, half)
            _head(axes, title, "multiple of our time or memory")
        figure.legend(*_legend({PUBLISHED: PALE, "the quickest other contender, named": ACCENT}), **LEGEND)
        _stamp(figure, run)
    return figure


def limits(run: dict) -> Figure:
    """How near to the limit's speed each operation is. Whole pipelines run a network, which their limit leaves out."""
    bars = []
    for measure, rows in by_measure([row for row in run["rows"] if not row["measure"].startswith(report.WHOLE)]):
        for setting, bounds in _by_setting([r for r in rows if r["contender"] == LIMIT and "ratio" in r]).items():
            bars.append((f"{measure}, {setting}", [(bounds[0] | {"contender": ""}, ACCENT)]))
    with plt.rc_context(STYLE):
        figure, axes = plt.subplots(figsize=(10, 0.9 + 0.22 * len(bars)), layout="constrained")
        _bars(axes, bars)
        _stamp(figure, run)
        _head(
            axes,
            "Share of the limit's speed, measured",
            "the limit is a copy of the bytes, or a product of the operations",
        )
    return figure


def predicted(page: str) -> Figure:
    """The same for GPUs, from the table of predicted times in docs/counted.md: floor / predicted time."""
    table = _predictions(page)
    rows = re.findall(
        r"^\| (.+) \| (\w+) \| [^|]+ \| [^|]+ \| ([\d.]+)× \| [^|]+ \| [^|]+ \| ([\d.]+)× \|$", table, re.M
    )
    if not rows:
        raise ValueError("docs/counted.md: expected a table of predicted times, found none")
    with plt.rc_context(STYLE):
        figure, axes = plt.subplots(figsize=(10, 0.9 + 0.17 * len(rows)), layout="constrained")
        places = range(len(rows))
        names = {"H100 SXM": (2, ACCENT), "RTX 4090": (3, OTHER)}
        for column, color in names.values():
            axes.plot([1 / float(row[column]) for row in rows], places, "o", color=color, markersize=4)
        axes.set_yticks(places, [f"{problem}, {dtype}" for problem, dtype, *_ in rows])
        _scale(axes)
        title = "Share of the roofline's speed, predicted from counted instructions; not measured"
        _head(axes, title, "the roofline is memory bandwidth, or the peak rate of multiply-adds")
        figure.legend(*_legend({name: color for name, (_, color) in names.items()}), **LEGEND)
    return figure


def scaling(run: dict) -> Figure:
    """Times for one image, and ratios, as the batch, the size and the order grow."""
    colors = {PUBLISHED: PALE, "eager": OTHER, "ours": ACCENT}
    measures = by_measure([row for row in run["rows"] if "error" not in row])
    with plt.rc_context(STYLE):
        figure, grid = plt.subplots(
            2, len(measures), figsize=(11, 5.5), layout="constrained", squeeze=False, sharex="col"
        )
        for (measure, rows), (upper, lower) in zip(measures, grid.T, strict=True):
            for name, color in colors.items():
                mine = [row for row in rows if is_ours(row["contender"]) == (name == "ours")]
                mine = [row for row in mine if name in ("ours", row["contender"])]
                _curve(upper, [row | {"batch": _batch(row)} for row in mine], color)
                ratios = [row["ratio"] | {"at": row["at"], "batch": 1} for row in mine if "ratio" in row]
                _curve(lower, ratios, color)
            places = sorted({row["at"] for row in rows})
            upper.set(xscale="log", yscale="log")
            lower.set(ylim=(0, None), xlabel=measure.partition("by ")[2])
            lower.set_xticks(places, list(map(str, places)))
            lower.xaxis.minorticks_off()
            lower.axhline(1, color=MUTED, linewidth=0.8)
            upper.set_title(measure, loc="left", fontsize=9, weight="bold")
        grid[0, 0].set_ylabel("milliseconds for an image")
        grid[1, 0].set_ylabel("multiple of ours")
        for axes in grid.flat:
            axes.grid(color=FAINT)
            axes.spines[:].set_visible(False)
            axes.tick_params(colors=MUTED, length=0)
        figure.legend(*_legend(colors), **LEGEND)
        _stamp(figure, run)
    return figure


LEGEND = {"loc": "outside upper center", "ncols": 3, "frameon": False}


def _stamp(figure: Figure, run: dict) -> None:
    """On what, when and of which commit it was measured, so that a picture tells whether it is out of date."""
    c = run["conditions"]
    told = f"{c['device']}; threads: {c['threads']}; commit {c['commit']}; {c['date']}"
    figure.supxlabel(told, fontsize=7, color=MUTED)


def _by_setting(rows: list[Row]) -> dict[str, list[Row]]:
    found: dict[str, list[Row]] = {}
    for row in rows:
        found.setdefault(row["setting"], []).append(row)
    return found


def _median(row: Row) -> float:
    return row["ratio"]["median"]


def _batch(row: Row) -> int:
    """Of a setting such as "C4 16×3×224×224"."""
    return int(re.search(r" (\d+)×", row["setting"])[1])


def _bars(axes: Axes, labelled: list[tuple[str, list[tuple[Row | None, str]]]]) -> None:
    """Bars of ratios from 1, side by side for each label, with whiskers from quartile to quartile."""
    for place, (_, pair) in enumerate(labelled):
        for i, (row, color) in enumerate(pair):
            if row is None:
                continue
            y, ratio = place + (i - (len(pair) - 1) / 2) * 0.4, row["ratio"]
            axes.barh(y, ratio["median"] - 1, 0.8 / len(pair), left=1, color=color)
            axes.plot([ratio["q1"], ratio["q3"]], [y, y], color=INK, linewidth=0.9)
            name = row["contender"] if row["contender"] != PUBLISHED else ""
            text = f" {number(ratio['median'])} {name}"
            axes.text(max(ratio["q3"], ratio["median"], 1), y, text, va="center", fontsize=6.5, color=MUTED)
    axes.set_yticks(range(len(labelled)), [label for label, _ in labelled])
    _scale(axes)


def _scale(axes: Axes) -> None:
    """A logarithmic scale with plain numbers, a line at 1, and the first label on top."""
    axes.set_xscale("log")
    axes.xaxis.set_major_formatter("{x:g}")
    axes.axvline(1, color=MUTED, linewidth=0.8)
    axes.margins(x=0.15, y=0.01)
    axes.invert_yaxis()


def _head(axes: Axes, title: str, below: str) -> None:
    axes.set_title(title, loc="left", fontsize=10, weight="bold")
    axes.set_xlabel(below)
    axes.grid(axis="x", color=FAINT)
    axes.set_axisbelow(True)
    axes.spines[:].set_visible(False)
    axes.tick_params(colors=MUTED, length=0, which="both")


def _curve(axes: Axes, rows: list[Row], color: str) -> None:
    """Medians over ``at``, in units of the batch, and a band from quartile to quartile."""
    rows = sorted(rows, key=lambda row: row["at"])
    places = [row["at"] for row in rows]
    median, q1, q3 = ([row[key] / row["batch"] for row in rows] for key in ("median", "q1", "q3"))
    axes.plot(places, median, "o-", color=color, markersize=4)
    axes.fill_between(places, q1, q3, color=color, alpha=0.25, linewidth=0)


def _legend(colors: dict[str, str]) -> tuple[list, list[str]]:
    return [plt.Rectangle((0, 0), 1, 1, color=color) for color in colors.values()], list(colors)
