"""The pictures of docs/concepts.md: elements and their ids, an orbit and what is chosen from it, and the way back.

    python examples/concepts.py [--folder docs]

A digit drawn from a font stands for the images. The network is ``Flatten``, and the reference is the upright digit, so
the score of a member is its cosine similarity with that.
"""

import argparse
from pathlib import Path

import bars
import drawn
import matplotlib.pyplot as plt
import numpy as np
import torch
from matplotlib.axes import Axes
from matplotlib.patches import Rectangle
from torch import Tensor, nn

import equifast

BOX = torch.tensor([[[8.0, 3.0, 20.0, 14.0]]])  # the upper part of the upright digit


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--folder", type=Path, default=Path("docs"), help="where to write the pictures")
    folder = parser.parse_args().folder
    for name, draw in PICTURES.items():
        draw(folder / name)
        print(f"wrote {folder / name}")


def digit() -> Tensor:
    """(1, 1, 28, 28) with values from 0 to 1."""
    return drawn.digits("4", mean=0.0, deviation=1.0)[0]


def form_of(x: Tensor) -> equifast.CanonicalForm:
    return equifast.canonicalize(x, nn.Flatten(), digit().flatten(), group="C4", beta=10.0)


def elements(path: Path) -> None:
    """g·x for every element g of D4 and of C8, with its id."""
    with plt.rc_context(bars.STYLE):
        widths = [1] * 4 + [0.3] + [1] * 4  # four columns for each group, and a gap
        figure, grid = plt.subplots(2, 9, figsize=(13, 3.5), layout="constrained", width_ratios=widths)
        for axes in grid[:, 4]:
            axes.set_visible(False)
        for name, columns in (("D4", slice(0, 4)), ("C8", slice(5, 9))):
            group = equifast.as_group(name)
            for e, axes in enumerate(grid[:, columns].flat):
                moved = equifast.act(digit(), torch.tensor([e]), group=group)
                rotation, reflection = group.split(e)
                how = f"{360 * rotation // group.n}°" + (" after a flip" if reflection else "")
                _show(axes, moved, f"{name}, id {e}\n{how}", chosen=not group.is_exact(e, 28, 28), color=bars.PALE)
        bars.save(figure, path, dpi=100)


def orbit(path: Path) -> None:
    """Two views of one digit: their orbits hold the same images, so the same one is chosen."""
    with plt.rc_context(bars.STYLE):
        figure, grid = plt.subplots(2, 6, figsize=(11, 4.4), layout="constrained", width_ratios=[1, *[0.9] * 4, 1])
        for row, quarters in zip(grid, (1, 2), strict=True):
            x = digit().rot90(quarters, (2, 3))
            form = form_of(x)
            _show(row[0], x, f"x: {90 * quarters}° off")
            for e, axes in enumerate(row[1:5]):
                chosen, score = e == form.element.item(), form.activations[0, e].item()
                _show(axes, equifast.orbit(x, "C4")[e], f"id {e} undone\nscore {score:.2f}", chosen)
            _show(row[5], form.image, "canonical", chosen=True)
        bars.save(figure, path, dpi=100)


def inverse(path: Path) -> None:
    """A box and a mask that were found on the canonical image, and where they lie in the image that came."""
    x = digit().rot90(1, (2, 3))
    form = form_of(x)
    mask = (form.image > 0.5).float()
    with plt.rc_context(bars.STYLE):
        figure, row = plt.subplots(1, 4, figsize=(9, 2.8), layout="constrained")
        _show(row[0], x, "x")
        _show(row[1], form.image, "canonical image,\nwith a box found on it", chosen=True)
        _show(row[2], x, "invert_boxes")
        _show(row[3], form.invert(mask), "invert, of a mask")
        for axes, boxes in ((row[1], BOX), (row[2], form.invert_boxes(BOX))):
            left, top, right, bottom = boxes[0, 0].tolist()
            corner = (left - 0.5, top - 0.5)  # pixels are drawn about whole numbers, and boxes name edges
            axes.add_patch(Rectangle(corner, right - left, bottom - top, fill=False, color=bars.ACCENT, linewidth=3))
        bars.save(figure, path, dpi=100)


def _show(axes: Axes, image: Tensor, title: str, chosen: bool = False, color: str = bars.ACCENT) -> None:
    """An image (1, 28, 28) or (1, 1, 28, 28) in grey, framed if it was chosen."""
    axes.imshow(np.asarray(image.reshape(28, 28)), cmap="gray", vmin=0, vmax=1, interpolation="nearest")
    axes.set(xticks=[], yticks=[])
    axes.spines[:].set(visible=chosen, color=color, linewidth=4)
    axes.set_title(title, fontsize=10.5, color=bars.ACCENT if chosen and color == bars.ACCENT else bars.MUTED)


PICTURES = {"elements.png": elements, "orbit.png": orbit, "inverse.png": inverse}


if __name__ == "__main__":
    main()
