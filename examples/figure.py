"""The demo's picture: orbits with their scores, what is chosen, and accuracy over the views; made for a slide."""

from pathlib import Path
from typing import NamedTuple

import matplotlib.pyplot as plt
import numpy as np
from bars import ACCENT, FAINT, MUTED, PALE, STYLE, save
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.patches import FancyArrowPatch, Rectangle
from table import VIEWS

WIDTH, HEIGHT = 16.0, 9.0  # inches: a slide
LARGE, SMALL, GAP, PITCH = 1.24, 1.04, 0.17, 1.69  # edges of pictures, between members, from row to row
INPUT, ORBIT, OUTPUT, PLOT = 0.6, 2.55, 7.93, 11.7  # left edges of the columns

TITLE = "Frozen networks that no longer mind which way is up"
SUBTITLE = "equifast scores the whole orbit of an image and passes on the member with the highest score"
NOTE = "the same array,\nbit for bit"


class Example(NamedTuple):
    """One row: what comes in, what goes on, the orbit with its scores, the chosen member, and the captions."""

    image: np.ndarray
    canonical: np.ndarray
    orbit: list[np.ndarray]
    scores: list[float]
    chosen: int
    before: str
    after: str


class Part(NamedTuple):
    """Rows that one network scored, and its accuracy in percent in each of the `VIEWS`, without and with equifast."""

    scored: str
    title: str
    examples: list[Example]
    without: list[float]
    within: list[float]


def draw(path: Path, parts: list[Part]) -> None:
    """Write the picture, as a PNG of a few hundred kilobytes."""
    with plt.rc_context(STYLE):
        figure = plt.figure(figsize=(WIDTH, HEIGHT), facecolor="white")
        _say(figure, INPUT, 8.4, TITLE, size=27, weight="bold")
        _say(figure, INPUT, 8.0, SUBTITLE, size=15, color=MUTED)
        top = 7.14
        for number, part in enumerate(parts):
            _say(figure, ORBIT, top + 0.24, part.scored, size=13.5, weight="bold")
            if number == 0:
                _say(figure, INPUT, top + 0.24, "Comes in", size=13.5, weight="bold")
                _say(figure, OUTPUT, top + 0.24, "Goes on", size=13.5, weight="bold")
            for example in part.examples:
                _example(figure, top, example)
                top -= PITCH
            top -= 0.33
            _curve(figure, 4.62 - number * 3.77, part)
        _bracket(figure, OUTPUT + LARGE + 0.16, 7.14 - LARGE / 2, PITCH)
        save(figure, path, dpi=120)


def _example(figure: Figure, top: float, example: Example) -> None:
    """Input, arrow, orbit with score bars, arrow, canonical image."""
    middle = top - LARGE / 2
    _picture(figure, INPUT, top, LARGE, example.image, caption=example.before)
    _arrow(figure, INPUT + LARGE, ORBIT, middle)
    for e, (member, score) in enumerate(zip(example.orbit, example.scores, strict=True)):
        x, y, chosen = ORBIT + e * (SMALL + GAP), middle + SMALL / 2 + 0.11, e == example.chosen
        _picture(figure, x, y, SMALL, member, chosen=chosen)
        _bar(figure, x, y - SMALL - 0.22, score, chosen)
    _arrow(figure, ORBIT + 4 * (SMALL + GAP) - GAP, OUTPUT, middle)
    _picture(figure, OUTPUT, top, LARGE, example.canonical, caption=example.after, chosen=True)


def _picture(figure: Figure, x: float, top: float, size: float, pixels, caption="", chosen=False) -> None:
    """Pixels with their upper left corner at (x, top) inches, framed if chosen, with a caption beneath."""
    axes = _axes(figure, x, top - size, size, size)
    axes.imshow(pixels, cmap="gray", interpolation="antialiased" if len(pixels) > 64 else "nearest")
    axes.set(xticks=[], yticks=[])
    axes.spines[:].set(visible=chosen, color=ACCENT, linewidth=3.5)
    color = ACCENT if chosen else MUTED
    _say(figure, x + size / 2, top - size - 0.1, caption, size=12, color=color, ha="center", va="top")


def _bar(figure: Figure, x: float, y: float, score: float, chosen: bool) -> None:
    """A score from 0 to 1 as a bar on a faint track, and as a number."""
    track = SMALL - 0.45
    shade, color, weight = (ACCENT, ACCENT, "bold") if chosen else (PALE, MUTED, "normal")
    for length, fill in ((track, FAINT), (track * min(max(score, 0.0), 1.0), shade)):
        corner = (x / WIDTH, y / HEIGHT)
        figure.add_artist(Rectangle(corner, length / WIDTH, 0.09 / HEIGHT, color=fill, linewidth=0))
    style = {"color": color, "weight": weight, "ha": "right", "va": "center"}
    _say(figure, x + SMALL, y + 0.04, f"{score:.2f}", size=11.5, **style)


def _arrow(figure: Figure, start: float, end: float, y: float) -> None:
    ends = [((start + 0.18) / WIDTH, y / HEIGHT), ((end - 0.18) / WIDTH, y / HEIGHT)]
    figure.add_artist(FancyArrowPatch(*ends, arrowstyle="-|>", mutation_scale=15, color=MUTED, linewidth=1.4))


def _bracket(figure: Figure, x: float, y: float, height: float) -> None:
    """Joins what goes on in the first two rows, which are one photograph turned two ways."""
    across, down = [x, x + 0.12, x + 0.12, x], [y, y, y - height, y - height]
    line = Line2D([a / WIDTH for a in across], [b / HEIGHT for b in down], color=MUTED, linewidth=1.4)
    figure.add_artist(line)
    _say(figure, x + 0.27, y - height / 2, NOTE, size=12, color=MUTED, va="center", linespacing=1.35)


def _curve(figure: Figure, bottom: float, part: Part) -> None:
    """Accuracy in each view: a line over the rotations, the mirror image apart from it."""
    axes = _axes(figure, PLOT, bottom, 3.8, 2.1)
    places = [0, 1, 2, 3, 4.2]
    pair = (part.without, PALE, MUTED), (part.within, ACCENT, ACCENT)
    for values, color, ink in pair:
        axes.plot(places[:4], values[:4], color=color, linewidth=3, marker="o", markersize=8)
        axes.plot(places[4:], values[4:], color=color, linewidth=0, marker="o", markersize=8)
        for place, value, other in zip(places, values, part.without if ink == ACCENT else part.within, strict=True):
            up = value > other or (value == other and ink == ACCENT)
            style = {"ha": "center", "va": "bottom" if up else "top", "fontsize": 12.5, "color": ink}
            if value != other or up:
                offset = (0, 7) if up else (-9 if place == 0 else 0, -8)
                axes.annotate(f"{value:.0f}", (place, value), offset, textcoords="offset points", **style)
    axes.set(xlim=(-0.35, 4.6), ylim=(0, 105), yticks=[0, 50, 100], xticks=places)
    axes.set_xticklabels(VIEWS)
    axes.set_yticklabels(["0", "50", "100 %"])
    axes.tick_params(length=0, colors=MUTED, labelsize=12.5, pad=6)
    axes.grid(axis="y", color=FAINT, linewidth=1)
    axes.set_axisbelow(True)
    axes.spines[:].set_visible(False)
    top = bottom + 2.1
    _say(figure, PLOT, top + 0.68, part.title, size=13.5, weight="bold")
    _say(figure, PLOT, top + 0.38, "● with equifast, D4", size=12.5, color=ACCENT)
    _say(figure, PLOT + 2.05, top + 0.38, "● the network alone", size=12.5, color=MUTED)


def _axes(figure: Figure, x: float, y: float, width: float, height: float):
    """Axes placed in inches from the lower left."""
    return figure.add_axes((x / WIDTH, y / HEIGHT, width / WIDTH, height / HEIGHT))


def _say(figure: Figure, x: float, y: float, text: str, size: float, **style) -> None:
    """Text placed in inches from the lower left."""
    figure.text(x / WIDTH, y / HEIGHT, text, fontsize=size, **style)
