"""The picture of upside-down text: lines and how they are read, pages, and how much is right at each angle."""

from pathlib import Path

import matplotlib

matplotlib.use("Agg")

import matplotlib.pyplot as plt
from drawn_text import Lines
from figure import ACCENT, INK, MUTED, PALE, save
from matplotlib.axes import Axes
from torch import Tensor

SHOWN = 5  # lines


def draw(path: Path, lines: Lines, texts: tuple[list[str], list[str]], of_lines, pages: list[Tensor], of_pages) -> None:
    """Write the picture. ``texts``: what is read of the lines upside down, by the recognizer alone and by equifast."""
    with plt.rc_context({"font.family": "DejaVu Sans", "text.color": INK}):
        figure = plt.figure(figsize=(14, 6.2), layout="constrained")
        figure.suptitle(
            "Text recognizers that no longer mind upside down", fontsize=18, weight="bold", x=0.01, ha="left"
        )
        left, right = figure.subfigures(1, 2, width_ratios=(1.5, 1))
        for axes, image, alone, canonical in zip(
            left.subplots(SHOWN, 1), lines.images.rot90(2, (2, 3)), *texts, strict=False
        ):
            _picture(axes, image)
            axes.set_anchor("W")
            axes.text(1.03, 0.72, alone or "(nothing)", color=MUTED, fontsize=13, transform=axes.transAxes)
            axes.text(1.03, 0.1, canonical, color=ACCENT, fontsize=13, weight="bold", transform=axes.transAxes)
        upper, lower = right.subfigures(2, 1)
        for k, axes in enumerate(upper.subplots(1, 4)):
            _picture(axes, pages[k].rot90(k, (1, 2)))
        for axes, title, results, angles in zip(
            lower.subplots(1, 2, width_ratios=(1, 2)),
            ("lines read, C2", "pages oriented, C4"),
            (of_lines, of_pages),
            ((0, 180), (0, 90, 180, 270)),
            strict=True,
        ):
            _bars(axes, title, results, angles)
        save(figure, path, dpi=100)


def _picture(axes: Axes, image: Tensor) -> None:
    axes.imshow(image.permute(1, 2, 0).numpy() / 255)
    axes.set(xticks=[], yticks=[])
    axes.spines[:].set_color(PALE)


def _bars(axes: Axes, title: str, results, angles: tuple[int, ...]) -> None:
    """Percent at each angle, without and with equifast."""
    for offset, values, color in ((-0.2, results.alone, PALE), (0.2, results.canonical, ACCENT)):
        bars = axes.bar([i + offset for i in range(len(values))], values, 0.36, color=color)
        axes.bar_label(bars, [f"{value:.0f}" for value in values], padding=2, fontsize=10)
    axes.set_xticks(range(len(angles)), [f"{angle}°" for angle in angles])
    axes.set(yticks=[], ylim=(0, 125))
    axes.set_title(title, fontsize=12, weight="bold", loc="left")
    axes.tick_params(length=0, colors=MUTED)
    axes.spines[:].set_visible(False)
