"""What CenterFace finds: its maps as vectors for a canonicalizer, the score of an orientation, boxes and landmarks."""

import math
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

STRIDE = 4  # pixels of the image for each place of the maps
CHANNELS = 15  # probability, height and width, offsets, landmarks
LEAST = 0.35  # probability of a face


class Faces(NamedTuple):
    """The faces of one image: boxes (N, 4) from edge to edge, five landmarks (N, 5, 2) as pixel positions, scores."""

    boxes: Tensor
    points: Tensor
    scores: Tensor


class Maps(nn.Module):
    """A detector whose maps are one vector for each image, as a canonicalizer takes them: (N, 3, S, S) → (N, d)."""

    def __init__(self, detector: nn.Module) -> None:
        super().__init__()
        self.detector = detector

    def forward(self, x: Tensor) -> Tensor:
        return torch.cat(self.detector(x), 1).flatten(1)


def certainty(vectors: Tensor) -> Tensor:
    """The score of an orientation: the sum of the detector's own scores. (N, d) → (N,), 0 where it finds no face."""
    return torch.stack([faces.scores.sum() for faces in decode(vectors)])


def decode(vectors: Tensor) -> list[Faces]:
    """Faces of each image, the surest first; of two that overlap by more than 0.3, the surer one."""
    return [_decode(maps) for maps in _maps(vectors)]


def overlap(a: Tensor, b: Tensor) -> Tensor:
    """Intersection over union of boxes (N, 4) and (M, 4), (N, M)."""
    low, high = torch.maximum(a[:, None, :2], b[:, :2]), torch.minimum(a[:, None, 2:], b[:, 2:])
    common = (high - low).clamp(min=0).prod(2)
    areas = [(boxes[:, 2:] - boxes[:, :2]).prod(1) for boxes in (a, b)]
    return common / (areas[0][:, None] + areas[1] - common)


def _maps(vectors: Tensor) -> Tensor:
    edge = math.isqrt(vectors.shape[1] // CHANNELS)
    return vectors.unflatten(1, (CHANNELS, edge, edge))


def _peaks(heat: Tensor) -> Tensor:
    """Probabilities (N, h, w), 0 where a neighbour's is larger or none is above `LEAST`."""
    largest = F.max_pool2d(heat, 3, stride=1, padding=1)
    return torch.where((heat == largest) & (heat > LEAST), heat, 0)


def _decode(maps: Tensor) -> Faces:
    """Places of the maps to pixels, as CenterFace defines them (arXiv 1911.03599, section 3)."""
    heat = _peaks(maps[None, 0])[0]
    y, x = heat.nonzero(as_tuple=True)
    scores, order = heat[y, x].sort(descending=True, stable=True)
    height, width, down, right, *landmarks = maps[1:, y[order], x[order]]
    size = torch.stack((width, height), 1).exp() * STRIDE
    centre = torch.stack((x[order] + right, y[order] + down), 1).add(0.5) * STRIDE
    low = centre - size / 2
    points = torch.stack((torch.stack(landmarks[1::2], 1), torch.stack(landmarks[::2], 1)), 2)
    boxes, points = torch.cat((low, low + size), 1), low[:, None] + points * size[:, None] - 0.5
    kept = _suppress(boxes)
    return Faces(boxes[kept], points[kept], scores[kept])


def _suppress(boxes: Tensor) -> list[int]:
    """Indices of boxes that overlap with no earlier one that is kept."""
    overlaps, kept = overlap(boxes, boxes) > 0.3, []
    for i in range(len(boxes)):
        if not overlaps[i, kept].any():
            kept.append(i)
    return kept
