"""The picture of a search: pages as they come, scores of all their rotations, whom the search asks, what goes on."""

from pathlib import Path

import bars
import matplotlib.pyplot as plt
import torch
from torch import Tensor

import equifast


@torch.inference_mode()
def draw(path: Path, module: equifast.nn.Canonicalizer, x: Tensor) -> None:
    """A row for each image x (N, 3, H, W), RGB from 0 to 255."""
    form = module(x)
    grid = equifast.canonicalize(
        x, module.network, module.reference, group=form.group, preprocess=module.preprocess, estimator="none"
    )
    degrees = torch.arange(form.group.order) * (360 / form.group.order)
    with plt.rc_context(bars.STYLE):
        shape = {"width_ratios": [1, 3.4, 1], "wspace": 0.06, "hspace": 0.12}
        figure, axes = plt.subplots(len(x), 3, figsize=(9, 1.75 * len(x)), gridspec_kw=shape, layout="constrained")
        for row, image, canonical, scores, asked, element in zip(
            axes, x, form.image, grid.activations, form.activations, form.element.tolist(), strict=True
        ):
            for place, picture in ((row[0], image), (row[2], canonical)):
                place.imshow(picture.permute(1, 2, 0).clamp(0, 255).byte().numpy())
                place.set(xticks=[], yticks=[])
                place.spines[:].set_color(bars.FAINT)
            known = asked.isfinite()
            row[1].plot(degrees, scores, color=bars.PALE, linewidth=1.5)
            row[1].plot(degrees[known], asked[known], "o", color=bars.ACCENT, markersize=4)
            row[1].axvline(degrees[element].item(), color=bars.ACCENT, linewidth=0.8)
            row[1].set_title(f"{degrees[element].item():.1f}°", fontsize=9, color=bars.ACCENT, loc="left")
            row[1].set(xlim=(0, 360), xticks=range(0, 361, 90), yticks=[])
            row[1].tick_params(length=0, labelsize=8, colors=bars.MUTED, labelbottom=row is axes[-1])
            row[1].spines[["top", "right", "left"]].set_visible(False)
        axes[0][0].set_title("comes in", fontsize=10)
        axes[0][2].set_title("goes on", fontsize=10)
        axes[-1][1].set_xlabel("rotation: scores of all 512 (line), and the 20 that the search evaluates", fontsize=9)
        bars.save(figure, path, dpi=100)
