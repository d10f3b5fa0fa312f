"""The album's picture: photographs as they are stored, what is found on them, and how much at each angle."""

from pathlib import Path
from typing import NamedTuple

import matplotlib.pyplot as plt
import torch
from bars import ACCENT, FAINT, MUTED, STYLE, bars, save
from data import Photograph
from faces import Faces
from matplotlib.axes import Axes
from matplotlib.patches import Ellipse, FancyBboxPatch, Rectangle

WALL, COAT, SKIN = "#e9edf0", "#8fa0ae", "#c3cdd5"  # of silhouettes
TITLE = "A face detector puts photographs upright by its own score; its boxes and landmarks are carried back"
COLUMNS = 5
VIEWS = ["0°", "90°", "180°", "270°"]


class Shown(NamedTuple):
    """A photograph as it is stored, the faces found on it in its own pixels, and the quarter turns that it is off."""

    photograph: Photograph
    alone: Faces
    canonical: Faces
    element: int


def draw(path: Path, pictures: list[Shown], alone: list[int], canonical: list[int]) -> None:
    """Write a picture of all photographs as they are stored, with their faces."""
    rows = -(-(len(pictures) + 1) // COLUMNS)
    with plt.rc_context(STYLE):
        figure, grid = plt.subplots(rows, COLUMNS, figsize=(16, 3.4 * rows + 0.9), squeeze=False, layout="constrained")
        figure.suptitle(TITLE, fontsize=17, weight="bold", x=0.01, ha="left")
        cells = list(grid.flat)
        for axes, shown in zip(cells, pictures, strict=False):
            pixels = shown.photograph.pixels
            _faces(axes, shown.alone, shown.canonical, pixels.shape[1:])
            axes.imshow(pixels.permute(1, 2, 0).numpy())
            _title(axes, f"stored {90 * shown.element}° off" if shown.element else "stored upright", shown.element > 0)
        for axes in cells[len(pictures) : -1]:
            axes.set_axis_off()
        bars(cells[-1], "faces found", VIEWS, alone, canonical)
        save(figure, path, dpi=90)


def draw_silhouettes(path: Path, pictures: list[Shown], alone: list[int], canonical: list[int]) -> None:
    """Write a picture that has nothing of the photographs but where their faces are: as stored, and put upright."""
    columns = len(pictures) + 1
    with plt.rc_context(STYLE):
        figure = plt.figure(figsize=(3.1 * columns, 6.4), layout="constrained")
        figure.suptitle(TITLE, fontsize=17, weight="bold", x=0.01, ha="left")
        grid = figure.add_gridspec(2, columns)
        for i, shown in enumerate(pictures):
            size, upper, lower = shown.photograph.pixels.shape[1:], *(figure.add_subplot(grid[k, i]) for k in (0, 1))
            _silhouettes(upper, shown.canonical, shown.element)
            _faces(upper, shown.alone, shown.canonical, size)
            _title(upper, f"stored {90 * shown.element}° off", True)
            upright, size = _upright(shown.canonical, size, shown.element)
            _silhouettes(lower, upright, 0)
            _faces(lower, upright._replace(boxes=upright.boxes[:0]), upright, size)
            _title(lower, "put upright", False)
        bars(figure.add_subplot(grid[:, -1]), "faces found", VIEWS, alone, canonical)
        save(figure, path, dpi=90)


def _title(axes: Axes, text: str, wrong: bool) -> None:
    axes.set_title(text, fontsize=12, color=ACCENT if wrong else MUTED)


def _faces(axes: Axes, alone: Faces, canonical: Faces, size: tuple[int, int]) -> None:
    """Boxes by the detector alone, dashed; boxes and landmarks by equifast; on an image (H, W)."""
    height, width = size
    axes.set(xlim=(-0.5, width - 0.5), ylim=(height - 0.5, -0.5), xticks=[], yticks=[], aspect="equal", facecolor=WALL)
    axes.spines[:].set(color=FAINT)
    for faces, color, style, thick in ((alone, "#d1495b", "--", 1.6), (canonical, ACCENT, "-", 2.4)):
        for x1, y1, x2, y2 in (faces.boxes - 0.5).tolist():
            frame = {"fill": False, "edgecolor": color, "linestyle": style, "linewidth": thick}
            axes.add_patch(Rectangle((x1, y1), x2 - x1, y2 - y1, **frame))
    axes.plot(*canonical.points.flatten(0, 1).T.numpy(), ".", color=ACCENT, markersize=4)


def _upright(faces: Faces, size: tuple[int, int], element: int) -> tuple[Faces, tuple[int, int]]:
    """Faces of an image (H, W) after it is turned clockwise by some quarter turns, and its size then."""
    corners, points = faces.boxes.unflatten(1, (2, 2)), faces.points + 0.5
    for _ in range(element):
        corners, points = (torch.stack((size[0] - p[..., 1], p[..., 0]), -1) for p in (corners, points))
        size = size[1], size[0]
    return Faces(torch.cat((corners.amin(1), corners.amax(1)), 1), points - 0.5, faces.scores), size


def _silhouettes(axes: Axes, faces: Faces, element: int) -> None:
    """For each box a head in it and shoulders below, as seen on an image that was turned by some quarter turns."""
    down = ((0, 1), (1, 0), (0, -1), (-1, 0))[element]
    for x1, y1, x2, y2 in (faces.boxes - 0.5).tolist():
        x, y = (x1 + x2) / 2, (y1 + y2) / 2
        tall, wide = (y2 - y1, x2 - x1) if down[1] else (x2 - x1, y2 - y1)
        body, head = (2.7 * wide, 3.4 * tall), (1.3 * wide, 1.25 * tall)
        if not down[1]:
            body, head = body[::-1], head[::-1]
        corner = (x + 2.4 * down[0] * tall - body[0] / 2, y + 2.4 * down[1] * tall - body[1] / 2)
        style = f"round,pad=0,rounding_size={1.1 * wide}"
        axes.add_patch(FancyBboxPatch(corner, *body, boxstyle=style, color=COAT, linewidth=0))
        axes.add_patch(Ellipse((x, y), *head, color=SKIN, linewidth=0))
