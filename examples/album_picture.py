"""The album's picture: photographs as they are stored, what is found on them, and how much at each angle."""

from pathlib import Path
from typing import NamedTuple

import matplotlib

matplotlib.use("Agg")

import matplotlib.pyplot as plt
from data import Photograph
from faces import Faces
from figure import ACCENT, FAINT, INK, MUTED, PALE, save
from matplotlib.axes import Axes
from matplotlib.patches import Ellipse, Rectangle

WALL, COAT, SKIN = "#dfe5ea", "#8fa0ae", "#b9c5cf"  # of silhouettes
COLUMNS = 5


class Shown(NamedTuple):
    """A photograph as it is stored, the faces found on it in its own pixels, and the quarter turns that it is off."""

    photograph: Photograph
    alone: Faces
    canonical: Faces
    element: int


def draw(path: Path, pictures: list[Shown], alone: list[int], canonical: list[int], silhouettes: bool = False) -> None:
    """Write the picture. With ``silhouettes`` nothing of the photographs is in it but where their faces are."""
    rows = -(-(len(pictures) + 1) // COLUMNS)
    with plt.rc_context({"font.family": "DejaVu Sans", "text.color": INK}):
        figure, grid = plt.subplots(rows, COLUMNS, figsize=(16, 3.4 * rows + 0.9), squeeze=False, layout="constrained")
        title = "A face detector puts photographs upright by its own score, and its faces are carried back"
        figure.suptitle(title, fontsize=17, weight="bold", x=0.01, ha="left")
        cells = list(grid.flat)
        for axes, shown in zip(cells, pictures, strict=False):
            _photograph(axes, shown, silhouettes)
        for axes in cells[len(pictures) : -1]:
            axes.set_axis_off()
        _bars(cells[-1], alone, canonical)
        save(figure, path, dpi=90)


def _photograph(axes: Axes, shown: Shown, silhouettes: bool) -> None:
    pixels, (height, width) = shown.photograph.pixels, shown.photograph.pixels.shape[1:]
    axes.set(xlim=(-0.5, width - 0.5), ylim=(height - 0.5, -0.5), xticks=[], yticks=[], aspect="equal")
    axes.spines[:].set(color=FAINT)
    if silhouettes:
        axes.set_facecolor(WALL)
        for box, points in zip(shown.canonical.boxes.tolist(), shown.canonical.points.tolist(), strict=True):
            _silhouette(axes, box, points, shown.element)
    else:
        axes.imshow(pixels.permute(1, 2, 0).numpy())
    for faces, color, style, wide in ((shown.alone, "#d1495b", "--", 1.6), (shown.canonical, ACCENT, "-", 2.4)):
        for x1, y1, x2, y2 in (faces.boxes - 0.5).tolist():
            frame = {"fill": False, "edgecolor": color, "linestyle": style, "linewidth": wide}
            axes.add_patch(Rectangle((x1, y1), x2 - x1, y2 - y1, **frame))
    for points in shown.canonical.points:
        axes.plot(*points.T.numpy(), ".", color=ACCENT, markersize=4 if silhouettes else 3)
    angle = 90 * shown.element
    caption = f"stored {angle}° off: put upright" if angle else "stored upright: left as it is"
    axes.set_title(caption, fontsize=12, color=ACCENT if angle else MUTED)


def _silhouette(axes: Axes, box: list[float], points: list[list[float]], element: int) -> None:
    """A head in a box and shoulders below it, as seen on a photograph that was turned by some quarter turns."""
    (x1, y1, x2, y2), down = box, ((0, 1), (1, 0), (0, -1), (-1, 0))[element]
    x, y = (x1 + x2) / 2 - 0.5, (y1 + y2) / 2 - 0.5
    tall, wide = (y2 - y1, x2 - x1) if down[1] else (x2 - x1, y2 - y1)
    shoulders, head = (2.6 * wide, 1.6 * tall), (1.12 * wide, 1.16 * tall)
    middle = (x + down[0] * 1.25 * tall, y + down[1] * 1.25 * tall)
    for centre, size, color in ((middle, shoulders, COAT), ((x, y), head, SKIN)):
        axes.add_patch(Ellipse(centre, *(size if down[1] else size[::-1]), color=color, linewidth=0))


def _bars(axes: Axes, alone: list[int], canonical: list[int]) -> None:
    """Faces found in each view."""
    for offset, values, color, ink, name in (
        (-0.2, alone, PALE, MUTED, "the detector alone"),
        (0.2, canonical, ACCENT, ACCENT, "with equifast, C4"),
    ):
        places = [i + offset for i in range(len(values))]
        axes.bar(places, values, 0.36, color=color, label=name)
        for place, value in zip(places, values, strict=True):
            axes.annotate(f"{value}", (place, value), (0, 3), textcoords="offset points", ha="center", color=ink)
    axes.set_xticks(range(len(alone)), [f"{90 * i}°" for i in range(len(alone))])
    axes.set(yticks=[], ylim=(0, 1.35 * max(canonical)), title="faces found at each angle")
    axes.tick_params(length=0, colors=MUTED)
    axes.spines[:].set_visible(False)
    axes.legend(frameon=False, loc="upper left", fontsize=10.5)
