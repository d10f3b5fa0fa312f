"""The picture of upside-down text: lines and how they are read, pages, and how much is right at each angle."""

from pathlib import Path

import matplotlib.pyplot as plt
from bars import ACCENT, MUTED, PALE, STYLE, bars, save
from drawn_text import Lines
from matplotlib.axes import Axes
from torch import Tensor

SHOWN = 5  # lines


def draw(path: Path, lines: Lines, texts: tuple[list[str], list[str]], of_lines, pages: list[Tensor], of_pages) -> None:
    """Write the picture. ``texts``: what is read of the lines upside down, by the recognizer alone and by equifast."""
    with plt.rc_context(STYLE):
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
        first, second = lower.subplots(1, 2, width_ratios=(1, 2))
        bars(first, "% of lines read", ["0°", "180°"], *of_lines, legend=False)
        bars(second, "% of pages oriented", ["0°", "90°", "180°", "270°"], *of_pages, legend=False)
        save(figure, path, dpi=100)


def _picture(axes: Axes, image: Tensor) -> None:
    axes.imshow(image.permute(1, 2, 0).numpy() / 255)
    axes.set(xticks=[], yticks=[])
    axes.spines[:].set_color(PALE)
