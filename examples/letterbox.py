"""Photographs of many sizes as one batch of squares, and what is found on the squares back on the photographs."""

from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

import equifast


class Letterbox(NamedTuple):
    """Each photograph resized to fit a square and centred in it, with black beside it.

    Margins are the same on opposite sides, to the pixel. So the square of a turned photograph is the turned square, and
    a quarter turn, which no other frame than a square keeps, loses nothing.
    """

    images: Tensor  # (B, 3, S, S)
    scale: Tensor  # (B, 2), pixels of the square for each pixel of the photograph, along x and y
    margin: Tensor  # (B, 2), pixels on the left, and above

    @classmethod
    def of(cls, photographs: list[Tensor], size: int) -> "Letterbox":
        """From photographs (3, H, W) of any sizes and dtype; ``size``, even, is the edge of the squares."""
        images, scales, margins = [], [], []
        for pixels in photographs:
            height, width = pixels.shape[1:]
            inside = [2 * round(edge * size / max(height, width) / 2) for edge in (height, width)]
            top, left = ((size - edge) // 2 for edge in inside)
            x = pixels[None].float()
            x = x if inside == [height, width] else equifast.crop_resize(x, tuple(inside))
            images.append(F.pad(x, (left, left, top, top)))
            scales.append((inside[1] / width, inside[0] / height))
            margins.append((float(left), float(top)))
        return cls(torch.cat(images), torch.tensor(scales), torch.tensor(margins))

    def back(self, boxes: Tensor, points: Tensor, i: int = 0) -> tuple[Tensor, Tensor]:
        """Boxes (N, 4) from edge to edge and pixel positions (N, K, 2) on square i, in pixels of its photograph."""
        corners = (boxes.unflatten(1, (2, 2)) - self.margin[i]) / self.scale[i]
        return corners.flatten(1), (points + 0.5 - self.margin[i]) / self.scale[i] - 0.5
