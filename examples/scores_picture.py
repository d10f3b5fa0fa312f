"""The picture of examples/scores.py: orbits of which two scores choose different members, and what each one says."""

from pathlib import Path
from typing import NamedTuple

import bars
import matplotlib.pyplot as plt
from torch import Tensor

import equifast
from equifast import scores

PICTURE, DOCUMENTED = Path("pictures/scores.png"), Path(__file__).resolve().parent.parent / "docs" / "scores.png"

#: The two scores that are drawn, by color: that of a right choice, and the other one.
DRAWN = {"confidence": bars.ACCENT, "energy": bars.PALE}

#: How many orbits of each data set.
COUNT = 2


class Row(NamedTuple):
    """The members (4, C, H, W) of an orbit, their scores (4,) by name, and whether the classes are right (4,)."""

    members: Tensor
    values: dict[str, Tensor]
    right: Tensor


def rows(*parts) -> list[Row]:
    """The first orbits over C4 that energy chooses a wrong member of and confidence a right one, of each data set.

    ``parts``: images (N, C, H, W), and the `Seen` of them.
    """
    found = []
    for images, seen in parts:
        logits = seen.upright[:, ::2]
        right = seen.right[:, None].expand_as(logits).gather(2, logits.argmax(2, keepdim=True)).squeeze(2)
        values = {name: scores.NAMED[name](logits.flatten(0, 1)).view(logits.shape[:2]) for name in DRAWN}
        by = {name: right.gather(1, v.argmax(1, keepdim=True)).squeeze(1) for name, v in values.items()}
        for i in (by["confidence"] & ~by["energy"]).nonzero().flatten()[:COUNT].tolist():
            members = equifast.orbit(images[i : i + 1], "C4")
            found.append(Row(members, {name: v[i] for name, v in values.items()}, right[i]))
    return found


def draw(found: list[Row], publish: bool) -> Path:
    """Each orbit in a row. Under each member stand its scores; that of the chosen one is bold, and its frame thick."""
    with plt.rc_context(bars.STYLE):
        figure, grid = plt.subplots(len(found), 4, figsize=(8, 2.35 * len(found)), layout="constrained", squeeze=False)
        figure.get_layout_engine().set(hspace=0.14)  # texts beneath the members aren't part of the layout
        for axes, row in zip(grid, found, strict=True):
            for e, ax in enumerate(axes):
                _member(ax, row, e)
        bars.save(figure, PICTURE, dpi=90)
    if publish:
        DOCUMENTED.write_bytes(PICTURE.read_bytes())
    return PICTURE


def _member(ax, row: Row, e: int) -> None:
    pixels = row.members[e].movedim(0, -1)
    low, high = row.members.amin(), row.members.amax()
    ax.imshow(((pixels - low) / (high - low)).squeeze(-1).numpy(), cmap="gray")
    ax.set(xticks=[], yticks=[])
    chosen = [name for name, values in row.values.items() if values.argmax() == e]
    ax.spines[:].set(visible=bool(chosen), color=DRAWN[chosen[0]] if chosen else "white", linewidth=4)
    ax.set_title("class is right" if row.right[e] else "wrong", fontsize=9, color=bars.MUTED, pad=4)
    for line, (name, values) in enumerate(row.values.items()):
        weight, color = ("bold", bars.INK) if name in chosen else ("normal", bars.MUTED)
        style = {"fontsize": 9, "weight": weight, "color": color, "ha": "center", "va": "top"}
        ax.text(0.5, -0.03 - 0.11 * line, f"{name} {values[e]:.1f}", transform=ax.transAxes, **style)
