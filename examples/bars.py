"""Bars of what a network achieves in several views, alone and with equifast; colours and files of all pictures."""

import io
from pathlib import Path

import matplotlib

matplotlib.use("Agg")

import matplotlib.pyplot as plt
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from PIL import Image

INK, MUTED, PALE, FAINT, ACCENT = "#1d2733", "#66727e", "#a3aeb8", "#e3e8ec", "#0b7a75"
STYLE = {"font.family": "DejaVu Sans", "text.color": INK}


def bars(axes: Axes, title: str, views: list[str], alone: list[float], canonical: list[float], legend=True) -> None:
    """Two bars for each view, with their values on top."""
    pair = (-0.2, alone, PALE, "the network alone"), (0.2, canonical, ACCENT, "with equifast")
    for offset, values, color, name in pair:
        drawn = axes.bar([i + offset for i in range(len(values))], values, 0.36, color=color, label=name)
        axes.bar_label(drawn, [f"{value:.0f}" for value in values], padding=2, fontsize=10)
    axes.set_xticks(range(len(views)), views)
    axes.set(yticks=[], ylim=(0, (1.35 if legend else 1.15) * max(*alone, *canonical)))
    axes.set_title(title, fontsize=12, weight="bold", loc="left")
    axes.tick_params(length=0, colors=MUTED)
    axes.spines[:].set_visible(False)
    if legend:
        axes.legend(frameon=False, loc="upper left", fontsize=10.5)


def draw(path: Path, title: str, views: list[str], alone: list[float], canonical: list[float]) -> None:
    """A picture of bars alone."""
    with plt.rc_context(STYLE):
        figure, axes = plt.subplots(figsize=(7, 4), layout="constrained")
        bars(axes, title, views, alone, canonical)
        save(figure, path, dpi=100)


def save(figure: Figure, path: Path, dpi: int) -> None:
    """Render a PNG, then keep the 256 colours that matter: a third of the size."""
    raw = io.BytesIO()
    figure.savefig(raw, dpi=dpi)
    plt.close(figure)
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.open(raw).convert("RGB").quantize(256).save(path, optimize=True)
