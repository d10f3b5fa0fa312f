"""Windows of aerial photographs around tree crowns and beside them: a label that no turn changes."""

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
import torch
from PIL import Image
from torch import Tensor

EDGE, SEEN = (
    48,
    32,
)  # pixels of a window, and of its middle, which is all that networks see: turns fill it from around it
SCALE = 2  # pixels of the photograph for one of the window: most crowns are then as wide as the middle, or smaller
CLEARANCE = 8  # pixels of the photograph between the centre of a window without a tree and the nearest crown
REACH = EDGE * SCALE * 3 // 4  # half a window with room for its diagonal
VIEWS = tuple(range(0, 360, 45))


class Windows(NamedTuple):
    """Standardized images (V, N, 3, 48, 48) at the V angles asked for; 1 where a tree is in the middle, (N,) int64."""

    images: Tensor
    labels: Tensor


def windows(pixels: Tensor, crowns: Tensor, views: Sequence[int] = VIEWS, seed: int = 0) -> Windows:
    """A window around the centre of each crown, and as many whose centre is clear of all crowns.

    ``pixels`` (3, H, W) uint8, ``crowns`` (N, 4): left, top, right, bottom. A view is the photograph turned
    counterclockwise by that many degrees before it is shrunk: what a camera turned the other way would have seen.
    Colours are standardized over the windows of the first view. The photograph is mirrored at its edges.
    """
    trees = crowns.view(-1, 2, 2).mean(1)
    centres = torch.cat([trees, clear(pixels.shape[2], pixels.shape[1], crowns, seed)]).int().tolist()
    wide = np.pad(pixels.permute(1, 2, 0).numpy(), ((REACH, REACH), (REACH, REACH), (0, 0)), mode="reflect")
    around = [Image.fromarray(wide[y : y + 2 * REACH, x : x + 2 * REACH]) for x, y in centres]
    images = torch.from_numpy(np.array([[_turned(picture, angle) for picture in around] for angle in views]))
    images = images.permute(0, 1, 4, 2, 3).float()
    deviation, mean = torch.std_mean(images[0], (0, 2, 3), keepdim=True)
    labels = torch.arange(len(centres)) < len(trees)
    return Windows((images - mean) / deviation, labels.long())


def clear(width: int, height: int, crowns: Tensor, seed: int) -> Tensor:
    """As many positions (N, 2) as there are crowns, none of them in a crown or close to one."""
    draw = torch.Generator().manual_seed(seed)
    places = torch.rand(200 * len(crowns), 1, 2, generator=draw) * torch.tensor([width, height])
    within = (places > crowns[:, :2] - CLEARANCE) & (places < crowns[:, 2:] + CLEARANCE)
    found = places[~within.all(2).any(1), 0][: len(crowns)]
    if len(found) < len(crowns):
        raise ValueError(f"crowns: expected room for {len(crowns)} windows beside them, got {len(found)}")
    return found


def together(parts: Sequence[Windows]) -> Windows:
    """The windows of several photographs."""
    return Windows(torch.cat([part.images for part in parts], 1), torch.cat([part.labels for part in parts]))


def _turned(picture: Image.Image, angle: int) -> np.ndarray:
    start, edge = REACH - EDGE * SCALE // 2, EDGE * SCALE
    turned = picture.rotate(angle, Image.Resampling.BICUBIC)
    return np.asarray(turned.crop((start, start, start + edge, start + edge)).reduce(SCALE))
