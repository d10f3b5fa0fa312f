"""A diagnosis as a picture: answers over the angles, chosen elements, and the worst images with their orbits."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import torch
from matplotlib.figure import Figure
from torch import Tensor

from .. import ops
from .findings import Findings
from .page import element_name, names

INK, MUTED, PALE, FAINT, ACCENT = "#1d2733", "#66727e", "#a3aeb8", "#e3e8ec", "#0b7a75"

#: Members of an orbit that fit side by side.
COLUMNS = 8

#: Sizes in inches: the width of the picture, the height of its upper half, the edge of a member, and its caption.
WIDTH, UPPER, EDGE, CAPTION = 11.0, 4.4, 2.0, 0.5


def draw(found: Findings, path: Path) -> None:
    """Write the picture in the format that the name of the file tells."""
    count = len(found.worst.index)
    lower = count * (min(EDGE, WIDTH / min(found.group.order, COLUMNS)) + CAPTION)
    figure = Figure(figsize=(WIDTH, UPPER + lower), layout="constrained", facecolor="white")
    halves: Any = figure.subfigures(2, 1, height_ratios=[UPPER, lower]) if count else [figure]
    grid = halves[0].add_gridspec(1, 2, width_ratios=[1, 1.25])
    _angles(halves[0].add_subplot(grid[0], projection="polar"), found)
    _chosen(halves[0].add_subplot(grid[1]), found)
    if count:
        _orbits(halves[1], found)
    path.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path, dpi=100)


def _angles(axes: Any, found: Findings) -> None:
    """Right answers over the angle of the images, or answers that stay the same where there are no labels."""
    what, n = ("right answers" if found.before.accuracy is not None else "answers that stay the same"), found.group.n
    angles = [2 * math.pi * j / n for j in range(n + 1)]
    for views, color, name in ((found.before, PALE, "the model alone"), (found.after, ACCENT, "canonicalized")):
        values = (views.accuracy or views.consistency).mean.tolist()
        for start in range(0, found.group.order, n):
            turn = values[start : start + n] + values[start : start + 1]
            style = {"linestyle": "--" if start else "-", "label": name + (", mirrored" if start else "")}
            axes.plot(angles, [100 * v for v in turn], color=color, marker="o", linewidth=2.5, **style)
    axes.set(ylim=(0, 100), yticks=[25, 50, 75, 100], theta_zero_location="N")
    axes.set_rlabel_position(180 / n)
    axes.set_xticks(angles[:-1], names(found.group)[:n])
    axes.tick_params(colors=MUTED)
    axes.grid(color=FAINT)
    axes.spines[:].set_visible(False)
    axes.set_title(f"{what}, %, by the turn", fontsize=12, weight="bold", color=INK, pad=14)
    axes.legend(frameon=False, loc="upper center", bbox_to_anchor=(0.5, -0.08), ncols=2, fontsize=9)


def _chosen(axes: Any, found: Findings) -> None:
    """Shares of the elements that are chosen for the images as they come, and over all turns of them."""
    counts, labels = found.choices.counts, names(found.group)
    pair = ((-0.2, counts[0], ACCENT, "images as they come"), (0.2, counts.sum(0), PALE, "all turns of them"))
    for offset, numbers, color, name in pair:
        shares = (100 * numbers / numbers.sum()).tolist()
        bars = axes.bar([e + offset for e in range(len(labels))], shares, 0.36, color=color, label=name)
        axes.bar_label(bars, [f"{share:.0f}" for share in shares], padding=2, fontsize=9, color=MUTED)
    axes.set_xticks(range(len(labels)), labels, rotation=0 if len(labels) <= COLUMNS else 60)
    axes.set(yticks=[], ylim=(0, 1.15 * max(ax.get_height() for ax in axes.patches)))
    axes.tick_params(length=0, colors=MUTED)
    axes.spines[:].set_visible(False)
    axes.set_title("chosen elements, %", fontsize=12, weight="bold", color=INK, loc="left")
    axes.legend(frameon=False, fontsize=9)


def _orbits(figure: Any, found: Findings) -> None:
    """One row for each of the worst images: turned by some elements, with the answers alone and canonicalized."""
    worst, group = found.worst, found.group
    step = -(-group.order // COLUMNS)
    elements = list(range(0, group.order, step))
    figure.suptitle(
        "images whose outputs a turn changes most: the model's answer alone, and canonicalized",
        fontsize=12, weight="bold", color=INK,
    )  # fmt: skip
    grid = figure.subplots(len(worst.index), len(elements), squeeze=False)
    for i, image in enumerate(worst.images):
        ids = torch.tensor(elements, device=image.device)
        members = ops.act(image.expand(len(ids), *image.shape).contiguous(), ids, group=group)
        for e, member, axes in zip(elements, members, grid[i], strict=True):
            axes.imshow(_shown(member, image), cmap="gray", vmin=0, vmax=1)
            axes.set(xticks=[], yticks=[])
            axes.spines[:].set_visible(False)
            if i == 0:
                axes.set_title(element_name(group, e), fontsize=9, color=MUTED)
            axes.set_xlabel(_caption(found, i, e), fontsize=8, color=INK)


def _caption(found: Findings, image: int, element: int) -> str:
    """What the model answers for a member, alone and canonicalized, and whether it is right."""
    worst, lines = found.worst, []
    for answers, right in ((worst.before, worst.right_before), (worst.after, worst.right_after)):
        share = right[image, element].item()
        mark = "" if share != share else " ✓" if share == 1 else " ✗" if share == 0 else f" {100 * share:.0f} %"
        lines.append((_class(found, int(answers[image, element])) if answers is not None else "map") + mark)
    return "\n→ ".join(lines)


def _class(found: Findings, number: int) -> str:
    name = str(number) if found.classes is None or number < 0 else found.classes[number]
    return name if len(name) < 18 else name[:16] + "…"


def _shown(member: Tensor, image: Tensor) -> Any:
    """Pixels between 0 and 1, (H, W, 3) or (H, W): the first three channels, or else the first one."""
    low, high = image.double().aminmax()
    scaled = (member.double() - low) / (high - low).clamp(min=1e-12)
    scaled = scaled.clamp(0, 1).nan_to_num()
    return scaled[:3].permute(1, 2, 0).numpy() if len(scaled) >= 3 else scaled[0].numpy()
